"""Learn the vocabulary of visual words that an index needs, on the catalogue itself."""

import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from imgsearch.encoders.choice import Choice, with_weights
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import PictureError
from imgsearch.images.decode import Pixels
from imgsearch.images.decoded import decoded_files
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Scan, sampled
from imgsearch.images.steps import Steps
from imgsearch.images.workers import DecodeWorker
from imgsearch.index import store
from imgsearch.index.pipeline import Progress

logger = logging.getLogger(__name__)

_MOST_PICTURES = 3000


def with_vocabulary(
    choice: Choice, catalogue: Path, policy: FilePolicy, progress: Progress, *, relearn: bool = False
) -> Choice:
    """Complete an encoder that counts visual words; any other is returned as it is.

    Args:
        choice: The encoder. If the index has it already, its vocabulary is named by its weights.
        catalogue: What to learn on.
        policy: Which of its files are let in.
        progress: Told ("vocabulary", done, total).
        relearn: Learn anew though there is a vocabulary. On the same pictures it will be the same.

    Returns:
        The encoder with its vocabulary, which has been exported to the user's cache.

    Raises:
        UsageError: The catalogue has too few pictures.
    """
    for part in choice.spec.all_parts():
        if part.kind == "visual-words" and (relearn or not part.weights):
            from imgsearch.encoders.visual_words import learn_vocabulary

            steps = choice.spec.steps
            words = learn_vocabulary(_sample(catalogue, policy, part, steps, progress), words=part.dims)
            with tempfile.TemporaryDirectory(prefix="imgsearch-") as folder:
                file = Path(folder) / "vocabulary.npz"
                with file.open("wb") as stream:
                    words.save(stream)
                weights = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
                choice = replace(choice, spec=with_weights(choice.spec, part.name, weights))
                exported_encoder(choice.spec, {**choice.files, weights: file})
    return choice


def _sample(catalogue: Path, policy: FilePolicy, spec: EncoderSpec, steps: str, progress: Progress) -> Iterator[Pixels]:
    """Decode some of the pictures."""
    found = Scan(os.fspath(catalogue), leave_out=store.is_index, follow_links=policy.follow_links)
    paths = sampled(found, _MOST_PICTURES)
    logger.info("learning a vocabulary of %d visual words on %d pictures", spec.dims, len(paths))
    make = functools.partial(DecodeWorker, spec.size, spec.fit, policy, steps=Steps.parse(steps))
    decoded = decoded_files(os.fspath(catalogue), paths, policy, make, lambda worker, data: worker.decode(data)[0])
    for done, picture in enumerate(decoded, start=1):
        if not isinstance(picture, PictureError):
            yield picture
        progress("vocabulary", done, len(paths))

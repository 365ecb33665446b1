"""Learn the vocabulary of visual words that an index needs, on the catalog itself."""

import functools
import hashlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

from imgsearch.build.location import ImageSource, root_of, scan_of
from imgsearch.cache import folder_for_this_run
from imgsearch.encoders.choice import Choice, with_weights
from imgsearch.encoders.runtime import VOCABULARY_FILE, part_file
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import DamagedIndexError, ImageError
from imgsearch.images.decode import Pixels
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import sampled
from imgsearch.images.steps import Steps
from imgsearch.images.workers.decoders import DecodeWorker
from imgsearch.images.workers.pool import decoded_files
from imgsearch.progress import Progress
from imgsearch.store import integrity
from imgsearch.store.manifest import Manifest

logger = logging.getLogger(__name__)

_MAX_IMAGES = 3000


def with_vocabulary(
    choice: Choice, catalog: ImageSource, policy: FilePolicy, progress: Progress, *, relearn: bool = False
) -> Choice:
    """Complete an encoder that counts visual words, unless its weights name a vocabulary; or `relearn` it."""
    for part in choice.spec.all_parts():
        if part.kind == "visual-words" and (relearn or not part.weights):
            from imgsearch.encoders.visual_words import learn_vocabulary

            steps = choice.spec.steps
            words = learn_vocabulary(_sample(catalog, policy, part, steps, progress), words=part.dims)
            content = io.BytesIO()
            words.save(content)
            weights = f"sha256:{hashlib.sha256(content.getbuffer()).hexdigest()}"
            file = folder_for_this_run() / VOCABULARY_FILE
            file.write_bytes(content.getbuffer())
            choice = Choice(with_weights(choice.spec, part.name, weights), {**choice.files, weights: file})
    return choice


def vocabularies_of(directory: Path, manifest: Manifest) -> dict[str, Path]:
    """Find the vocabularies that an index holds, by the weights that name them in encoders."""
    found = {}
    for number, part in enumerate(manifest.encoder.all_parts()):
        if part.kind == "visual-words":
            name = part_file(number, VOCABULARY_FILE) if manifest.encoder.parts else VOCABULARY_FILE
            name = f"{manifest.encoder_folder}/{name}"
            try:
                integrity.check_content(directory, manifest, name)
            except (DamagedIndexError, FileNotFoundError) as error:
                logger.warning("%s", error)
            else:
                found[part.weights] = directory / name
    return found


def _sample(
    catalog: ImageSource, policy: FilePolicy, spec: EncoderSpec, steps: str, progress: Progress
) -> Iterator[Pixels]:
    paths = sampled(scan_of(catalog, policy), _MAX_IMAGES)
    logger.info("learning a vocabulary of %d visual words on %d images", spec.dims, len(paths))
    make = functools.partial(DecodeWorker, spec.size, spec.fit, policy, steps=Steps.parse(steps))
    decoded = decoded_files(root_of(catalog), paths, policy, make, lambda worker, data: worker.decode(data)[0])
    for done, image in enumerate(decoded, start=1):
        if not isinstance(image, ImageError):
            yield image
        progress("vocabulary", done, len(paths))

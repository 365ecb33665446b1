"""`train --objective adapt`: images without labels to an encoder that knows which differences are noise."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from imgsearch.encoders.adaptation import MOST_IMAGES, AdaptationGain, embedded_variants, learn_adaptation, measure_gain
from imgsearch.encoders.choice import Choice, choose_encoder, with_precision
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.model_file import ModelCard, save_model
from imgsearch.encoders.projection import SMALLEST_CATALOG, Projection, learn_projection
from imgsearch.encoders.runtime import best_precision, open_encoder
from imgsearch.errors import RefusedError, UsageError
from imgsearch.files import writing
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Scan, sampled
from imgsearch.progress import Progress, no_progress
from imgsearch.training.train import import_keras, require_output, silence
from imgsearch.training.workplace import Workplace


@dataclass(frozen=True, slots=True)
class AdaptReport:
    """What `adapt` did.

    Attributes:
        output: The model.
        gain: What the adaptation is worth, on variants that it was not learned from.
        seconds: Wall time.
    """

    output: Path
    gain: AdaptationGain
    seconds: float


def adapt(
    folder: Path,
    output: Path,
    *,
    architecture: str,
    weights: Path | None = None,
    policy: FilePolicy | None = None,
    progress: Progress = no_progress,
) -> AdaptReport:
    """Adapt a backbone to a folder of images that have no labels.

    Args:
        folder: The images, with folders in it or without.
        output: The model, ending in `.keras`.
        architecture: A network of the table of encoders.
        weights: File with its weights, for networks of keras.applications.
        policy: Which files are let in.
        progress: Told ("adapt", done, total).

    Raises:
        MissingComponentError: Keras, the network or its weights are missing.
        OutputError: The model cannot be written.
        RefusedError: The adaptation does not help; no model was written.
        UsageError: There are too few images, or the network is none.
    """
    started = time.monotonic()
    policy = policy or FilePolicy()
    require_output(output, folder)
    choice = choose_encoder(architecture, weights)
    if choice.spec.kind != "network":
        raise UsageError(f"expected a network to adapt, found {architecture!r}", hint="imgsearch models lists them")
    with contextlib.closing(Workplace(output)):  # one training at a time writes this model
        paths = sampled(Scan(os.fspath(folder), follow_links=policy.follow_links), MOST_IMAGES)
        spec = with_precision(choice.spec, best_precision())
        encoder = open_encoder(spec, exported_encoder(spec, choice.files))
        seen = embedded_variants(folder, paths, policy, encoder, progress)
        originals = seen[:, 0]
        adapted = learn_adaptation(originals, seen[:, :-1])
        plain = learn_projection(originals) if len(originals) >= SMALLEST_CATALOG else None
        gain = measure_gain(plain, adapted, originals, seen[:, -1])
        if not gain.helps:
            raise RefusedError(
                f"the adaptation does not help: {gain.after:.3f} of held-out variants find their own image,"
                f" {gain.before:.3f} without it; no model was written"
            )
        _write(output, choice, adapted)
    return AdaptReport(output, gain, time.monotonic() - started)


def _write(output: Path, choice: Choice, adapted: Projection) -> None:
    with silence():
        import_keras()
    import keras
    from keras import layers

    from imgsearch.encoders.networks import build_network

    spec = choice.spec
    network = build_network(spec, choice.files.get(spec.weights))
    dims = len(adapted.components)
    projection = layers.Dense(dims, name="adaptation")
    embeddings = layers.UnitNormalization(name="adapted_embeddings")(projection(network.output))
    projection.set_weights([adapted.components.T, -(adapted.components @ adapted.mean)])
    model = keras.Model(network.inputs, [embeddings], name="encoder")
    card = ModelCard(spec.size, spec.fit, "", dims, (), "adapt", spec.name)
    with writing(output.parent):
        save_model(model, output, card)

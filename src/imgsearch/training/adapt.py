"""`train --objective adapt`: from images without labels to an encoder that knows which differences are noise."""

import os
import time
from pathlib import Path

from imgsearch.encoders.adaptation import HELD_OUT, MAX_IMAGES, embedded_variants, learn_adaptation, measure_gain
from imgsearch.encoders.choice import Choice, with_precision
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.model_file import ModelCard, save_model
from imgsearch.encoders.projection import SMALLEST_CATALOG, Projection, learn_projection
from imgsearch.encoders.runtime import best_precision, open_encoder
from imgsearch.errors import GateError
from imgsearch.images.scan import Scan, sampled
from imgsearch.progress import Progress
from imgsearch.training.keras_backend import require_keras, start_keras
from imgsearch.training.options import Given, choose_network, file_policy
from imgsearch.training.report import AdaptReport
from imgsearch.training.workspace import Workspace


def adapt(folder: Path, output: Path, options: Given, progress: Progress) -> AdaptReport:
    """Adapt a backbone to a folder of images; GateError if that does not help."""
    started = time.monotonic()
    policy, choice = file_policy(options), choose_network(options)
    require_keras()
    with Workspace(output):  # one training at a time writes this model
        paths = sampled(Scan(os.fspath(folder), follow_links=policy.follow_links), MAX_IMAGES)
        spec = with_precision(choice.spec, best_precision())
        encoder = open_encoder(spec, exported_encoder(spec, choice.files))
        variants = embedded_variants(folder, paths, policy, encoder, progress)
        originals, held_out = variants[:, 0], variants[:, -HELD_OUT:]
        adapted = learn_adaptation(originals, variants[:, :-HELD_OUT])
        plain = learn_projection(originals) if len(originals) >= SMALLEST_CATALOG else None
        gain = measure_gain(plain, adapted, originals, held_out)
        if not gain.helps:
            raise GateError(
                f"the adaptation does not help: {gain.in_words()}; no model was written",
                hint=f"use --backbone {choice.spec.name} as it is",
            )
        _write(output, choice, adapted)
    seconds = {"total": time.monotonic() - started}
    return AdaptReport(output=output, gain=gain, metrics={"before": gain.before, "after": gain.after}, seconds=seconds)


def _write(output: Path, choice: Choice, adapted: Projection) -> None:
    start_keras()
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
    save_model(model, output, ModelCard(spec.size, spec.fit, "", dims, (), "adapt", spec.name))

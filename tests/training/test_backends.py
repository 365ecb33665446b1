"""The same training on another of Keras' backends, in a process of its own."""

import importlib.util
import os
import subprocess
import sys

import pytest

from imgsearch.training.losses import METRIC_LOSSES

TRAIN = """
import sys

import keras
import numpy as np

from imgsearch import train
from imgsearch.encoders.model_file import load_model

folder, output, objective, loss = sys.argv[1:5]
options = {"objective": objective, "loss": loss or None}
report = train(
    folder, output, architecture="cnn", size=32, dims=32, batch_size=18, epochs=10, validation=0.25,
    **options,
)
model = load_model(report.output)
images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
outputs = model.predict_on_batch(images)
embeddings = keras.ops.convert_to_numpy(outputs[0] if isinstance(outputs, list) else outputs)
print(keras.backend.backend(), report.metrics["val_hit"], np.abs(np.linalg.norm(embeddings, axis=-1) - 1).max())
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize("loss", ["", *(pytest.param(loss, marks=pytest.mark.slow) for loss in METRIC_LOSSES)])
def test_a_training_does_as_well_on_another_backend(shapes, tmp_path, backend, loss):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    objective = "metric" if loss else "classify"

    done = subprocess.run(
        [sys.executable, "-c", TRAIN, shapes, tmp_path / "model.keras", objective, loss],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    name, hit, error = done.stdout.split()
    assert name == backend
    assert float(hit) > 0.8
    assert float(error) < 1e-5

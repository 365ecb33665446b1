"""Start Keras late, quietly, and find out where it computes."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from imgsearch.encoders.export import KERAS_PACKAGES
from imgsearch.encoders.keras_encoder import device_name
from imgsearch.errors import MissingComponentError, require_installed
from imgsearch.processors import limit_libraries


def require_keras(*, tensorboard: bool = False) -> None:
    """Make sure that a training's libraries are installed, without importing them."""
    backend = os.environ.get("KERAS_BACKEND", "")
    required = [("keras", "training")]
    if tensorboard:
        required += [("tensorflow", "--tensorboard"), ("tensorboard", "--tensorboard")]
    if backend in ("jax", "tensorflow", "torch"):
        required.append((backend, f"KERAS_BACKEND={backend}"))
    for module, what in required:
        require_installed(module, what, KERAS_PACKAGES if module == "keras" else module)


def start_keras() -> None:
    """Import Keras and its backend, which takes seconds, when nothing is left to be done without them."""
    limit_libraries()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow leaves these kernels out on processors without AVX-512, where they halve a training's time, too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with _silence():
        try:
            device_name()  # the backend has more to say when it first computes
        except (ImportError, ValueError) as error:
            raise MissingComponentError(
                f"Keras cannot be imported: {error}", hint=f"pip install {KERAS_PACKAGES}; or look at KERAS_BACKEND"
            ) from error
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it also has advice on how Keras should call it


def jit_compile() -> bool | str:
    """Return Keras' `jit_compile` for the device."""
    import keras

    # On a processor what XLA compiles is several times slower than TensorFlow without it. JAX cannot be without.
    return False if device_name() == "cpu" and keras.backend.backend() != "jax" else "auto"


def has_fast_bfloat16(root: Path = Path("/")) -> bool:
    """Return whether convolutions on this processor take a fraction of the time in bfloat16.

    Args:
        root: Where `proc` is.
    """
    import keras

    # TensorFlow uses the matrix units (AMX); without them it would convert to float32 and back. Others were not tried.
    if keras.backend.backend() != "tensorflow":
        return False
    try:
        return "amx_bf16" in (root / "proc/cpuinfo").read_text().split()
    except OSError:  # not Linux, or a sandbox
        return False


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discard what TensorFlow writes to standard error while it starts, which no option of its own does."""
    sys.stderr.flush()
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)

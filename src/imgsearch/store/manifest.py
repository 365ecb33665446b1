"""What `manifest.json` says. docs/index-format.md is its specification."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Annotated, Any

from imgsearch._version import __version__
from imgsearch.encoders.int8 import Int8Loss
from imgsearch.encoders.projection import AdaptationGain
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.images.policy import FilePolicy
from imgsearch.records import Count, Key, Missing, as_json, matching, read
from imgsearch.store.calibration import Calibration
from imgsearch.store.learned import RankingFacts, RecommendFacts
from imgsearch.store.search_settings import BackendSettings, Measured, Numbers, SearchOptions
from imgsearch.text.prediction import PredictionGain

FORMAT = "imgsearch"
# Of an index whose vectors are float16, or whose encoder is in int8; 1 of all others, which programs of before there
# was that can read.
VERSION = 2

# A name that does as one of a folder, and a path that does not lead out of the index.
Fingerprint = Annotated[str, matching("[0-9a-f]{16}", "a fingerprint of 16 hex digits")]
_NAME = r"(?!\.\.?(/|\Z))[A-Za-z0-9_.-]+"
_FilePath = Annotated[str, matching(rf"{_NAME}(/{_NAME})*", "the path of a file of an index")]

# What a build compares with the generation before.
_METADATA = ("metadata_file", "metadata_sha256", "metadata_encoding")
_OPTIONS = ("fingerprint", "detector_fingerprint", "search", "catalog", "policy", "text", *_METADATA)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a published file must be: its size in bytes, and the sha256 of its content in hex."""

    size: Count
    sha256: str


@dataclass(frozen=True, slots=True)
class WordsFacts:
    """What items have of words."""

    columns: tuple[str, ...]  # of the shop's data, with the items' own words; empty: names of files and folders
    # What encoded them for `text.npy`, or empty: there is none.
    encoder: Annotated[str, matching("([0-9a-f]{16})?", "16 hex digits")] = ""
    own: Count = 0  # items with own words
    predicted: Count = 0  # items whose row of `text.npy` was predicted from their image
    prediction: PredictionGain | None = None  # what that is worth; None: there was nothing to learn it from, or for


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What `manifest.json` says; only the calibrations may change after a generation was published."""

    generation: Count  # counts published states, from 1
    count: Count = 0  # items, which are the rows of the arrays
    rejected: Count = 0  # files that could not be used
    damaged: Annotated[Count, Missing(0)] = 0  # items of whose image only a part could be decoded
    blank: Annotated[Count, Missing(0)] = 0  # items whose image is of one color
    ignored_profiles: Annotated[Count, Missing(0)] = 0  # items whose image has a color profile of no use
    catalog: Annotated[str, Key("catalogue")]  # absolute path of the folder of images, or the URL of all of them
    policy: Annotated[FilePolicy, Missing(FilePolicy())]
    encoder: EncoderSpec
    fingerprint: Fingerprint  # of the encoder, as computed then: a later imgsearch may decode images otherwise
    detector: Annotated[EncoderSpec | None, Missing(None)]  # contains the encoder as well
    detector_fingerprint: Annotated[str, matching("([0-9a-f]{16})?", "a fingerprint of 16 hex digits")]  # or empty
    dims: Count = 0  # length of a searched vector; 0 if there are embeddings only
    numbers: Annotated[Numbers, Missing("float32")] = "float32"  # that vectors are stored as
    projection_count: Count = 0  # how many items there were when the projection was learned; 0 for none
    # None without one; one that gained nothing is not used, and not tried again while the projection is kept.
    adaptation: Annotated[AdaptationGain | None, Missing(None)] = None
    int8: Annotated[Int8Loss | None, Missing(None)] = None  # what an encoder in int8 loses
    search: SearchOptions | None  # None if there are embeddings only (`imgsearch embed`), as `backend`
    backend: BackendSettings | None = None
    measured: Annotated[Measured | None, Missing(None)] = None
    calibration: Annotated[Calibration | None, Missing(None)] = None  # of images
    words_calibration: Annotated[Calibration | None, Missing(None)] = None  # of one text, by its meaning
    recommend: Annotated[RecommendFacts | None, Missing(None)] = None  # None: nothing was learned from events
    ranking: Annotated[RankingFacts | None, Missing(None)] = None  # None: hits are in the order of their scores
    metadata_file: str  # absolute path of the CSV file with products' data, or empty
    metadata_sha256: str  # of that file when it was read, or empty
    metadata_encoding: Annotated[str, Missing("utf-8")] = "utf-8"  # as Python names it
    text: Annotated[tuple[str, ...], Missing(())] = ()  # columns asked for by --text; empty: the default
    words: Annotated[WordsFacts | None, Missing(None)] = None  # None: the index has none
    # Every file that counts, by its path below the index directory.
    files: Mapping[_FilePath, FileRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mine, its = self.encoder, self.detector
        if its and (its.kind, its.size, its.fit, its.dims) != ("detector", mine.size, mine.fit, mine.dims):
            raise ValueError("the detector does not see what the encoder sees")

    @property
    def folder(self) -> str:
        """Name of the generation's folder."""
        return generation_folder(self.generation)

    @property
    def version(self) -> int:
        """The version of the format that this can be read as."""
        return VERSION if self.numbers == "float16" or self.encoder.precision == "int8" else 1

    @property
    def encoder_folder(self) -> str:
        """Folder of the exported encoder, below the index directory."""
        return f"encoders/{self.fingerprint}"

    @property
    def detector_folder(self) -> str:
        """Folder of the exported detector, below the index directory, if there is one."""
        return f"encoders/{self.detector_fingerprint}"

    @property
    def fingerprints(self) -> set[str]:
        """What this generation needs of the folder `encoders`."""
        return {self.fingerprint, self.detector_fingerprint} - {""}

    def has_metadata_of(self, other: "Manifest") -> bool:
        """Return whether two generations were built with the same data of the shop."""
        data = attrgetter(*_METADATA)
        return bool(data(self) == data(other))

    def has_settings_of(self, other: "Manifest") -> bool:
        """Return whether two generations were built with the same options."""
        options = attrgetter(*_OPTIONS)
        return bool(options(self) == options(other))

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as the JSON object that is stored."""
        specs = (self.encoder, self.fingerprint), (self.detector, self.detector_fingerprint)
        encoder, detector = (spec and {**spec.to_json(), "fingerprint": fingerprint} for spec, fingerprint in specs)
        data = {
            "format": FORMAT,
            "version": self.version,
            "tool": __version__,
            "metric": "cosine",
            **as_json(self),
            "encoder": encoder,
            "detector": detector,
            "metadata": {
                "file": self.metadata_file,
                "sha256": self.metadata_sha256,
                "encoding": self.metadata_encoding,
            },
            "files": {name: as_json(record) for name, record in sorted(self.files.items())},
        }
        for stored_elsewhere in (
            *("fingerprint", "detector_fingerprint"),
            *("metadata_file", "metadata_sha256", "metadata_encoding"),
        ):
            del data[stored_elsewhere]
        return {**data, "sha256": _digest(data)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Manifest":
        """Read what `to_json` wrote; keys it does not know are ignored.

        The first indexes of this version lack what is `Missing` above, `search` and `sha256`. Raises KeyError,
        TypeError, ValueError or UsageError if anything else is missing or of the wrong kind.
        """
        if ("sha256" in data or "damaged" in data) and data.get("sha256") != _digest(data):
            raise ValueError("its content has changed")
        return read(
            cls,
            {
                "search": as_json(SearchOptions()) if data["backend"] else None,
                **data,
                "fingerprint": data["encoder"]["fingerprint"],
                "detector_fingerprint": data["detector"]["fingerprint"] if data.get("detector") else "",
                "metadata_file": data["metadata"]["file"],
                "metadata_sha256": data["metadata"]["sha256"],
                "metadata_encoding": data["metadata"].get("encoding", "utf-8"),
            },
        )


def _digest(data: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest without the one that it holds."""
    rest = {key: value for key, value in data.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def generation_folder(generation: int) -> str:
    """Name the folder of a generation."""
    return f"gen-{generation:06d}"

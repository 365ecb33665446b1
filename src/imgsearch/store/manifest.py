"""What `manifest.json` says. docs/format.md is its specification."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from imgsearch._version import __version__
from imgsearch.encoders.adaptation import AdaptationGain
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.images.policy import FilePolicy
from imgsearch.store.calibration import Calibration
from imgsearch.store.plan import BackendSettings, Measured, SearchOptions
from imgsearch.validate import count_of, number_of

FORMAT = "imgsearch"
VERSION = 1


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a published file must be: its size in bytes, and the sha256 of its content in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
        generation: Counts published states, from 1.
        count: Items, which are the rows of the arrays.
        rejected: Files that could not be used.
        damaged: Items of whose image only a part could be decoded.
        catalog: Absolute path of the folder of images.
        policy: Which of its files were let in.
        encoder: What made the embeddings.
        fingerprint: Of that encoder, as it was computed then: a later imgsearch may see images otherwise.
        detector: What says where in a photo items are; None for no detector. It holds the encoder as well.
        detector_fingerprint: Of it, as `fingerprint`; empty for none.
        dims: Length of a searched vector; 0 if there are embeddings only.
        projection_count: How many items there were when the projection was learned; 0 for none.
        adaptation: What it gained to let the catalog teach the projection; None if that was not asked for. An
            adaptation that gained nothing is not used, and not tried again while the projection is kept.
        search: How the user wants it to be searched; None if there are embeddings only (`imgsearch embed`).
        backend: How candidates are found; None if there are embeddings only.
        measured: What that finds; None where it was not measured.
        calibration: What a score means; None if that was not learned. The only thing that may change after a generation
            was published.
        metadata_file: Absolute path of the CSV file with products' data, or empty.
        metadata_sha256: Of that file when it was read, or empty.
        files: Every file that counts, by its path below the index directory.
    """

    generation: int
    count: int
    rejected: int
    damaged: int
    catalog: str
    policy: FilePolicy
    encoder: EncoderSpec
    fingerprint: str
    detector: EncoderSpec | None
    detector_fingerprint: str
    dims: int
    projection_count: int
    adaptation: AdaptationGain | None
    search: SearchOptions | None
    backend: BackendSettings | None
    measured: Measured | None
    calibration: Calibration | None
    metadata_file: str
    metadata_sha256: str
    files: Mapping[str, FileRecord]

    @property
    def folder(self) -> str:
        """Name of the generation's folder."""
        return generation_folder(self.generation)

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

    def has_settings_of(self, other: "Manifest") -> bool:
        """Say whether two generations were asked for with the same words."""
        mine, theirs = (
            (
                *(one.fingerprint, one.detector_fingerprint, one.search),
                *(one.catalog, one.policy, one.metadata_file, one.metadata_sha256),
            )
            for one in (self, other)
        )
        return mine == theirs

    @property
    def is_tuned(self) -> bool:
        """Whether its search was measured; those of before that was done were not."""
        return self.backend is None or self.measured is not None or self.count < 2

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as the JSON object that is stored."""
        data = {
            "format": FORMAT,
            "version": VERSION,
            "tool": __version__,
            "metric": "cosine",
            "generation": self.generation,
            "count": self.count,
            "rejected": self.rejected,
            "damaged": self.damaged,
            "catalogue": self.catalog,
            "policy": self.policy.to_json(),
            "encoder": {**self.encoder.to_json(), "fingerprint": self.fingerprint},
            "detector": (
                {**self.detector.to_json(), "fingerprint": self.detector_fingerprint} if self.detector else None
            ),
            "dims": self.dims,
            "projection_count": self.projection_count,
            "adaptation": self.adaptation.to_json() if self.adaptation else None,
            "search": asdict(self.search) if self.search else None,
            "backend": asdict(self.backend) if self.backend else None,
            "measured": asdict(self.measured) if self.measured else None,
            "calibration": asdict(self.calibration) if self.calibration else None,
            "metadata": {"file": self.metadata_file, "sha256": self.metadata_sha256},
            "files": {name: asdict(record) for name, record in sorted(self.files.items())},
        }
        return {**data, "sha256": _digest(data)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Manifest":
        """Read what `to_json` wrote; keys it does not know are ignored.

        `damaged`, `policy`, `detector`, `adaptation`, `search`, `measured`, `calibration` and the `search_k` of the
        backend may be missing: the first indexes of this version did not have them.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: Something is missing or of the wrong kind.
        """
        backend = BackendSettings.from_json(data["backend"])
        detector = data.get("detector")
        encoder = EncoderSpec.from_json(data["encoder"])
        found = EncoderSpec.from_json(detector) if detector else None
        if found and (found.kind, found.size, found.fit, found.dims) != (
            "detector",
            *(encoder.size, encoder.fit, encoder.dims),
        ):
            raise ValueError("the detector does not see what the encoder sees")
        search = backend.as_wish() if backend else None
        if "search" in data:
            search = SearchOptions.from_json(data["search"])
        # The first indexes of this version had neither a checksum nor the count of the damaged.
        if ("sha256" in data or "damaged" in data) and data.get("sha256") != _digest(data):
            raise ValueError("its content has changed")
        return cls(
            generation=count_of(data["generation"]),
            count=count_of(data["count"]),
            rejected=count_of(data["rejected"]),
            damaged=count_of(data.get("damaged", 0)),
            policy=FilePolicy.from_json(data.get("policy", {})),
            catalog=str(data["catalogue"]),
            encoder=encoder,
            fingerprint=_fingerprint(data["encoder"]["fingerprint"]),
            detector=found,
            detector_fingerprint=_fingerprint(detector["fingerprint"]) if detector else "",
            dims=count_of(data["dims"]),
            projection_count=count_of(data["projection_count"]),
            adaptation=_gain(data.get("adaptation")),
            search=search,
            backend=backend,
            measured=Measured.from_json(data.get("measured")),
            calibration=Calibration.from_json(data.get("calibration")),
            metadata_file=str(data["metadata"]["file"]),
            metadata_sha256=str(data["metadata"]["sha256"]),
            files={
                _plain_path(name): FileRecord(count_of(record["size"]), str(record["sha256"]))
                for name, record in data["files"].items()
            },
        )


def _digest(data: Mapping[str, Any]) -> str:
    """Take the sha256 of a manifest, but for the one that it holds."""
    rest = {key: value for key, value in data.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def generation_folder(generation: int) -> str:
    """Name the folder of a generation."""
    return f"gen-{generation:06d}"


def _gain(data: Any) -> AdaptationGain | None:
    if data is None:
        return None
    return AdaptationGain(count_of(data["pictures"]), number_of(data["before"], 0, 1), number_of(data["after"], 0, 1))


def _fingerprint(value: object) -> str:
    """Refuse what would not do as the name of a folder."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{16}", value):
        raise ValueError(f"expected a fingerprint of 16 hex digits, found {value!r}")
    return value


def _plain_path(name: str) -> str:
    """Refuse a path that would lead out of the index directory."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", name) or ".." in name.split("/"):
        raise ValueError(f"not the path of a file of an index: {name!r}")
    return name

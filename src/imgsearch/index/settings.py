"""What a build works with: the user's wishes, completed by what the index was built with before."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from imgsearch.encoders.runtime import best_precision
from imgsearch.encoders.spec import DEFAULT_BACKBONE, EncoderSpec, Precision, choose_spec
from imgsearch.errors import ShrinkError, UsageError
from imgsearch.index.manifest import BackendSettings, Manifest

Location = str | os.PathLike[str]

BACKENDS = ("annoy", "exact")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user asked for; None means as the index has it, or the default for a new one.

    Attributes are the parameters of `build.build_index`.
    """

    backbone: str | None = None
    weights: Location | None = None
    precision: Precision | None = None
    backend: str | None = None
    trees: int | None = None
    seed: int | None = None
    metadata: Location | None = None


def settle_encoder(wishes: Wishes, previous: Manifest | None) -> EncoderSpec:
    """Choose the encoder: a nightly run without options keeps the one of the index.

    Args:
        wishes: Of the user.
        previous: What is published, if anything.

    Raises:
        MissingComponentError: There is no such encoder, or its weights cannot be read.
        UsageError: The wishes contradict one another.
    """
    known = previous.encoder if previous else None
    backbone = wishes.backbone or (known.name if known else DEFAULT_BACKBONE)
    same = known is not None and known.name == backbone
    weights = Path(wishes.weights) if wishes.weights else None
    spec = choose_spec(backbone, weights)
    if known and same and weights is None:
        spec = replace(spec, weights=known.weights)
    if spec.kind == "handcrafted":
        return spec
    precision = wishes.precision or (known.precision if known and same else best_precision())
    return replace(spec, precision=precision)


def settle_backend(wishes: Wishes, previous: Manifest | None) -> BackendSettings:
    """Choose the backend and its parameters.

    Args:
        wishes: Of the user.
        previous: What is published, if anything.

    Raises:
        UsageError: There is no such backend, or a parameter is out of range.
    """
    known = (previous.backend if previous else None) or BackendSettings()
    settings = BackendSettings(
        name=known.name if wishes.backend is None else wishes.backend,
        trees=known.trees if wishes.trees is None else wishes.trees,
        seed=known.seed if wishes.seed is None else wishes.seed,
    )
    if settings.name not in BACKENDS:
        raise UsageError(f"expected the backend to be one of {', '.join(BACKENDS)}, found {settings.name!r}")
    if not 1 <= settings.trees <= 10_000:
        raise UsageError(f"expected 1 to 10000 trees, found {settings.trees}")
    if not 0 <= settings.seed < 2**31:
        raise UsageError(f"expected a seed from 0 to 2147483647, found {settings.seed}")
    return settings


def settle_metadata(wishes: Wishes, previous: Manifest | None) -> Path | None:
    """Choose the file with the shop's data: the one of the index is read again by every build.

    Args:
        wishes: Of the user.
        previous: What is published, if anything.

    Raises:
        UsageError: There is no such file.
    """
    chosen = wishes.metadata or (previous.metadata_file if previous else "")
    if not chosen:
        return None
    path = Path(chosen).absolute()
    if not path.is_file():
        raise UsageError(
            f"expected a CSV file of products, found nothing: {path}",
            hint="" if wishes.metadata else "the index remembers it; give its new place with --metadata",
        )
    return path


def guard_against_shrinking(left: int, previous: Manifest) -> None:
    """Refuse a catalogue that lost more than half of its pictures: more likely its disk is not mounted.

    Args:
        left: Pictures that can be used.
        previous: What is published.

    Raises:
        ShrinkError: They are fewer than half of the published ones.
    """
    if left < previous.count / 2:
        raise ShrinkError(
            f"the catalogue has {left} usable pictures, the index has {previous.count}; nothing was changed",
            hint="is the disk mounted? If the pictures are really gone, pass --force",
        )

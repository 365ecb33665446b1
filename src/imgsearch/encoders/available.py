"""Which encoders there are, and where their weights are."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from imgsearch.encoders.choice import choose_encoder, with_precision
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import best_precision
from imgsearch.encoders.spec import DEFAULT_BACKBONE, TABLE, TableRow
from imgsearch.encoders.weights import keras_file, lite0_file
from imgsearch.errors import MissingComponentError


@dataclass(frozen=True, slots=True)
class AvailableEncoder:
    """One row of the table, on this machine.

    Attributes:
        row: Of the table.
        file: Where its weights are, or will be; None if it has none, or learns them on the catalog.
        here: Whether it can be used without a download.
        default: Whether it is used when no other is asked for.
    """

    row: TableRow
    file: Path | None
    here: bool
    default: bool


def available_encoders() -> list[AvailableEncoder]:
    """List the encoders that `--backbone` takes by name."""
    found = []
    for row in TABLE.values():
        file = keras_file(row.spec) if row.keras_file else None
        if row.spec.name == DEFAULT_BACKBONE:
            file = lite0_file()
        here = row.spec.kind != "network" or (file is not None and file.is_file())
        found.append(AvailableEncoder(row, file, here, row.spec.name == DEFAULT_BACKBONE))
    return found


def fetch_encoder(name: str) -> AvailableEncoder:
    """Have Keras download an encoder's weights now, and export it: a later build needs neither network nor Keras.

    Args:
        name: Of an encoder.

    Raises:
        MissingComponentError: There is no such encoder, or its weights cannot be had.
    """
    if name not in TABLE:
        choose_encoder(name)  # which says what there is
        raise MissingComponentError(f"{name} has nothing to fetch", hint="imgsearch models lists what has")
    if TABLE[name].spec.kind == "network":
        exported_encoder(with_precision(TABLE[name].spec, best_precision()))
    return next(encoder for encoder in available_encoders() if encoder.row.spec.name == name)


def models(fetch: Iterable[str] = ()) -> list[AvailableEncoder]:
    """List the encoders that a backbone can be, and where their weights are.

    Args:
        fetch: Names of encoders whose weights are downloaded and exported now, for builds without a network; by
            default none, and all encoders are listed.

    Raises:
        MissingComponentError: There is no such encoder, or its weights cannot be had.
    """
    return [fetch_encoder(name) for name in fetch] or available_encoders()

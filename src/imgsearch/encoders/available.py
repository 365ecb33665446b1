"""Which encoders there are, and where their weights are."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from imgsearch.encoders.choice import choose_encoder, with_precision
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import best_precision
from imgsearch.encoders.spec import DEFAULT_BACKBONE
from imgsearch.encoders.table import TABLE, TableRow
from imgsearch.encoders.weights import weights_file
from imgsearch.errors import MissingComponentError


@dataclass(frozen=True, slots=True)
class AvailableEncoder:
    """One row of the table, on this machine.

    Attributes:
        row: Of the table.
        file: Where its weights are, or will be; None if it has none, or learns them on the catalog.
        here: Whether it can be used without a download.
        default: Whether it is used when no other is named.
    """

    row: TableRow
    file: Path | None
    here: bool
    default: bool


def fetch_encoder(name: str) -> AvailableEncoder:
    """Have Keras download an encoder's weights now, and export it: a later build needs neither network nor Keras."""
    if name not in TABLE:
        choose_encoder(name)  # which says what there is
        raise MissingComponentError(f"{name} has nothing to fetch", hint="imgsearch models lists what has")
    row = TABLE[name]
    if row.spec.kind == "network":
        exported_encoder(with_precision(row.spec, best_precision()))
    return _on_this_machine(row)


def models(fetch: Iterable[str] = ()) -> list[AvailableEncoder]:
    """List the encoders that a backbone can be, and where their weights are.

    Args:
        fetch: Names of encoders whose weights are downloaded and exported now, for builds without a network; by
            default none, and all encoders are listed.

    Raises:
        MissingComponentError: There is no such encoder, or its weights cannot be had.
    """
    return [fetch_encoder(name) for name in fetch] or [_on_this_machine(row) for row in TABLE.values()]


def _on_this_machine(row: TableRow) -> AvailableEncoder:
    file = weights_file(row)
    here = row.spec.kind != "network" or (file is not None and file.is_file())
    return AvailableEncoder(row, file, here, default=row.spec.name == DEFAULT_BACKBONE)

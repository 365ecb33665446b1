"""The shop's own data about its images, from a CSV file."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

from imgsearch.errors import UsageError

Product = tuple[str, str | None, str | None, str]

# Whole and decimal numbers become numbers, so that `metadata->>'price' < 5` compares them as such. A leading
# zero means an article number, which stays text.
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,15})?")


def read_products(path: Path) -> Iterator[Product]:
    """Read a CSV file, UTF-8, with a header line and a column `path`; `UsageError` for any other.

    Yields path of the image below the catalog's root; product and category, None where the file has none; the other
    columns as a JSON object.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if "path" not in (reader.fieldnames or ()):
                raise UsageError(
                    f"expected a column called path in {path}, found {', '.join(reader.fieldnames or ()) or 'none'}"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise UsageError(f"{path}, line {reader.line_num}: not as many cells as the header has")
                image = row.pop("path").removeprefix("./")
                product, category = row.pop("product", None), row.pop("category", None)
                data = {name: _value(cell) for name, cell in row.items()}
                yield image, product or None, category or None, json.dumps(data)
    except csv.Error as error:
        raise UsageError(f"{path} is not a CSV file: {error}") from error


def _value(cell: str) -> str | float | int | None:
    if not cell:
        return None  # null compares with nothing; as text it would be more than any number
    if not _NUMBER.fullmatch(cell):
        return cell
    return float(cell) if "." in cell else int(cell)

"""Parquet files, whose values have types: rows of what JSON can hold, or refused by the column of another type."""

import datetime as dt
import decimal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.files import open_regular

# Rows that are held at once; a cell may be large.
_BATCH_ROWS = 1_000


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each row, from 1, and its values; `UsageError` for what is not such a file.

    Dates and times become text, ISO 8601, of which less than a microsecond is cut off; decimals become numbers. NaN,
    by which data frames mean that there is no value, becomes None.
    """
    pa, parquet = _import_pyarrow()
    row = 0
    try:
        with open_regular(path) as file, parquet.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            names = list(schema.names)
            if twice := [name for name in names if names.count(name) > 1]:
                raise UsageError(f"{path}: two columns have the same name: {twice[0]!r}", hint="rename one of them")
            for field in schema:
                if not _is_known(pa.types, field.type):
                    raise UsageError(
                        f"{path}: column {field.name!r} is of the type {str(field.type)[:50]}, which has no text",
                        hint="leave it out, or write it as text",
                    )
            for batch in opened.iter_batches(_BATCH_ROWS, use_threads=False):
                columns = [_values(pa, column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    row += 1
                    yield row, dict(zip(names, values, strict=True))
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        said = str(error).partition("\n")[0][:200]
        raise UsageError(f"{path} cannot be read as Parquet, after row {row}: {said}") from error


def _is_known(types: Any, type_: Any) -> bool:
    """Return whether values of a type can be written as JSON."""
    if (
        types.is_dictionary(type_)
        or types.is_list(type_)
        or types.is_large_list(type_)
        or types.is_fixed_size_list(type_)
    ):
        return _is_known(types, type_.value_type)
    if types.is_struct(type_):
        return all(_is_known(types, field.type) for field in type_)
    known = (types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_date)
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_timestamp, types.is_time)
    return any(check(type_) for check in (*known, *texts))


def _values(pa: Any, column: Any) -> list[Any]:
    types, type_ = pa.types, column.type
    if types.is_timestamp(type_):
        column = column.cast(pa.timestamp("us", type_.tz), safe=False)  # what Python has
    elif types.is_time64(type_):
        column = column.cast(pa.time64("us"), safe=False)
    values = column.to_pylist()
    is_plain = types.is_string(type_) or types.is_integer(type_) or types.is_boolean(type_)
    return values if is_plain else [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    """Return a value, and what it holds, as one of JSON."""
    if isinstance(value, dt.date | dt.time):  # a date and time is a date, too
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and value != value:  # noqa: PLR0124  # NaN
        return None
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingComponentError(
            f"Parquet files need a library that cannot be imported: {error}",
            hint="pip install 'imgsearch-toolkit[parquet]'",
        ) from error
    return pa, parquet

"""Objects in stores such as S3, by their URLs: what is to be known of them, and their bytes.

The libraries that reach a store find credentials and addresses as they always do (the environment, their own files);
none of that passes through here.
"""

import contextlib
import datetime as dt
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from imgsearch.errors import ImageError, ImgsearchError, MissingComponentError, ResourceError, ServerError
from imgsearch.images.scan import FileStatus, clamped_time
from imgsearch.system import refusal_of

# What reaches a store, by the scheme of its URLs. Nothing else is taken for a URL: fsspec knows dozens of schemes, and
# chains of them, that unpack archives, write caches and ask any server of the web.
LIBRARIES = {"s3": "s3fs", "gs": "gcsfs"}
READERS = 16  # objects that are asked for at once: a store answers late, but answers many

# The cause of an error that says nothing of the object; a build ends there.
_UNREACHABLE = "unreachable"


def is_url(path: str) -> bool:
    """Return whether a path is the URL of an object in a store."""
    scheme, mark, _ = path.partition("://")
    return bool(mark) and scheme in LIBRARIES


@functools.cache
def store_of(scheme: str) -> Any:
    """Open the store of a scheme once, for all threads; MissingComponentError without its library."""
    try:
        import fsspec

        # What was listed is not kept: a catalog has millions of objects, and they change.
        return fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False)
    except ImportError as error:
        raise MissingComponentError(
            f"{scheme}:// needs the libraries fsspec and {LIBRARIES[scheme]}, of which one is not installed",
            hint=f"pip install 'imgsearch-toolkit[urls]' {LIBRARIES[scheme]}",
        ) from error
    except Exception as error:
        raise refusal_of(error) or ServerError(f"{scheme}:// cannot be opened: {_in_a_line(error)}") from error


def read_object(url: str, max_bytes: int) -> tuple[bytes, FileStatus]:
    """Read an object as `read_file` does a file; ImageError `unreachable`, too: see `end_if_unreachable`."""
    with _answering():
        store, path = _place(url)
        for _ in range(2):
            status = _status(store.info(path))
            if status.size > max_bytes:
                raise ImageError("too_many_bytes", f"{status.size:,} bytes, more than the limit of {max_bytes:,}")
            if not status.size:
                raise ImageError("empty", "the file is empty")
            data: bytes = store.cat_file(path, start=0, end=status.size + 1)
            if len(data) == status.size:
                return data, status
    raise ImageError("changed", "changed while it was read")


def object_status(url: str) -> FileStatus:
    """Ask for size and time of an object; errors as of `read_object`."""
    with _answering():
        store, path = _place(url)
        return _status(store.info(path))


def statuses_below(url: str) -> dict[str, FileStatus]:
    """List the objects right below a URL, by name; none if that is not allowed, or there are none."""
    try:
        with _answering():
            store, path = _place(url)
            listed = store.ls(path, detail=True)
            return {each["name"].rpartition("/")[2]: _status(each) for each in listed if each["type"] == "file"}
    except ImageError as error:
        end_if_unreachable(error)
        return {}


def end_if_unreachable(error: ImageError) -> None:
    """Raise `ServerError` for an error that says nothing of the object: a build must not reject all for a network."""
    if error.cause == _UNREACHABLE:
        raise ServerError(
            error.message, hint="are network and credentials as they should be? Then try again: embeddings are kept"
        ) from error


def _place(url: str) -> tuple[Any, str]:
    scheme, _, path = url.partition("://")
    return store_of(scheme), path


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Turn what goes wrong with an object into `ImageError`; libraries of stores have errors of their own kinds."""
    try:
        yield
    except (ImageError, ResourceError):
        raise
    except FileNotFoundError:
        raise ImageError("vanished", "no such object") from None
    except PermissionError as error:
        raise ImageError("unreadable", f"cannot be read: {_in_a_line(error)}") from error
    except ImgsearchError as error:
        raise ImageError(_UNREACHABLE, error.message) from error
    except Exception as error:
        if refusal := refusal_of(error):
            raise refusal from error
        raise ImageError(_UNREACHABLE, f"the store cannot be reached: {_in_a_line(error)}") from error


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _status(info: Mapping[str, Any]) -> FileStatus:
    """Read what a store says; times in whole seconds, for S3's lists and single answers differ in what is below."""
    if info["type"] != "file":
        raise ImageError("not_regular_file", "not an object")
    time = next((info[key] for key in ("LastModified", "mtime", "created") if info.get(key) is not None), None)
    if isinstance(time, dt.datetime):
        time = (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
    if isinstance(time, int | float):
        return FileStatus(int(info["size"]), clamped_time(int(time) * 10**9))
    mark = str(time or info.get("ETag") or "")
    number = int.from_bytes(hashlib.sha256(mark.encode()).digest()[:7]) if mark else 0
    return FileStatus(int(info["size"]), number)

"""From files to bytes, whatever a name leads to; nothing is decoded here."""

import io
import os
import stat

from imgsearch.errors import ImageError, UsageError
from imgsearch.images.policy import MAX_BYTES
from imgsearch.images.scan import FileStatus, file_time
from imgsearch.images.stores import is_url, read_object
from imgsearch.system import refusal_of


def read_file(path: str, *, follow_links: bool = True, max_bytes: int = MAX_BYTES) -> tuple[bytes, FileStatus]:
    """Read a regular file, or an object by its URL: its bytes, and the status that was true of just these bytes.

    ImageError: `vanished`, `unreadable`, `not_regular_file`, `too_many_bytes`, `empty` or `changed`, twice. In a
    catalog links are not followed: what was a file when the folder was scanned may be a link out of it by now.
    """
    if not path:
        raise UsageError("expected the path of an image, found an empty one", hint="is a variable not set?")
    if is_url(path):
        return read_object(path, max_bytes)
    # O_NONBLOCK: opening a FIFO nobody writes to would otherwise wait for ever.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    for _ in range(2):
        try:
            with open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags)) as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise ImageError("not_regular_file", "not a regular file")
                if before.st_size > max_bytes:
                    raise ImageError(
                        "too_many_bytes", f"{before.st_size:,} bytes, more than the limit of {max_bytes:,}"
                    )
                data = _read_all(file, before.st_size + 1)
                after = os.fstat(file.fileno())
        except FileNotFoundError:
            raise ImageError("vanished", "no such file") from None
        except IsADirectoryError:
            raise ImageError("not_regular_file", "not a regular file") from None
        except (OSError, ValueError) as error:
            if refusal := refusal_of(error):  # the file is not at fault
                raise refusal from error
            reason = getattr(error, "strerror", None) or error
            raise ImageError("unreadable", f"cannot be read: {reason}") from error
        if len(data) == before.st_size == after.st_size and before.st_mtime_ns == after.st_mtime_ns:
            if not data:
                raise ImageError("empty", "the file is empty")
            return data, FileStatus(after.st_size, file_time(after))
    raise ImageError("changed", "changed while it was read")


def _read_all(file: io.FileIO, length: int) -> bytes:
    """Read up to so many bytes; the system gives no more than 2 GiB at a time."""
    data = file.read(length)
    while len(data) < length and (part := file.read(length - len(data))):
        data += part
    return data

"""Names of people and of their sessions, kept as keyed hashes; the key is in a file outside of the index."""

import contextlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Literal

from imgsearch.errors import OutputError, UsageError
from imgsearch.files import open_regular, sync_folder, writing
from imgsearch.system import words_of

KEY_VARIABLE = "IMGSEARCH_EVENTS_KEY"
KEY_FILE = "events.key"

KEY_BYTES = 32
_HASH_BYTES = 16


def key_path(index: Path, chosen: Path | None = None) -> Path:
    """Return where the key of an index is: `chosen`, what IMGSEARCH_EVENTS_KEY names, or in the user's settings.

    Raises:
        UsageError: It would lie inside of the index, whose copies then name people.
    """
    path = chosen or _default_path()
    # Not Path.resolve, which raises RuntimeError for links that lead round in circles: reading one says so.
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(index)):
        raise UsageError(
            f"expected the key of the names outside of the index, found {path}",
            hint=f"whoever copies the index would have it, too: let {KEY_VARIABLE} name another file",
        )
    return path


def read_key(path: Path) -> bytes | None:
    """Read a key; None if there is no such file.

    Raises:
        UsageError: The file is no key, or others may read it.
    """
    try:
        with open_regular(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(
            f"the key of the names, {path}, cannot be read: {words_of(error)}",
            hint=f"run it as the user who imports events, or let {KEY_VARIABLE} name the file",
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"the key of the names, {path}, may be read by others", hint=f"chmod 600 {path}")
    if len(key) != KEY_BYTES:
        raise UsageError(
            f"expected a key of {KEY_BYTES} bytes in {path}, found another file", hint="restore it from its backup"
        )
    return key


def make_key(path: Path) -> bytes:
    """Make a key, unless another process makes it meanwhile, and return it.

    Raises:
        OutputError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with writing(path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Whole before it has its name, and never in place of another one.
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(descriptor)
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)
    key = read_key(path)
    if key is None:
        raise OutputError(f"{path} was removed while it was made", hint="run it again")
    return key


def hashed(key: bytes, kind: Literal["user", "session", "check"], name: str) -> bytes:
    """Return the keyed hash of a name; of one name another for each kind."""
    return hmac.digest(key, f"{kind}\0{name}".encode(errors="surrogateescape"), "sha256")[:_HASH_BYTES]


def _default_path() -> Path:
    if chosen := os.environ.get(KEY_VARIABLE):
        return Path(chosen)
    import platformdirs

    folder = platformdirs.user_config_path("imgsearch")
    if not folder.is_absolute():  # "~/.config", of a user without a home
        raise UsageError(
            "there is no folder for the key of the names: this user has no home",
            hint=f"let {KEY_VARIABLE} name a file outside of the index",
        )
    return folder / KEY_FILE

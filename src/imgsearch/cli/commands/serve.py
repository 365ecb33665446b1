"""`imgsearch serve`."""

from pathlib import Path
from typing import Annotated

import typer

from imgsearch.cli import options

_LEAST_TOKEN, _MOST_TOKEN = 16, 4096  # characters


def serve(
    index: options.IndexOption = options.DEFAULT_INDEX,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address of this machine to answer at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answer only who knows the token in this file.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Answer everybody who reaches the address, without a token.")
    ] = False,
    root_path: Annotated[
        str, typer.Option(metavar="/PATH", help="Where a proxy shows the service. [default: /]", show_default=False)
    ] = "",
    model: Annotated[
        Path | None,
        typer.Option(metavar="MODEL.keras", help="A model by imgsearch train, for /recognize. [default: neighbors]"),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Let pages of this origin ask, such as https://shop.example; repeatable."),
    ] = None,
    rate_limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="Requests that a client may send a minute; 0: any number.")
    ] = 0,
    fallback: options.FallbackOption = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log the address and the path of each request.")
    ] = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Answer searches over HTTP, with a page for people.

    A new generation of the index is opened as soon as it is published. SIGTERM lets requests under way finish. Needs
    the extra serve; docs/service.md describes the API, a proxy and a systemd unit.

    Examples:

      imgsearch serve

      imgsearch serve --index /srv/shop.idx --host 0.0.0.0 --token-file /etc/imgsearch/token
    """
    import signal

    from imgsearch.cli.output import printable, say, set_up_logging
    from imgsearch.errors import MissingComponentError, UsageError
    from imgsearch.search.backends import require_fallback
    from imgsearch.store.generations import read_manifest

    set_up_logging(quiet=quiet, verbose=verbose)
    is_local = _is_loopback(host)
    if not (is_local or token_file or insecure):
        raise UsageError(
            f"other machines can reach {host}: add --token-file FILE to ask them for a token, or --insecure to answer"
            " everybody"
        )
    if token_file and insecure:
        raise UsageError("--token-file and --insecure cannot be combined")
    token = _read_token(token_file) if token_file else ""
    shown_at = _root_path(root_path)
    origins = tuple(_origin(each) for each in cors_origin or ())
    manifest = read_manifest(index)
    require_fallback(manifest.backend, falls_back=fallback is not None)
    try:
        from imgsearch.service.app import make_app
        from imgsearch.service.server import serve as library
        from imgsearch.service.settings import Settings
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "imgsearch":
            raise
        raise MissingComponentError(
            f"imgsearch serve needs {error.name}", hint="pip install 'imgsearch-toolkit[serve]'"
        ) from error
    settings = Settings(index, model, token, shown_at, origins, rate_limit, fallback, not is_local)

    def is_ready(url: str) -> None:
        if not quiet:
            say(f"serving {printable(str(index))} ({manifest.count} images) at {url}")

    ended_by = library(make_app(settings), host, port, shown_at, access_log, is_ready)
    # SIGTERM asked for what was done; after another signal a shell must know that it should stop, too.
    raise typer.Exit(0 if ended_by == signal.SIGTERM else 128 + ended_by)


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _read_token(file: Path) -> str:
    import os
    import re
    import stat

    from imgsearch.errors import UsageError
    from imgsearch.system import unreadable

    try:
        # Not to wait for somebody who writes, where it is a pipe.
        with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise UsageError(f"expected a regular file for --token-file, found none: {file}")
            if mode & stat.S_IROTH:
                raise UsageError(
                    f"expected a file that only its owner and group may read, found {file}", hint=f"chmod 600 {file}"
                )
            token = opened.read(_MOST_TOKEN + 1).strip()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"expected a regular file for --token-file, found none: {file}") from error
    except OSError as error:
        raise unreadable(file, error) from error
    if not re.fullmatch(rb"[!-~]{%d,%d}" % (_LEAST_TOKEN, _MOST_TOKEN), token):
        raise UsageError(
            f"expected {_LEAST_TOKEN} or more letters, digits and signs, and no space, in {file}, found something else",
            hint="make a token: openssl rand -hex 32",
        )
    return token.decode("ascii")


def _root_path(given: str) -> str:
    import re

    from imgsearch.errors import UsageError

    path = given.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise UsageError(f"--root-path must be the path of a URL, such as /search, got {given!r}")
    return path


def _origin(given: str) -> str:
    import re

    from imgsearch.errors import UsageError

    origin = given.lower()
    if not re.fullmatch(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?", origin):
        raise UsageError(f"--cors-origin must be an origin, such as https://shop.example, got {given!r}")
    return origin

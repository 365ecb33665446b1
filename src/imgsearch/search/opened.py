"""Files of a published generation, open, and found to be whole before they are believed."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from imgsearch.encoders.projection import Projection
from imgsearch.files import open_regular
from imgsearch.store.generations import PROJECTION
from imgsearch.store.integrity import check_content, check_opened
from imgsearch.store.manifest import Manifest


class OpenedFiles:
    """Compares whole files with their sha256, each once, in a thread; they may be swept in the meantime.

    Args:
        directory: The index.
        manifest: What is published there.
        names: Of files of its generation.

    Raises:
        OSError: One is missing, or cannot be opened.
    """

    def __init__(self, directory: Path, manifest: Manifest, names: Sequence[str]) -> None:
        self._folder = directory / manifest.folder
        self._expected = {name: manifest.files.get(f"{manifest.folder}/{name}") for name in names}
        with contextlib.ExitStack() as opened:
            self._files = {name: opened.enter_context(open_regular(self._folder / name)) for name in names}
            opened.pop_all()
        self._checker = ThreadPoolExecutor(1, "imgsearch-check")
        self._checks: dict[str, Future[None]] = {}

    def close(self) -> None:
        """Begin no more comparisons, and close the files."""
        self._checker.shutdown(cancel_futures=True)
        for file in self._files.values():
            file.close()

    def begin_checks(self, *names: str) -> None:
        """Begin to compare files, while others work: no answer leaves before that is done."""
        for name in names:
            if name not in self._checks:
                check = partial(check_opened, self._files[name], self._folder / name, self._expected[name])
                self._checks[name] = self._checker.submit(check)

    def require_whole(self, *names: str) -> None:
        """Wait until files are compared.

        Raises:
            DamagedIndexError: One was changed.
        """
        self.begin_checks(*names)
        for name in names:
            self._checks[name].result()


def open_projection(directory: Path, manifest: Manifest) -> Projection | None:
    """Read the projection of a generation; None if it has none.

    Raises:
        FileNotFoundError: It is missing.
        DamagedIndexError: It is damaged.
    """
    if not manifest.projection_count:
        return None
    name = f"{manifest.folder}/{PROJECTION}"
    check_content(directory, manifest, name)
    return Projection.load(str(directory / name), manifest.encoder.dims, manifest.dims)

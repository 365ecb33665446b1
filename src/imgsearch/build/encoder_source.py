"""Where a build gets its encoder from."""

import logging
from collections.abc import Mapping
from pathlib import Path

from imgsearch.encoders.export import exported_encoder, exported_files
from imgsearch.encoders.runtime import Encoder, open_encoder
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import DamagedIndexError
from imgsearch.store import integrity
from imgsearch.store.publishing import install_encoder
from imgsearch.store.manifest import Manifest

logger = logging.getLogger(__name__)


class EncoderSource:
    """Finds the encoder in the index, else in the cache or by export; once, and only when it is needed."""

    def __init__(
        self, directory: Path, spec: EncoderSpec, files: Mapping[str, Path], previous: Manifest | None
    ) -> None:
        self._directory = directory
        self._spec = spec
        self._files = files
        self._previous = previous
        self._found: Path | None = None

    def find(self) -> Path:
        """Return a folder with the exported encoder."""
        if self._found is None:
            self._found = self._published() or exported_encoder(self._spec, self._files)
        return self._found

    def find_new(self) -> None:
        """Do `find` for an encoder that the index does not say it holds."""
        if self._previous is None or self._spec.fingerprint not in self._previous.fingerprints:
            self.find()

    def install(self) -> Path:
        """Put the encoder into the index unless it is there, and return its folder."""
        target = self._directory / "encoders" / self._spec.fingerprint
        if self.find() != target:
            install_encoder(self._directory, self._spec.fingerprint, self.find(), exported_files(self._spec))
            self._found = target
        return target

    def open(self) -> Encoder:
        """Open the encoder."""
        return open_encoder(self._spec, self.install())

    def _published(self) -> Path | None:
        """Return the folder in the index, if it holds this encoder undamaged."""
        if self._previous is None or self._spec.fingerprint not in self._previous.fingerprints:
            return None
        folder = f"encoders/{self._spec.fingerprint}"
        try:
            for name in exported_files(self._spec):
                integrity.check_content(self._directory, self._previous, f"{folder}/{name}")
        except (DamagedIndexError, FileNotFoundError) as error:
            logger.warning("%s; taking the encoder from the cache, or exporting it again", error)
            return None
        return self._directory / folder

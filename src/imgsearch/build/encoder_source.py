"""Where a build gets its encoder from."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from imgsearch.cache import folder_for_this_run
from imgsearch.encoders.choice import with_precision
from imgsearch.encoders.export import SPEC_FILE, exported_encoder, exported_files
from imgsearch.encoders.gpu import Device, open_for_build
from imgsearch.encoders.joint_model import find_joint_model
from imgsearch.encoders.runtime import Encoder, files_of
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import DamagedIndexError
from imgsearch.store import integrity
from imgsearch.store.manifest import Manifest
from imgsearch.store.publishing import install_encoder
from imgsearch.text.byte_pairs import read_tokenizer
from imgsearch.text.tower import check_text_tower

logger = logging.getLogger(__name__)


class EncoderSource:
    """Finds an encoder in the index, else in the cache or by export; once, and only when it is needed."""

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
            self._found = self._published() or self._exported()
        return self._found

    def find_new(self) -> None:
        """Find an encoder that the index does not say it holds."""
        if self._previous is None or self._spec.fingerprint not in self._previous.fingerprints:
            self.find()

    def install(self) -> Path:
        """Put the encoder into the index unless it is there, and return its folder."""
        target = self._directory / "encoders" / self._spec.fingerprint
        if self.find() != target:
            install_encoder(self._directory, self._spec.fingerprint, self.find(), exported_files(self._spec))
            self._found = target
        return target

    def open(self, device: Device = "cpu", count: int = 0) -> Encoder:
        """Open the encoder, for about so many images; see `open_for_build`."""
        return open_for_build(self._spec, self.install(), self._files, device, count)

    def _exported(self) -> Path:
        if given := self._files.get(self._spec.text_weights):
            read_tokenizer(find_joint_model(given).tokenizer)  # so that what is wrong is said of the user's file
        folder = exported_encoder(self._spec, self._files)
        if self._spec.has_text_tower:
            check_text_tower(self._spec, folder)
        return folder

    def _published(self) -> Path | None:
        """Return a folder with the encoder of the index, if it is this one and undamaged."""
        if previous := self._previous:
            for spec, fingerprint in (
                (previous.encoder, previous.fingerprint),
                (previous.detector, previous.detector_fingerprint),
            ):
                if spec is None or _graph(spec) != _graph(self._spec):
                    continue
                folder, is_same = f"encoders/{fingerprint}", fingerprint == self._spec.fingerprint
                try:
                    for name in exported_files(spec):
                        integrity.check_content(self._directory, previous, f"{folder}/{name}")
                except (DamagedIndexError, FileNotFoundError) as error:
                    logger.warning("%s; taking the encoder from the cache, or exporting it again", error)
                else:
                    return self._directory / folder if is_same else self._copied(self._directory / folder)
        return None

    def _copied(self, folder: Path) -> Path:
        """Copy an encoder of the index that differs in nothing but what its graph is run with and fed."""
        copy = folder_for_this_run()
        for name in files_of(self._spec):
            shutil.copyfile(folder / name, copy / name)
        (copy / SPEC_FILE).write_text(json.dumps(self._spec.to_json(), indent=2) + "\n")
        return copy


def _graph(spec: EncoderSpec) -> EncoderSpec:
    """Return what decides an export: what is done to images before does not, nor does the precision, but for int8."""
    computed = spec if spec.precision == "int8" else with_precision(spec, "f32")
    return replace(computed, steps="", pixels=1)

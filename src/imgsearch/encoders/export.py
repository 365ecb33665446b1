"""Export an encoder once, so that nothing else ever needs Keras to run it.

The work is done in a process of its own: TensorFlow takes seconds and half a gigabyte to import, prints on
standard error what no option silences, and must not be in a process that starts others.
"""

import atexit
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from imgsearch.encoders.runtime import GRAPH_FILE, VOCABULARY_FILE, files_of, import_openvino, part_file
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.encoders.weights import downloaded, require_download
from imgsearch.errors import ImgsearchError, MissingComponentError, UsageError
from imgsearch.files import sha256_of, user_cache

logger = logging.getLogger(__name__)

SPEC_FILE = "spec.json"
NO_FILES: Mapping[str, Path] = MappingProxyType({})
# Of what an export holds. Raise it when it holds more, so that one of before is not taken from the cache.
_EXPORT_VERSION = 2
_CHECKSUMS_FILE = "sha256.json"  # in the cache only: an index has its manifest


def exported_files(spec: EncoderSpec) -> tuple[str, ...]:
    """Name the files of an exported encoder."""
    return (SPEC_FILE, *files_of(spec))


def exported_encoder(spec: EncoderSpec, files: Mapping[str, Path] = NO_FILES) -> Path:
    """Find an encoder in the user's cache, or export it into the cache.

    Where the cache cannot be written, as under a user without a home, the export lasts as long as this process.

    Args:
        spec: Which one.
        files: Where the weights are that `spec` names by their sha256, by that name.

    Returns:
        A folder with the files that `exported_files` names.

    Raises:
        MissingComponentError: Keras, OpenVINO or the weights are missing, or the export failed.
        UsageError: A `.keras` file is not what it should be.
    """
    name = f"{spec.fingerprint}-{_EXPORT_VERSION}"
    directory = user_cache("encoders") / name
    if _is_whole(directory, exported_files(spec)):
        return directory
    staging = _writable_folder(directory.parent)
    directory = staging.parent / name
    try:
        if spec.kind == "hybrid":
            _gather_parts(spec, files, staging)
        elif spec.kind == "visual-words":
            _copy_vocabulary(spec, files, staging)
        elif spec.kind != "handcrafted":
            _export_elsewhere(spec, files.get(spec.weights), staging)
        (staging / SPEC_FILE).write_text(json.dumps(spec.to_json(), indent=2) + "\n")
        sums = {name: sha256_of(staging / name) for name in exported_files(spec)}
        (staging / _CHECKSUMS_FILE).write_text(json.dumps(sums) + "\n")
        staging.chmod(0o755)  # a cache may be shared
        return _settled(staging, directory, exported_files(spec))
    except OSError as error:
        raise MissingComponentError(
            f"the exported encoder cannot be written to {staging.parent}: {error.strerror}",
            hint="set IMGSEARCH_CACHE to a folder with room",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copy_vocabulary(spec: EncoderSpec, files: Mapping[str, Path], staging: Path) -> None:
    if spec.weights not in files:
        raise MissingComponentError(
            "the vocabulary of visual words that the index was built with is lost",
            hint="build-index --relearn learns another and embeds all images again",
        )
    shutil.copyfile(files[spec.weights], staging / VOCABULARY_FILE)


def _gather_parts(spec: EncoderSpec, files: Mapping[str, Path], staging: Path) -> None:
    """Copy the files of the parts, each exported on its own."""
    for number, part in enumerate(spec.parts):
        if names := files_of(part.spec):
            folder = exported_encoder(part.spec, files)
            for name in names:
                shutil.copyfile(folder / name, staging / part_file(number, name))


def _settled(staging: Path, directory: Path, names: tuple[str, ...]) -> Path:
    """Give an export its place in the cache, unless another process was faster, and say where it is."""
    if not _is_whole(directory, names):
        shutil.rmtree(directory, ignore_errors=True)
        try:
            staging.rename(directory)
        except OSError:
            if not _is_whole(directory, names):  # a damaged one of another user, which we cannot remove
                return Path(shutil.move(staging, folder_for_this_run() / directory.name))
    return directory


def _is_whole(directory: Path, names: tuple[str, ...]) -> bool:
    """Say whether a cached export is what it was when it was made: a disk may have filled, or have failed."""
    try:
        sums = json.loads((directory / _CHECKSUMS_FILE).read_text())
        if all(sha256_of(directory / name) == sums[name] for name in names):
            return True
        logger.warning("%s in the cache is damaged; it is exported again", directory)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s in the cache is damaged (%s); it is exported again", directory, error)
    return False


def _writable_folder(cache: Path) -> Path:
    """Make a new folder in the cache, or elsewhere if that cannot be written."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="export-", dir=cache))
    except OSError as error:
        logger.info("%s cannot be written (%s); the encoder is exported for this run only", cache, error.strerror)
    try:
        return Path(tempfile.mkdtemp(prefix="export-", dir=folder_for_this_run()))
    except OSError as error:
        raise MissingComponentError(
            f"there is no folder to export the encoder into: {error.strerror}",
            hint="set IMGSEARCH_CACHE to a folder that can be written",
        ) from error


def folder_for_this_run() -> Path:
    """Make a folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="imgsearch-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _export_elsewhere(spec: EncoderSpec, weights: Path | None, directory: Path) -> None:
    logger.info("exporting %s (once; it is kept in %s)", spec.name, directory.parent)
    if spec.weights.startswith("keras:") and downloaded(spec) is None:
        require_download(spec)
        logger.warning("%s: its weights are not here yet; Keras downloads them, once", spec.name)
    request = json.dumps(
        {"spec": spec.to_json(), "weights": str(weights) if weights else None, "directory": str(directory)}
    )
    # -B: TensorFlow would leave bytecode of passing code behind.
    command = [sys.executable, "-B", "-P", "-m", "imgsearch.encoders.export", request]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    for kind in (MissingComponentError, UsageError):
        if done.returncode == kind.exit_code:
            error = json.loads(done.stdout)
            raise kind(error["message"], hint=error["hint"])
    if done.returncode:
        last_words = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise MissingComponentError(f"{spec.name} could not be exported (exit code {done.returncode}):\n{last_words}")


def _export_here(request: str) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    asked = json.loads(request)
    import_openvino()  # before Keras imports it with its telemetry
    try:
        from imgsearch.encoders.networks import build_network, with_map
    except ImportError as error:
        raise MissingComponentError(f"Keras cannot be imported: {error}") from error
    spec = EncoderSpec.from_json(asked["spec"])
    network = build_network(spec, Path(asked["weights"]) if asked["weights"] else None)
    if spec.kind in ("network", "model"):
        network = with_map(network)
    network.export(os.path.join(asked["directory"], GRAPH_FILE), format="openvino", verbose=False)


if __name__ == "__main__":
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras says there what it downloads; ours is for the parent
            _export_here(sys.argv[1])
    except ImgsearchError as error:
        sys.stdout.write(json.dumps({"message": error.message, "hint": error.hint}))
        sys.exit(error.exit_code)

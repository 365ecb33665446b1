"""Export an encoder once, so that nothing else ever needs Keras to run it; in a process of its own.

TensorFlow takes seconds and half a gigabyte to import, and must not be in a process that starts others.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from imgsearch.cache import cached_folder
from imgsearch.encoders.runtime import GRAPH_FILE, VOCABULARY_FILE, files_of, import_openvino, part_file
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.encoders.weights import downloaded, require_download
from imgsearch.errors import ImgsearchError, MissingComponentError, OutputError, ResourceError, UsageError
from imgsearch.files import writing
from imgsearch.processors import limit_libraries
from imgsearch.system import refusal_of

logger = logging.getLogger(__name__)

SPEC_FILE = "spec.json"
# Of what an export holds. Raise it when it holds more, so that one of before is not taken from the cache.
_EXPORT_VERSION = 2


def exported_files(spec: EncoderSpec) -> tuple[str, ...]:
    """Name the files of an exported encoder."""
    return (SPEC_FILE, *files_of(spec))


def exported_encoder(spec: EncoderSpec, files: Mapping[str, Path] | None = None) -> Path:
    """Return a folder in the user's cache with the files of `exported_files`; `files`: of weights, by their sha256."""
    name = f"{spec.fingerprint}-{_EXPORT_VERSION}"
    return cached_folder("encoders", name, exported_files(spec), lambda staging: _fill(staging, spec, files or {}))


def _fill(staging: Path, spec: EncoderSpec, files: Mapping[str, Path]) -> None:
    plain = replace(spec, precision="f32", steps="", pixels=1)
    if spec.parts:
        for number, part in enumerate(spec.parts):
            if names := files_of(part.spec):
                _copy_files(exported_encoder(part.spec, files), names, staging, part_file(number, ""))
    elif VOCABULARY_FILE in files_of(spec):
        if spec.weights not in files:
            raise MissingComponentError(
                "the vocabulary of visual words that the index was built with is lost",
                hint="build-index --relearn learns another and embeds all images again",
            )
        shutil.copyfile(files[spec.weights], staging / VOCABULARY_FILE)
    elif GRAPH_FILE in files_of(spec) and spec != plain:  # whose graph is the same
        _copy_files(exported_encoder(plain, files), files_of(spec), staging)
    elif GRAPH_FILE in files_of(spec):
        _export_elsewhere(spec, files.get(spec.weights), staging)
    (staging / SPEC_FILE).write_text(json.dumps(spec.to_json(), indent=2) + "\n")


def _copy_files(folder: Path, names: Iterable[str], staging: Path, prefix: str = "") -> None:
    for name in names:
        shutil.copyfile(folder / name, staging / f"{prefix}{name}")


def _export_elsewhere(spec: EncoderSpec, weights: Path | None, directory: Path) -> None:
    logger.info("exporting %s (once; it is kept in %s)", spec.name, directory.parent)
    if spec.weights.startswith("keras:") and downloaded(spec) is None:
        require_download(spec)
        logger.warning("%s: its weights are not here yet; Keras downloads them, once", spec.name)
    request = {"spec": spec.to_json(), "weights": str(weights) if weights else None, "directory": str(directory)}
    # -B: TensorFlow would leave bytecode of passing code behind.
    command = [sys.executable, "-B", "-P", "-m", "imgsearch.encoders.export", json.dumps(request)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    for kind in (MissingComponentError, UsageError, OutputError, ResourceError):
        if done.returncode == kind.exit_code:
            error = json.loads(done.stdout)
            raise kind(error["message"], hint=error["hint"])
    if done.returncode:
        last_words = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise refusal_of(RuntimeError(last_words)) or MissingComponentError(
            f"{spec.name} could not be exported (exit code {done.returncode}):\n{last_words}"
        )


def export_graph(spec: EncoderSpec, weights: Path | None, directory: Path) -> None:
    """Export a network in this process, which imports Keras for it."""
    openvino = import_openvino()  # before Keras imports it with its telemetry
    try:
        from imgsearch.encoders.networks import build_network, with_map
    except ImportError as error:
        raise MissingComponentError(f"Keras cannot be imported: {error}") from error
    network = build_network(spec, weights)
    if spec.kind in ("network", "model"):
        network = with_map(network)
    graph = os.fspath(directory / GRAPH_FILE)
    try:
        network.export(graph, format="openvino", verbose=False)
    except RuntimeError as error:
        if "iostream error" not in str(error):
            raise
        raise OutputError(f"cannot write to {directory}: {error}", hint="is there room?") from error
    try:
        openvino.Core().read_model(graph)  # the last bytes may be lost on a full disk without a word
    except RuntimeError as error:
        raise OutputError(f"{graph} was not written whole: {error}", hint="is there room?") from error


def _export_requested(request: str) -> None:
    limit_libraries()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    options = json.loads(request)
    weights = Path(options["weights"]) if options["weights"] else None
    directory = Path(options["directory"])
    with writing(directory):
        export_graph(EncoderSpec.from_json(options["spec"]), weights, directory)


if __name__ == "__main__":
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras says there what it downloads; ours is for the parent
            _export_requested(sys.argv[1])
    except ImgsearchError as error:
        sys.stdout.write(json.dumps({"message": error.message, "hint": error.hint}))
        sys.exit(error.exit_code)

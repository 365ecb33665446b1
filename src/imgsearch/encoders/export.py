"""Export an encoder once, so that nothing else ever needs Keras to run it.

The work is done in a process of its own: TensorFlow takes seconds and half a gigabyte to import, prints on
standard error what no option silences, and must not be in a process that starts others.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from imgsearch.encoders.runtime import GRAPH_FILE, GRAPH_WEIGHTS_FILE, import_openvino
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import ImgsearchError, MissingComponentError

logger = logging.getLogger(__name__)

SPEC_FILE = "spec.json"


def exported_files(spec: EncoderSpec) -> tuple[str, ...]:
    """Name the files of an exported encoder."""
    return (SPEC_FILE,) if spec.kind == "handcrafted" else (SPEC_FILE, GRAPH_FILE, GRAPH_WEIGHTS_FILE)


def exported_encoder(spec: EncoderSpec, weights: Path | None = None) -> Path:
    """Find an encoder in the user's cache, or export it into the cache.

    Args:
        spec: Which one.
        weights: File with its weights, where `spec` names one.

    Returns:
        A folder with the files that `exported_files` names.

    Raises:
        MissingComponentError: Keras, OpenVINO or the weights are missing, or the export failed.
    """
    directory = _cache() / spec.fingerprint
    if all((directory / name).is_file() for name in exported_files(spec)):
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix="export-", dir=directory.parent))
    except OSError as error:
        raise MissingComponentError(
            f"the cache for exported encoders cannot be written: {error}",
            hint="set IMGSEARCH_CACHE to a folder that can be written",
        ) from error
    try:
        if spec.kind == "network":
            _export_elsewhere(spec, weights, staging)
        (staging / SPEC_FILE).write_text(json.dumps(spec.to_json(), indent=2) + "\n")
        # A rename onto a folder fails if another process was faster; its files are the same as ours.
        shutil.rmtree(directory, ignore_errors=True)
        try:
            staging.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return directory


def _cache() -> Path:
    chosen = os.environ.get("IMGSEARCH_CACHE")
    if chosen:
        return Path(chosen) / "encoders"
    import platformdirs

    return platformdirs.user_cache_path("imgsearch") / "encoders"


def _export_elsewhere(spec: EncoderSpec, weights: Path | None, directory: Path) -> None:
    logger.info("exporting %s (once; it is kept in %s)", spec.name, directory.parent)
    if spec.weights.startswith("keras:"):
        logger.warning("%s: Keras downloads the weights if it does not have them yet", spec.name)
    request = json.dumps(
        {"spec": spec.to_json(), "weights": str(weights) if weights else None, "directory": str(directory)}
    )
    command = [sys.executable, "-P", "-m", "imgsearch.encoders.export", request]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == MissingComponentError.exit_code:
        error = json.loads(done.stdout)
        raise MissingComponentError(error["message"], hint=error["hint"])
    if done.returncode:
        last_words = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise MissingComponentError(f"{spec.name} could not be exported (exit code {done.returncode}):\n{last_words}")


def _export_here(request: str) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    asked = json.loads(request)
    import_openvino()  # before Keras imports it with its telemetry
    try:
        from imgsearch.encoders.networks import build_network
    except ImportError as error:
        raise MissingComponentError(f"Keras cannot be imported: {error}") from error
    spec = EncoderSpec.from_json(asked["spec"])
    network = build_network(spec, Path(asked["weights"]) if asked["weights"] else None)
    network.export(os.path.join(asked["directory"], GRAPH_FILE), format="openvino", verbose=False)


if __name__ == "__main__":
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras says there what it downloads; ours is for the parent
            _export_here(sys.argv[1])
    except ImgsearchError as error:
        sys.stdout.write(json.dumps({"message": error.message, "hint": error.hint}))
        sys.exit(error.exit_code)

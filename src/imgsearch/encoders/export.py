"""Export an encoder once, so that nothing else ever needs Keras to run it; in a process of its own.

TensorFlow takes seconds and half a gigabyte to import, and must not be in a process that starts others.
"""

import contextlib
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgsearch.cache import cached_folder
from imgsearch.encoders.int8 import quantize
from imgsearch.encoders.joint_model import export_text_tower, find_joint_model
from imgsearch.encoders.onnx_file import OnnxFile, read_onnx
from imgsearch.encoders.runtime import (
    GRAPH_FILE,
    VOCABULARY_FILE,
    files_of,
    import_openvino,
    part_file,
    require_whole,
    save_graph,
)
from imgsearch.encoders.spec import EncoderSpec, Preprocessing
from imgsearch.encoders.table import TABLE
from imgsearch.encoders.weights import downloaded, require_download
from imgsearch.errors import (
    ImgsearchError,
    MissingComponentError,
    OutputError,
    ResourceError,
    UsageError,
    require_installed,
)
from imgsearch.files import writing
from imgsearch.processors import limit_libraries
from imgsearch.records import as_json, read
from imgsearch.system import refusal_of

logger = logging.getLogger(__name__)

SPEC_FILE = "spec.json"
# What pip is to install where a network has to be exported by Keras.
KERAS_PACKAGES = "keras tensorflow"
# Of what an export holds. Raise it when it holds more, so that one of before is not taken from the cache.
_EXPORT_VERSION = 4
# Of address space, for OpenVINO, its threads, and two images in a large network; its weights come on top.
_ONNX_BYTES = 16_000_000_000
_ONNX_SECONDS = 600


def exported_files(spec: EncoderSpec) -> tuple[str, ...]:
    """Name the files of an exported encoder."""
    return (SPEC_FILE, *files_of(spec))


def exported_encoder(spec: EncoderSpec, files: Mapping[str, Path] | None = None) -> Path:
    """Return a folder in the user's cache with the files of `exported_files`; `files`: of weights, by their sha256."""
    name = f"{spec.fingerprint}-{_EXPORT_VERSION}"
    return cached_folder("encoders", name, exported_files(spec), lambda staging: _fill(staging, spec, files or {}))


def _fill(staging: Path, spec: EncoderSpec, files: Mapping[str, Path]) -> None:
    plain = replace(spec, precision="f32", quantized="", steps="", pixels=1)
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
    elif spec.precision == "int8":
        if spec.quantized not in files:
            raise MissingComponentError(
                f"the graph of {spec.name} in int8 that the index was built with is lost",
                hint="build-index --relearn calibrates another and embeds all images again",
            )
        for name in files_of(spec):
            shutil.copyfile(files[spec.quantized].with_suffix(Path(name).suffix), staging / name)
    elif GRAPH_FILE in files_of(spec) and spec != plain:  # whose graph is the same
        _copy_files(exported_encoder(plain, files), files_of(spec), staging)
    elif GRAPH_FILE in files_of(spec):
        _export_elsewhere(spec, files.get(spec.weights), staging)
        if spec.has_text_tower:
            folder = os.fspath(files[spec.text_weights])
            _run_elsewhere(spec.name, {"spec": spec.to_json(), "joint_model": folder, "directory": str(staging)})
    (staging / SPEC_FILE).write_text(json.dumps(spec.to_json(), indent=2) + "\n")


def _copy_files(folder: Path, names: Iterable[str], staging: Path, prefix: str = "") -> None:
    for name in names:
        shutil.copyfile(folder / name, staging / f"{prefix}{name}")


def _export_elsewhere(spec: EncoderSpec, weights: Path | None, directory: Path) -> None:
    if spec.kind != "onnx" and not _is_lite0(spec):
        require_installed("keras", spec.name, KERAS_PACKAGES)
    logger.info("exporting %s (once; it is kept in %s)", spec.name, directory.parent)
    if spec.weights.startswith("keras:") and downloaded(spec) is None:
        require_download(spec)
        logger.warning("%s: its weights are not here yet; Keras downloads them, once", spec.name)
    request = {"spec": spec.to_json(), "weights": str(weights) if weights else None, "directory": str(directory)}
    _run_elsewhere(spec.name, request)


def quantized_graph(spec: EncoderSpec, graph: Path, images: Path, target: Path) -> None:
    """Write the graph of a network in int8, in a process of its own; see `int8.quantize`."""
    paths = {"graph": os.fspath(graph), "images": os.fspath(images), "target": os.fspath(target)}
    _run_elsewhere(spec.name, {**paths, "size": spec.size})


def onnx_dims(file: OnnxFile, preprocessing: Preprocessing) -> int:
    """Run an ONNX network once, in a process of its own, and return the length of its embeddings.

    Raises:
        UsageError: It cannot be run, or it is no encoder of images.
        ResourceError: It needs more memory than there is, or than an encoder may.
    """
    request = {"path": os.fspath(file.path), "preprocessing": as_json(preprocessing)}
    try:
        return int(json.loads(_run_elsewhere(file.path.name, request, _ONNX_SECONDS)))
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{file.path} has not embedded two images in {_ONNX_SECONDS} seconds") from error


def _run_elsewhere(name: str, request: Mapping[str, Any], timeout: float | None = None) -> str:
    """Do what is requested for an encoder in a process of its own, and return what that has to say."""
    # -B: TensorFlow would leave bytecode of passing code behind.
    command = [sys.executable, "-B", "-P", "-m", "imgsearch.encoders.export", json.dumps(request)]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout,
    )
    for kind in (MissingComponentError, UsageError, OutputError, ResourceError):
        if done.returncode == kind.exit_code:
            error = json.loads(done.stdout)
            raise kind(error["message"], hint=error["hint"])
    if done.returncode:
        last_words = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise refusal_of(RuntimeError(last_words)) or MissingComponentError(
            f"{name} could not be exported (exit code {done.returncode}):\n{last_words}"
        )
    return done.stdout


def export_graph(spec: EncoderSpec, weights: Path | None, directory: Path) -> None:
    """Export a network in this process; Keras is imported for it unless it is one of ONNX or of EfficientNet-Lite0."""
    import_openvino()  # before Keras imports it with its telemetry
    graph = directory / GRAPH_FILE
    if spec.kind == "onnx":
        _export_onnx(spec, weights, graph)
    elif _is_lite0(spec):
        from imgsearch.encoders.lite0_graph import build_graph

        save_graph(build_graph(spec, head=TABLE[spec.name].head), graph)
    else:
        _export_keras(spec, weights, graph)


def _is_lite0(spec: EncoderSpec) -> bool:
    row = TABLE.get(spec.name)
    return row is not None and row.application is None and (spec.kind, spec.weights) == ("network", row.spec.weights)


def _export_onnx(spec: EncoderSpec, weights: Path | None, graph: Path) -> None:
    from imgsearch.encoders.onnx_graph import export_onnx

    if weights is None:
        raise MissingComponentError(
            f"the copy of {spec.name} that the index had is lost", hint="give the file again with --backbone"
        )
    file = read_onnx(weights)
    if spec.weights != f"sha256:{file.sha256}":
        raise UsageError(f"{weights} has changed since it was read", hint="run it again")
    export_onnx(file, spec, graph)


def _export_keras(spec: EncoderSpec, weights: Path | None, graph: Path) -> None:
    try:
        from imgsearch.encoders.networks import build_network, with_map
    except ImportError as error:
        raise MissingComponentError(
            f"{spec.name} needs Keras, which cannot be imported: {error}", hint=f"pip install {KERAS_PACKAGES}"
        ) from error
    network = build_network(spec, weights)
    if spec.kind in ("network", "model"):
        network = with_map(network)
    try:
        network.export(os.fspath(graph), format="openvino", verbose=False)
    except RuntimeError as error:
        if "iostream error" not in str(error):
            raise
        raise OutputError(f"cannot write to {graph.parent}: {error}", hint="is there room?") from error
    require_whole(graph)


def _do_requested(options: Mapping[str, Any]) -> str:
    limit_libraries()
    if "path" in options:
        return _measure(read_onnx(Path(options["path"])), read(Preprocessing, options["preprocessing"]))
    if "images" in options:
        graph, images, target = (Path(options[name]) for name in ("graph", "images", "target"))
        with writing(target.parent):
            quantize(graph, images, options["size"], target)
        return ""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    spec, directory = EncoderSpec.from_json(options["spec"]), Path(options["directory"])
    with writing(directory):
        if "joint_model" in options:
            export_text_tower(find_joint_model(Path(options["joint_model"])), spec, directory)
        else:
            export_graph(spec, Path(options["weights"]) if options["weights"] else None, directory)
    return ""


def _measure(file: OnnxFile, preprocessing: Preprocessing) -> str:
    """Run an ONNX network, which may ask for any amount of memory, within limits."""
    from imgsearch.encoders.onnx_graph import measured_dims

    limit = _ONNX_BYTES + 4 * file.size
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
    return json.dumps(measured_dims(file, preprocessing))


if __name__ == "__main__":
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras says there what it downloads; ours is for the parent
            answer = _do_requested(json.loads(sys.argv[1]))
        sys.stdout.write(answer)
    except ImgsearchError as error:
        sys.stdout.write(json.dumps({"message": error.message, "hint": error.hint}))
        sys.exit(error.exit_code)

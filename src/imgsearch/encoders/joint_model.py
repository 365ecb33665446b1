"""A joint image-text model in a folder, as exports of CLIP are laid out: a network each for images and for texts."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgsearch.encoders.onnx_file import read_onnx
from imgsearch.encoders.runtime import TEXT_GRAPH_FILE, TOKENIZER_FILE, import_openvino, last_line, save_graph
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.files import open_regular, sha256_of
from imgsearch.system import refusal_of, words_of

# What exporters call the output that is an embedding, where there are several; the first that is there is taken.
_EMBEDDINGS = ("text_embeds", "text_embeddings", "text_features", "embeddings", "embedding", "pooler_output")


@dataclass(frozen=True, slots=True)
class JointModel:
    """Where the files of a joint model are."""

    vision: Path
    text: Path
    tokenizer: Path

    @property
    def text_weights(self) -> str:
        """`sha256:...` of all that decides which vector a text gets; the network is checked on the way."""
        try:
            tokenizer = sha256_of(self.tokenizer)
        except OSError as error:
            raise MissingComponentError(f"{self.tokenizer} cannot be read: {words_of(error)}") from error
        return f"sha256:{hashlib.sha256(f'{read_onnx(self.text).sha256} {tokenizer}'.encode()).hexdigest()}"


def find_joint_model(folder: Path) -> JointModel:
    """Find the files of a joint model, `MissingComponentError` if one is not there."""
    files = [_network_of(folder, "vision_model.onnx"), _network_of(folder, "text_model.onnx"), folder / TOKENIZER_FILE]
    if missing := [file for file in files if not os.path.isfile(file)]:
        raise MissingComponentError(
            f"expected a model of images and texts in {folder}, found no {missing[0].relative_to(folder)}",
            hint="it has onnx/vision_model.onnx, onnx/text_model.onnx, tokenizer.json and preprocessor_config.json;"
            " a network for images alone is given as its FILE.onnx",
        )
    return JointModel(*files)


def _network_of(folder: Path, name: str) -> Path:
    return next(
        (file for file in (folder / "onnx" / name, folder / name) if os.path.isfile(file)), folder / "onnx" / name
    )


def export_text_tower(model: JointModel, spec: EncoderSpec, directory: Path) -> None:
    """Write the network for texts in OpenVINO's format, and the tokenizer as it is.

    OpenVINO's reader may crash on a hostile file: this is for a process of its own.

    Raises:
        UsageError: It does not give embeddings of as many numbers as the encoder of images does.
    """
    if model.text_weights != spec.text_weights:
        raise UsageError(f"{model.text} or {model.tokenizer} has changed since it was read", hint="run it again")
    openvino = import_openvino()
    try:
        network = openvino.Core().read_model(model.text)
        output = _embedding(network)
        found = "none" if output is None else output.get_partial_shape().to_string()
        if output is None or output.get_partial_shape()[1] != spec.dims:
            raise UsageError(
                f"expected an embedding of texts of {spec.dims} numbers, as of images, found {found}: {model.text}",
                hint="are both of one model, and exported with their projections (text_embeds and image_embeds)?",
            )
        output = openvino.opset13.convert(output, "f32").output(0)
        network = openvino.Model([openvino.opset13.result(output)], network.get_parameters(), "text")
    except (RuntimeError, UnicodeDecodeError) as error:  # the latter of a message that quotes the file
        raise refusal_of(error) or UsageError(f"OpenVINO cannot read {model.text}: {last_line(error)}") from error
    save_graph(network, directory / TEXT_GRAPH_FILE)
    with open_regular(model.tokenizer) as source, (directory / TOKENIZER_FILE).open("wb") as copy:
        shutil.copyfileobj(source, copy)


def _embedding(network: Any) -> Any:
    """Return the output that is an embedding, (N, dims): by its name, else the only one of that shape."""
    outputs = [(output.get_names(), output.get_node().input_value(0)) for output in network.outputs]
    flat = [(names, each) for names, each in outputs if each.get_partial_shape().rank == 2]
    named = [each for name in _EMBEDDINGS for names, each in flat if name in names]
    return next(iter(named), flat[0][1] if len(flat) == 1 else None)

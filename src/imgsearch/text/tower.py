"""The text tower of a joint image-text model: text to vectors in the space of its images' embeddings."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imgsearch.encoders.runtime import (
    OPENED,
    TEXT_GRAPH_FILE,
    TOKENIZER_FILE,
    Embeddings,
    compile_graph,
    import_openvino,
    last_line,
    read_graph,
    unit_rows,
)
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import DamagedIndexError, UsageError
from imgsearch.processors import processor_count
from imgsearch.system import refusal_of
from imgsearch.text.byte_pairs import SHORTEST, read_tokenizer

_IDS, _MASK, _PLACES = "input_ids", "attention_mask", "position_ids"
# Operators that leave token ids what they are.
_KEEPS_IDS = {"Convert", "Reshape", "Unsqueeze", "Squeeze", "Add", "Select"}


class TextTower:
    """A tokenizer and a graph; threads may share it."""

    def __init__(self, spec: EncoderSpec, directory: Path) -> None:
        self._spec = spec
        graph = directory / TEXT_GRAPH_FILE
        tokenizer = read_tokenizer(directory / TOKENIZER_FILE)
        openvino = import_openvino()
        core = openvino.Core()
        model = read_graph(core, graph)
        self._inputs = {port.get_any_name(): port.get_element_type().to_dtype() for port in model.inputs}
        shapes = [port.get_partial_shape() for port in model.inputs]
        is_known = {_IDS} <= self._inputs.keys() <= {_IDS, _MASK, _PLACES} and all(shape.rank == 2 for shape in shapes)
        side = model.input(_IDS).get_partial_shape()[1] if is_known else None
        length = side.get_length() if side is not None and side.is_static else tokenizer.length
        if not (is_known and length >= SHORTEST and np.issubdtype(self._inputs[_IDS], np.integer)):
            found = ", ".join(f"{port.get_any_name()} {port.get_partial_shape()}" for port in model.inputs)
            raise UsageError(
                f"expected a text tower that takes {_IDS} (N, length), and with them at most {_MASK} and {_PLACES},"
                f" found one of {spec.name} that takes {found}"
            )
        self._tokenizer = replace(tokenizer, length=min(length, tokenizer.length))
        # All texts are filled up to one length, as the networks were trained: not all of them know where a text ends.
        self._length = length
        try:
            model.reshape({name: [1, length] for name in self._inputs})
        except RuntimeError as error:
            raise refusal_of(error) or UsageError(
                f"the text tower of {spec.name} does not take {length} tokens, to which its tokenizer fills up texts:"
                f" {last_line(error)}"
            ) from error
        if model.output(0).get_partial_shape() != openvino.PartialShape([1, spec.dims]):
            raise DamagedIndexError(f"the text tower in {directory} does not give {spec.dims} numbers")
        rows = _rows_of_table(model)
        if rows is not None and tokenizer.largest >= rows:
            raise UsageError(
                f"the text tower of {spec.name} knows {rows:,} tokens, its tokenizer ids up to {tokenizer.largest:,}",
                hint="are they of one model?",
            )
        # Whatever images are encoded in: to bring the weights to bf16 takes longer than it saves for a few texts.
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if processor_count() < (os.cpu_count() or 1):
            settings["INFERENCE_NUM_THREADS"] = str(processor_count())
        self._model = compile_graph(core, model, settings, spec.name)
        OPENED.add(self)

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Encode texts to unit rows, float32 (n, dims), in the space of the encoder's embeddings.

        Raises:
            UsageError: It cannot be run, or has nothing to say of a text, whose vector is zero or infinite.
        """
        request = self._model.create_infer_request()
        rows = np.empty((len(texts), self._spec.dims), np.float32)
        for row, text in zip(rows, texts, strict=True):
            try:
                request.infer(self._fed(self._tokenizer.encode(text)))
            except RuntimeError as error:
                raise refusal_of(error) or UsageError(
                    f"the text tower of {self._spec.name} cannot be run: {last_line(error)}"
                ) from error
            row[:] = request.get_output_tensor(0).data[0]
        found = unit_rows(rows)
        if np.isnan(found).any():
            raise UsageError(f"the text tower of {self._spec.name} gives nothing that has a direction for a text")
        return found

    def _fed(self, ids: list[int]) -> dict[str, Any]:
        spare = self._length - len(ids)
        values = {
            _IDS: [*ids, *[self._tokenizer.padding] * spare],
            _MASK: [1] * len(ids) + [0] * spare,
            _PLACES: range(self._length),
        }
        return {name: np.array([values[name]], kind) for name, kind in self._inputs.items()}


def open_text_tower(spec: EncoderSpec, directory: Path) -> TextTower:
    """Open the text tower of an exported joint model whose files were checked; `spec.has_text_tower` says of which.

    Raises:
        UsageError: Tokenizer and text tower do not fit one another, or are not of a layout that is known.
        DamagedIndexError: The graph is damaged.
    """
    return TextTower(spec, directory)


def check_text_tower(spec: EncoderSpec, directory: Path) -> None:
    """Open a text tower and encode a text, so that what is wrong with it is found before any long work."""
    open_text_tower(spec, directory).encode(["a"])


def _rows_of_table(model: Any) -> int | None:
    """Return of how many tokens a graph has vectors; None if it does not look them up in a table."""
    reached = {model.input(_IDS)}
    for operator in model.get_ordered_ops():
        sources = [port.get_source_output() for port in operator.inputs()]
        if operator.get_type_name() == "Gather" and sources[1] in reached:
            side = sources[0].get_partial_shape()[0]
            return side.get_length() if side.is_static else None
        if operator.get_type_name() in _KEEPS_IDS and sources and sources[0] in reached:
            reached.update(operator.outputs())
    return None

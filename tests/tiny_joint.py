"""A tiny joint image-text model in the layout of exported ones: its words are those of colors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_SEEN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_LETTERS = [chr(byte) for byte in _SEEN] + [chr(256 + place) for place in range(256 - len(_SEEN))]
_MERGES = [
    "r e",
    "e d</w>",
    "b l",
    "u e</w>",
    "l e",
    "re d</w>",
    "r ed</w>",
    "bl u",
    "blu e</w>",
    "bl ue</w>",
    "' s</w>",
]
_MERGED = ["re", "ed</w>", "bl", "ue</w>", "le", "red</w>", "blu", "blue</w>", "'s</w>"]
_TOKENS = [*_LETTERS, *(letter + "</w>" for letter in _LETTERS), *_MERGED, "<|startoftext|>", "<|endoftext|>"]
VOCABULARY = {token: number for number, token in enumerate(_TOKENS)}
START, END = VOCABULARY["<|startoftext|>"], VOCABULARY["<|endoftext|>"]
LENGTH = 16

# As CLIP's `tokenizer.json` has it, but for its own few merges.
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": {"direction": "Right", "max_length": LENGTH, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_id": END, "pad_token": "<|endoftext|>"},
    "added_tokens": [{"id": START, "content": "<|startoftext|>"}, {"id": END, "content": "<|endoftext|>"}],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"},
                "behavior": "Removed",
                "invert": True,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        ],
    },
    "post_processor": {
        "type": "RobertaProcessing",
        "sep": ["<|endoftext|>", END],
        "cls": ["<|startoftext|>", START],
        "trim_offsets": False,
        "add_prefix_space": False,
    },
    "decoder": {"type": "ByteLevel"},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<|endoftext|>",
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "</w>",
        "fuse_unk": False,
        "vocab": VOCABULARY,
        "merges": _MERGES,
    },
}

SIDE = 16
PREPROCESSOR = {
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def write_joint(folder: Path, *, dims: int = 3, tokens: int = len(VOCABULARY), length: int | str = "length") -> Path:
    """Write a joint model in whose space red and blue images lie where the words do.

    Args:
        folder: Is made, with a folder `onnx` in it.
        dims: Numbers of a text's embedding; of an image's there are three.
        tokens: Rows of the table of tokens.
        length: How many tokens the part for texts takes, if that is not to be any number.
    """
    networks = folder / "onnx"
    networks.mkdir(parents=True)
    pixels = value("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    mean = helper.make_node("ReduceMean", ["pixel_values", "axes"], ["image_embeds"], keepdims=0)
    save(
        [mean],
        [pixels],
        [value("image_embeds", TensorProto.FLOAT, ["batch", 3])],
        [axes],
        networks / "vision_model.onnx",
    )

    table = np.zeros((tokens, dims), np.float32)
    for word, color in {"red</w>": (1, -1, -1), "blue</w>": (-1, -1, 1), "<|startoftext|>": (0.01,) * 3}.items():
        if VOCABULARY[word] < tokens:
            table[VOCABULARY[word], :3] = color[:dims]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["found"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["found", "weights"], ["last_hidden_state"]),
        helper.make_node("ReduceSum", ["last_hidden_state", "places"], ["text_embeds"], keepdims=0),
    ]
    ids = [value(name, TensorProto.INT64, ["batch", length]) for name in ("input_ids", "attention_mask")]
    outputs = [
        value("last_hidden_state", TensorProto.FLOAT, ["batch", length, dims]),
        value("text_embeds", TensorProto.FLOAT, ["batch", dims]),
    ]
    constants = {"table": table, "last": np.array([2]), "places": np.array([1])}
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    save(nodes, ids, outputs, weights, networks / "text_model.onnx")

    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def value(name: str, kind: int, shape: list[int | str]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def save(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any], file: Path) -> None:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)

"""Stands for the process of Keras on a GPU: `python here_gpu.py MODE REQUEST` answers as `keras_encoder` says.

MODE: `right` encodes, by OpenVINO and the file of the request; `cpu` says that it has no GPU; the others fail.
"""

import json
import os
import signal
import struct
import sys

import numpy as np

mode, request = sys.argv[1], json.loads(sys.argv[2])
signal.signal(signal.SIGINT, signal.SIG_IGN)


def answer(status: int, data: bytes) -> None:
    os.write(1, struct.pack("<BI", status, len(data)) + data)


def encoded(images):
    if mode not in ("right", "dies later"):
        return np.ones((len(images), request["spec"]["dims"]), np.float32)
    from imgsearch.encoders.export import exported_encoder
    from imgsearch.encoders.runtime import encode, open_encoder
    from imgsearch.encoders.spec import EncoderSpec

    spec = EncoderSpec.from_json(request["spec"])
    return encode(open_encoder(spec, exported_encoder(spec)), images)


if mode == "missing":
    answer(1, b"No module named 'keras'")
elif mode == "silent":
    signal.pause()
elif mode == "crashes":
    sys.exit("warming up\nlibcuda.so.1: cannot open shared object file")
else:
    answer(0, b"cpu" if mode == "cpu" else b"gpu:0")
side = request["spec"]["size"]
batches = 0
while header := sys.stdin.buffer.read(4):
    (count,) = struct.unpack("<I", header)
    pixels = np.frombuffer(sys.stdin.buffer.read(count * side * side * 3), np.uint8)
    batches += 1
    if mode == "dies later" and batches == 2:
        sys.exit("CUDA_ERROR_ECC_UNCORRECTABLE")
    if mode == "stops later" and batches == 2:
        signal.pause()
    rows = encoded(pixels.reshape(count, side, side, 3))
    answer(0, rows[:-1].tobytes() if mode == "too few" else rows.tobytes())

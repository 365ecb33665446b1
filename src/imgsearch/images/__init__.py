"""From files to pixels."""

import os
from typing import Literal

from imgsearch.processors import processor_count

# How an image is brought to a square: padded, its middle, or stretched.
Fit = Literal["pad", "crop", "stretch"]

# Part of every encoder's fingerprint. Raise it when the same file would give other pixels (decoder choices,
# fitting), so that no index mixes vectors of two ways of seeing.
PIXELS_VERSION = 2

# Read by OpenCV when it is imported, so it stands where every import of our decoder passes. Without the limit a
# GIF of 49 bytes asks for 6.8 GB; with it, OpenCV raises a clean error. The number is Pillow's.
MAX_PIXELS = 178_956_970
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
# OpenCV knows no quota but the outermost, nor OMP_NUM_THREADS.
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", str(processor_count()))
# What OpenCV has to say about a bad file reaches the user as the cause of its rejection.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

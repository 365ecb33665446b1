"""The encoders that `--backbone` takes by name, one row each; plain data only, so that listing them loads nothing."""

from dataclasses import dataclass
from typing import Literal

from imgsearch.encoders.spec import DEFAULT_BACKBONE, EncoderSpec

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

RETRIEVAL_HEAD_SHA256 = "f2eb20626973bb1647b41110514dfc20781ddd7f2c4a9213876acb9469d1008f"

# Of generalized-mean pooling. 3 is where Radenovic et al. start, and 3 to 6 measured alike here; the floor keeps the
# root's slope finite at zero.
GEM_EXPONENT = 3.0
GEM_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Application:
    """How an encoder is made of a network of keras.applications."""

    builder: str  # its name there
    keras_file: str  # what Keras calls the file of its weights
    layer: str = ""  # whose output is pooled; empty for the last one
    preprocessing: Literal["", "caffe"] = ""  # caffe: BGR, less ImageNet's mean; empty: the network scales images
    pooling: Literal["gem", "mean"] = "gem"  # the mean is for features that may be negative


@dataclass(frozen=True, slots=True)
class TableRow:
    """One encoder of the table."""

    spec: EncoderSpec  # with its usual weights
    about: str  # one line for `imgsearch models`
    license: str = ""  # of the weights
    megabytes: int = 0  # of the file of weights; 0 for none
    blocks: int = 0  # of layers that `train --unfreeze` can tune; `training.networks` knows them by their names
    application: Application | None = None  # of a network: None for EfficientNet-Lite0
    head: bool = False  # whether that has the head for retrieval
    describe: str = ""  # if hand-crafted, "module:function": uint8 (size, size, 3) to unit float32 (dims,)


def _network(name: str, dims: int, digest: str) -> EncoderSpec:
    """Describe an encoder of keras.applications; `digest` is the one that Keras checks its file with."""
    return EncoderSpec(name, "network", 224, "pad", dims, f"keras:{name}-imagenet-notop:{digest}")


def _handcrafted(name: str, dims: int, about: str, function: str, version: int = 2) -> TableRow:
    spec = EncoderSpec(name, "handcrafted", 128, "pad", dims, "", version=version)
    return TableRow(spec, about, describe=f"imgsearch.encoders.handcrafted:{function}")


_ROWS = (
    TableRow(
        EncoderSpec(DEFAULT_BACKBONE, "network", 224, "pad", 512, f"sha256:{RETRIEVAL_HEAD_SHA256}"),
        "EfficientNet-Lite0 with a head for retrieval; its weights are installed with imgsearch",
        license="Apache-2.0",
        megabytes=21,
        blocks=16,
        head=True,
    ),
    TableRow(
        EncoderSpec("efficientnet-lite0", "network", 224, "pad", 1280, f"sha256:{LITE0_SHA256}"),
        "EfficientNet-Lite0 by itself: the default before, and to put a trained head on",
        license="Apache-2.0",
        megabytes=17,
        blocks=16,
    ),
    TableRow(
        _network("vgg16", 512, "6d6bbae143d832006294945121d1f1fc"),
        "VGG16, pooled over its last convolution",
        license="CC-BY-4.0",
        megabytes=59,
        blocks=5,
        application=Application(
            "VGG16", "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "block5_conv3", preprocessing="caffe"
        ),
    ),
    TableRow(
        _network("vgg19", 512, "253f8cb515780f3b799900260a226db6"),
        "VGG19, pooled over its last convolution",
        license="CC-BY-4.0",
        megabytes=80,
        blocks=5,
        application=Application(
            "VGG19", "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", "block5_conv4", preprocessing="caffe"
        ),
    ),
    TableRow(
        _network("resnet50", 2048, "4d473c1dd8becc155b73f8504c6f6626"),
        "ResNet-50",
        license="MIT",
        megabytes=95,
        blocks=16,
        application=Application(
            "ResNet50", "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", preprocessing="caffe"
        ),
    ),
    TableRow(
        _network("mobilenet_v3_large", 960, "07fb09a5933dd0c8eaafa16978110389"),
        "MobileNetV3-Large",
        license="Apache-2.0",
        megabytes=13,
        blocks=15,
        application=Application("MobileNetV3Large", "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5"),
    ),
    TableRow(
        _network("efficientnetv2-b0", 1280, "893217f2bb855e2983157299931e43ff"),
        "EfficientNetV2-B0",
        license="Apache-2.0",
        megabytes=24,
        blocks=21,
        application=Application("EfficientNetV2B0", "efficientnetv2-b0_notop.h5"),
    ),
    TableRow(
        _network("convnext_tiny", 768, "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"),
        "ConvNeXt-Tiny",
        license="MIT",
        megabytes=111,
        blocks=18,
        application=Application("ConvNeXtTiny", "convnext_tiny_notop.h5", pooling="mean"),
    ),
    _handcrafted(
        "handcrafted", 1543, "color, texture and shape, without a network: for plain goods and drawings", "describe_all"
    ),
    _handcrafted("handcrafted:color", 360, "its colors alone", "describe_color"),
    _handcrafted("handcrafted:texture", 852, "its texture alone", "describe_texture"),
    _handcrafted("handcrafted:shape", 331, "its shape alone", "describe_shape"),
    TableRow(
        EncoderSpec("visual-words", "visual-words", 256, "pad", 1024, ""),
        "local features counted by a vocabulary that is learned on the catalog",
    ),
)

TABLE: dict[str, TableRow] = {row.spec.name: row for row in _ROWS}

# What indexes were built with before and still name; nobody can choose it anew.
OLD_ROWS = (_handcrafted("handcrafted", 640, "color and gradients, in equal parts", "describe_version_1", version=1),)

"""Bring the networks of an encoder to int8 on the catalog itself, once, and measure what answers lose by that."""

import functools
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imgsearch.build.encoder_source import EncoderSource
from imgsearch.build.location import ImageSource, root_of, scan_of
from imgsearch.cache import folder_for_this_run
from imgsearch.encoders.adaptation import nearest_is_own
from imgsearch.encoders.choice import Choice, with_precision, with_quantized
from imgsearch.encoders.export import exported_encoder, quantized_graph
from imgsearch.encoders.int8 import MOST_LOSS, Int8Loss, graph_digest, require_nncf
from imgsearch.encoders.runtime import GRAPH_FILE, Embeddings, Encoder, open_encoder, part_file
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import DamagedIndexError, GateError, ImageError, UsageError
from imgsearch.files import require_space
from imgsearch.images.decode import Pixels
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import sampled
from imgsearch.images.steps import Steps
from imgsearch.images.workers.decoders import DecodeWorker
from imgsearch.images.workers.pool import decoded_files
from imgsearch.progress import Progress
from imgsearch.store import integrity
from imgsearch.store.manifest import Manifest
from imgsearch.synthetic.variant_worker import VariantWorker

logger = logging.getLogger(__name__)

# Images to calibrate on: with ten embeddings are no longer near those in f32 (docs/benchmarks.md).
_CALIBRATED = 300
_LEAST = 20
# Images to ask with and among, and about how many variants of them are asked: so many that the standard error of what
# is lost lies below what may be lost.
_ASKED = 600
_QUERIES = 1800
_VARIANTS = 3, 24  # of each image, at least and at most: like a photo, redrawn, and like a screenshot, in turn

# Images whose embeddings are compared with those in f32, many at once as builds do and one by one as queries do.
_COMPARED = 64
# On average. Wrong kernels gave 0.06 to 0.5; int8 as it should be 0.96 on stamps, 0.90 on two dozen plain drawings.
_LEAST_COSINE = 0.8
# The same graph, compiled for many and for one.
_LEAST_AGREEMENT = 0.99


def with_quantization(
    choice: Choice,
    catalog: ImageSource,
    policy: FilePolicy,
    directory: Path,
    previous: Manifest | None,
    progress: Progress,
    *,
    relearn: bool = False,
) -> tuple[Choice, Int8Loss | None]:
    """Complete an encoder in int8, unless it names the graphs of its networks; or `relearn` them.

    Returns the encoder, and what it loses; None for one in another precision.

    Raises:
        GateError: More is lost than may be, or int8 does not work here.
        MissingComponentError: NNCF is not installed, or cannot do it.
        UsageError: The catalog has too few images.
    """
    spec = choice.spec
    if spec.precision != "int8":
        return choice, None
    if not relearn and all(part.quantized for part in spec.all_parts() if part.uses_openvino):
        return choice, previous.int8 if previous else None
    require_nncf()
    paths = sampled(scan_of(catalog, policy), _ASKED)
    plain = with_precision(spec, "f32")
    exported = EncoderSource(directory, plain, choice.files, previous).find()
    folder = folder_for_this_run()
    images, count = folder / "images.npy", min(_CALIBRATED, len(paths))
    require_space(folder, count * 3 * spec.size**2)
    rows = _write_images(images, catalog, paths[:count], policy, spec, progress)
    logger.warning("calibrating %s in int8 on %d images, once: this takes a minute or two", spec.name, len(rows))
    files = dict(choice.files)
    for number, part in enumerate(spec.all_parts()):
        if part.uses_openvino:
            graph = folder / str(number) / GRAPH_FILE
            graph.parent.mkdir()
            name = part_file(number, GRAPH_FILE) if spec.parts else GRAPH_FILE
            quantized_graph(part, exported / name, images, graph)
            digest = graph_digest(graph)
            files[digest] = graph
            spec = with_quantized(spec, number, digest)
    choice = Choice(spec, files)
    quantized = exported_encoder(spec, files)
    cosine = _compare(plain, exported, spec, quantized, rows[:_COMPARED])
    encoders = open_encoder(plain, exported), open_encoder(spec, quantized)
    variants = _decode_variants(catalog, paths, policy, spec, progress)
    loss = measure_loss(encoders, variants, images=len(rows), cosine=cosine)
    if not loss.is_small:
        raise GateError(
            f"{spec.name} loses more than {100 * MOST_LOSS:g} points of its hit rate in int8: {loss.in_words()};"
            " nothing was changed",
            hint="build it with --precision auto",
        )
    return choice, loss


def quantized_of(directory: Path, manifest: Manifest) -> dict[str, Path]:
    """Find the graphs in int8 that an index holds, by the digests that name them in encoders."""
    found = {}
    for number, part in enumerate(manifest.encoder.all_parts()):
        if part.quantized:
            name = part_file(number, GRAPH_FILE) if manifest.encoder.parts else GRAPH_FILE
            graph = Path(manifest.encoder_folder, name)
            try:
                for file in (graph, graph.with_suffix(".bin")):
                    integrity.check_content(directory, manifest, file.as_posix())
            except (DamagedIndexError, FileNotFoundError) as error:
                logger.warning("%s", error)
            else:
                found[part.quantized] = directory / graph
    return found


def measure_loss(
    encoders: tuple[Encoder, Encoder], variants: Iterator[Pixels], *, images: int, cosine: float
) -> Int8Loss:
    """Ask two encoders, in f32 and in int8, the same.

    Args:
        encoders: The two.
        variants: Of each image itself and as many variants: RGB, uint8 (1 + variants, size, size, 3).
        images: How many the second was calibrated on.
        cosine: Of their embeddings.
    """
    copies = itertools.tee(variants)
    pairs = zip(*(encoder.encode_stream(copy) for encoder, copy in zip(encoders, copies, strict=True)), strict=True)
    usable = [pair for pair in pairs if all(np.isfinite(rows).all() for rows in pair)]
    _require_enough(len(usable))
    before, after = (_own_is_found(np.stack(rows)) for rows in zip(*usable, strict=True))
    lost = before.astype(np.float64) - after
    error = float(lost.std() / np.sqrt(len(lost)))
    return Int8Loss(images, len(lost), float(before.mean()), float(after.mean()), error, cosine)


def _own_is_found(embeddings: Embeddings) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return of which variants, of (images, 1 + variants, D), their own image is the nearest."""
    originals = np.ascontiguousarray(embeddings[:, 0])
    return np.concatenate(
        [nearest_is_own(originals, embeddings[:, number]) for number in range(1, embeddings.shape[1])]
    )


def _require_enough(count: int) -> None:
    if count < _LEAST:
        raise UsageError(
            f"expected at least {_LEAST} usable images to calibrate int8 on, found {count}",
            hint="build it with --precision auto",
        )


def _write_images(
    file: Path, catalog: ImageSource, paths: list[str], policy: FilePolicy, spec: EncoderSpec, progress: Progress
) -> Pixels:
    """Write the images to calibrate on, as the encoder gets them, and return them mapped."""
    make = functools.partial(DecodeWorker, spec.size, spec.fit, policy, steps=Steps.parse(spec.steps))
    decoded = decoded_files(root_of(catalog), paths, policy, make, lambda worker, data: worker.decode(data)[0])
    raw, count = file.with_suffix(".raw"), 0
    with raw.open("wb") as stream:
        for done, image in enumerate(decoded, start=1):
            if not isinstance(image, ImageError):
                stream.write(np.ascontiguousarray(image).data)
                count += 1
            progress("calibrate", done, len(paths))
    _require_enough(count)
    shape = (count, spec.size, spec.size, 3)
    rows = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    rows[:] = np.memmap(raw, np.uint8, "r", shape=shape)
    rows.flush()
    raw.unlink()
    return rows


def _decode_variants(
    catalog: ImageSource, paths: list[str], policy: FilePolicy, spec: EncoderSpec, progress: Progress
) -> Iterator[Pixels]:
    least, most = _VARIANTS
    variants = min(most, max(least, -(-_QUERIES // max(1, len(paths)))))
    steps = Steps.parse(spec.steps)
    make = functools.partial(VariantWorker, spec.size, spec.fit, policy, steps=steps, variants=variants)
    decoded = decoded_files(root_of(catalog), paths, policy, make, VariantWorker.decode_variants)
    for done, squares in enumerate(decoded, start=1):
        if not isinstance(squares, ImageError):
            yield squares
        progress("measure int8", done, len(paths))


def _compare(plain: EncoderSpec, exported: Path, spec: EncoderSpec, quantized: Path, images: Pixels) -> float:
    """Compare embeddings in int8 with those in f32, run as builds do and as queries do; returns their mean cosine.

    Kernels for int8 differ from processor to processor, and some of OpenVINO's were silently wrong.
    """
    expected = _encoded(open_encoder(plain, exported), images, 4)
    many = _encoded(open_encoder(spec, quantized), images, 4)
    one = _encoded(open_encoder(spec, quantized, for_one=True), images, 1)
    usable = np.isfinite(expected).all(axis=1)
    cosines = [_cosines(expected[usable], rows[usable]) for rows in (many, one)]
    agreement = _cosines(many[usable], one[usable])
    cosine = min(float(each.mean()) for each in cosines) if usable.any() else 1.0
    if cosine < _LEAST_COSINE or agreement.min(initial=1) < _LEAST_AGREEMENT:
        raise GateError(
            f"{spec.name} in int8 does not give on this machine what it gives in f32: of {len(images)} images the"
            f" cosine is {cosine:.2f} on average, where {_LEAST_COSINE} is expected, and {agreement.min(initial=1):.2f}"
            f" at least between one at a time and many, where {_LEAST_AGREEMENT} is expected; nothing was changed",
            hint="build it with --precision auto",
        )
    return cosine


def _encoded(encoder: Encoder, images: Pixels, batch: int) -> Embeddings:
    batches = (np.ascontiguousarray(images[start : start + batch]) for start in range(0, len(images), batch))
    return np.concatenate(list(encoder.encode_stream(batches)))


def _cosines(rows: Embeddings, others: Embeddings) -> Embeddings:
    return np.asarray(np.nan_to_num((rows * others).sum(axis=1)), np.float32)

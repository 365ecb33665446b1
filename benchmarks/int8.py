"""The default encoder in f32, bf16 and int8, and with weights left out: python benchmarks/int8.py FOLDER.

For the stamps and the drawn catalog, asked with photo-like images of seeds that no choice has seen, and the emoji of
one vendor, asked with those of another: how many images a second the encoder describes, many at once as builds do and
one at a time as queries do, in turn and in one run, each beside f32; the size of what an index holds; and hit rates.
What int8 loses is also what the build measures before it publishes; where it refuses, its words are printed.

Then the same with the smallest 50 and 80 % of the weights of each layer set to zero ("pruned"), in f32 and in int8,
with and without OpenVINO's CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE.
"""

import argparse
import gzip
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from answers import emoji_files
from catalogs import stamps
from demo import ask, make_queries, rank_of
from drawn_catalog import draw_catalog
from imgsearch import build_index
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import (
    GRAPH_FILE,
    Embeddings,
    OpenVinoEncoder,
    compile_graph,
    import_openvino,
    unit_rows,
)
from imgsearch.encoders.spec import DEFAULT_BACKBONE, EncoderSpec, Precision
from imgsearch.errors import GateError
from imgsearch.evaluation.metrics import hit_rate
from imgsearch.images.decode import Pixels, decode
from imgsearch.images.transform import fit
from imgsearch.processors import processor_count
from imgsearch.store.generations import read_manifest

PRECISIONS: tuple[Precision, ...] = ("f32", "bf16", "int8")
SEEDS = (3, 4)
TIMED = 160
ROUNDS = 5
PRUNED = (0.5, 0.8)

Run = Callable[[], Embeddings]


def main(folder: Path, *, images: int | None) -> None:
    """Measure everything.

    Args:
        folder: Keeps catalogs, queries and indexes.
        images: How many of a catalog are taken at most; for a trial.
    """
    catalogs: list[tuple[Path, list[dict[str, Path]]]] = []
    drawn = [folder / "stamps"] if stamps(folder / "stamps") else []
    draw_catalog(folder / "drawn")
    for whole in (*drawn, folder / "drawn"):
        catalog = some_of(whole, images) if images else whole
        photos = [make_queries(catalog, folder / f"{catalog.name}-queries-{seed}", seed) for seed in SEEDS]
        catalogs.append((catalog, photos))
    if emoji := emoji_files(folder):
        catalogs.append((some_of(emoji[0], images) if images else emoji[0], [emoji[1]]))
    for catalog, queries in catalogs:
        measure(catalog, queries, folder)
    measure_pruned(catalogs[0][0], folder)


def measure(catalog: Path, queries: Sequence[Mapping[str, Path]], folder: Path) -> None:
    """Build a catalog's index in each precision, and compare answers and speed."""
    specs: dict[str, tuple[EncoderSpec, Path]] = {}
    for precision in PRECISIONS:
        index = folder / f"{catalog.name}-{precision}.imgsearch"
        shutil.rmtree(index, ignore_errors=True)
        try:
            report = build_index(catalog, index, precision=precision)
        except GateError as error:
            print(f"  {catalog.name}, {precision}: refused: {error.message}")
            continue
        manifest = read_manifest(index)
        encoder = index / manifest.encoder_folder
        size = sum(file.stat().st_size for file in encoder.iterdir()) / 1e6
        specs[precision] = manifest.encoder, encoder
        if manifest.int8:
            print(f"  {catalog.name}, int8: {manifest.int8.in_words()}; cosine {manifest.int8.cosine:.3f}")
        rates = [
            rates_of(index, {name: photo for name, photo in part.items() if (catalog / name).exists()})
            for part in queries
        ]
        print(
            f"  {catalog.name} ({report.count}), {precision}: {size:.1f} MB, {report.seconds['encoder']:.1f} s to make"
            f" it, hit rates {'; '.join(rates)}",
            flush=True,
        )
    pixels = fitted(catalog, specs["f32"][0])
    runs = {}
    for name, (spec, encoder) in specs.items():
        many = OpenVinoEncoder(spec, encoder / GRAPH_FILE)
        one = OpenVinoEncoder(spec, encoder / GRAPH_FILE, for_one=True)
        runs[f"{name}, many"] = encoding(many, pixels, 4)
        runs[f"{name}, one"] = encoding(one, pixels[: TIMED // 4], 1)
    print_speeds(runs, lambda name: f"f32, {name.partition(', ')[2]}")


def measure_pruned(catalog: Path, folder: Path) -> None:
    """Set weights to zero, and see what that gains and costs."""
    spec = choose_encoder(DEFAULT_BACKBONE).spec
    plain = exported_encoder(spec) / GRAPH_FILE
    graphs = {"f32": plain}
    manifest_folder = folder / f"{catalog.name}-int8.imgsearch"
    if not manifest_folder.exists():
        build_index(catalog, manifest_folder, precision="int8")
    manifest = read_manifest(manifest_folder)
    graphs["int8"] = manifest_folder / manifest.encoder_folder / GRAPH_FILE
    pixels = fitted(catalog, spec)
    runs: dict[str, Run] = {}
    for precision, graph in graphs.items():
        for share in (0.0, *PRUNED):
            pruned = prune(graph, share, folder / f"pruned-{precision}-{share:g}.xml")
            for rate in (None, 0.5):
                name = f"{precision}, {share:.0%} zero" + (f", sparse from {rate:g}" if rate else "")
                runs[name] = run_compiled(pruned, pixels, rate)
            weights = pruned.with_suffix(".bin").read_bytes()
            sizes = f"{len(weights) / 1e6:.1f} MB, {len(gzip.compress(weights)) / 1e6:.1f} MB by gzip"
            print(f"  {precision}, {share:.0%} zero: {sizes}")
    expected = runs["f32, 0% zero"]()
    for name, run in runs.items():
        rows = run()
        print(f"  {name}: cosine with f32 {float((rows * expected).sum(axis=1).mean()):.3f}")
    print_speeds(runs, lambda name: f"{name.partition(', ')[0]}, 0% zero")


def prune(graph: Path, share: float, target: Path) -> Path:
    """Set so large a share of the weights of each layer to zero, the smallest first."""
    openvino = import_openvino()
    model = openvino.Core().read_model(graph)
    for node in model.get_ops():
        if (
            node.get_type_name() != "Constant"
            or node.output(0).get_shape() == []
            or np.prod(node.output(0).get_shape()) < 5000
        ):
            continue
        weights = np.array(node.data)
        least = np.quantile(np.abs(weights.astype(np.float32)), share) if share else -1
        kept = np.where(np.abs(weights.astype(np.float32)) <= least, 0, weights).astype(weights.dtype)
        constant = openvino.op.Constant(openvino.Tensor(kept))
        for consumer in node.output(0).get_target_inputs():
            consumer.replace_source_output(constant.output(0))
    openvino.save_model(model, target, compress_to_fp16=False)
    return target


def run_compiled(graph: Path, pixels: Pixels, rate: float | None) -> Run:
    """Compile as builds do, with OpenVINO's support of sparse weights or without."""
    openvino = import_openvino()
    core = openvino.Core()
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": str(processor_count()),
    }
    if rate is not None:
        settings["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = rate
    model = core.read_model(graph)
    compiled = compile_graph(core, openvino.Model([model.output(0)], model.get_parameters(), "encoder"), settings, "")

    def run() -> Embeddings:
        rows: list[Embeddings] = [np.zeros(0, np.float32)] * -(-len(pixels) // 4)
        queue = openvino.AsyncInferQueue(compiled)
        queue.set_callback(
            lambda request, number: rows.__setitem__(number, np.array(request.get_output_tensor(0).data, np.float32))
        )
        for number in range(len(rows)):
            queue.start_async([pixels[4 * number : 4 * number + 4]], number)
        queue.wait_all()
        return unit_rows(np.concatenate(rows))

    return run


def print_speeds(runs: Mapping[str, Run], base_of: Callable[[str], str]) -> None:
    """Time runs in turn, and show each beside its baseline."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    counts = {name: len(run()) for name, run in runs.items()}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    rates = {name: [counts[name] / value for value in values] for name, values in seconds.items()}
    for name, values in rates.items():
        base = base_of(name)
        ratio = median(value / other for value, other in zip(values, rates[base], strict=True))
        spread = f"({min(values):.1f} to {max(values):.1f})"
        print(f"  {name:<36} {median(values):7.1f} images/s {spread}, {ratio:.2f} of {base}")


def encoding(encoder: OpenVinoEncoder, pixels: Pixels, batch: int) -> Run:
    """Return what encodes all images."""
    return lambda: np.concatenate(
        list(encoder.encode_stream(pixels[start : start + batch] for start in range(0, len(pixels), batch)))
    )


def fitted(catalog: Path, spec: EncoderSpec) -> Pixels:
    """Decode images of a catalog as often as it takes."""
    files = sorted(file for file in catalog.rglob("*") if file.is_file())[:TIMED]
    squares = [fit(decode(file.read_bytes()), spec.size, spec.fit) for file in files]
    return np.stack([squares[number % len(squares)] for number in range(TIMED)])


def rates_of(index: Path, queries: Mapping[str, Path]) -> str:
    """Ask, and show hit rates at 1, 5 and 10."""
    ranks: Sequence[int | None] = [rank_of(name, hits) for name, hits in ask(index, dict(queries)).items()]
    return " ".join(f"{hit_rate(ranks, k):.3f}" for k in (1, 5, 10))


def some_of(catalog: Path, count: int) -> Path:
    """Copy every so manieth image, for a trial."""
    files = sorted(file for file in catalog.rglob("*") if file.is_file())
    folder = catalog.with_name(f"{catalog.name}-{count}")
    for file in files[:: max(1, len(files) // count)][:count]:
        target = folder / file.relative_to(catalog)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, metavar="N", help="take so many of each catalog, for a trial")
    given = parser.parse_args()
    main(given.folder, images=given.images)

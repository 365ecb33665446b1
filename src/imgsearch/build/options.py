"""The options of a build, and how each is resolved: as given, else as the index remembers it, else the default."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args

from imgsearch.build.metadata import has_encoding
from imgsearch.build.words import encoder_of_texts
from imgsearch.encoders.choice import (
    Choice,
    choose_detector,
    choose_encoder,
    keep_quantized,
    with_precision,
    with_weights,
)
from imgsearch.encoders.gpu import Device
from imgsearch.encoders.projection import DIMS, SMALLEST_CATALOG
from imgsearch.encoders.runtime import best_precision
from imgsearch.encoders.spec import DEFAULT_BACKBONE, EncoderSpec, Precision
from imgsearch.errors import UsageError, require_between
from imgsearch.files import require_space
from imgsearch.images import PIXELS_VERSION
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.search.backends import BACKENDS, SERVERS
from imgsearch.search.backends.server import server_name
from imgsearch.search.tuning import chosen_backend
from imgsearch.store.manifest import Manifest
from imgsearch.store.search_settings import AUTO, MAX_SEED, TREES_LIMIT, SearchOptions
from imgsearch.store.words import NO_COLUMNS
from imgsearch.system import require_address_space
from imgsearch.tables import UTF8, known_encoding
from imgsearch.text.lexical import require_full_text
from imgsearch.text.sentences import DIMS as TEXT_DIMS

logger = logging.getLogger(__name__)

# The value that clears an option that the index remembers.
NONE = "none"

Damaged = Literal["skip", "keep"]
Engine = Literal["local", "dask"]
PrecisionOption = Literal["auto", "f32", "bf16", "int8"]
Location = str | os.PathLike[str]


class ImageOptions(TypedDict, total=False):
    """Options of the embedding stage that an index remembers. None or missing: as the index has it, or the default."""

    backbone: str | None  # an encoder's name, a `.keras` or `.onnx` file, a joint model's folder, or several with `+`
    onnx_input: str | None  # how images become the input of an `.onnx` file: `size=224,fit=pad,mean=0.5,std=0.5`
    weights: Location | None  # weights of an encoder of keras.applications; `none` for its usual ones
    precision: PrecisionOption | None  # what networks compute in; `auto`: the faster of f32 and bf16 here
    metadata: Location | None  # CSV, JSONL or Parquet file about images, read again by every build; `none` for none
    metadata_encoding: str | None  # of that file, such as `cp1252`, unless it begins with a byte order mark; `utf-8`
    text: str | None  # columns with the items' own words, joined by commas; `auto`; `none` for no words at all
    max_bytes: int | None  # larger files are rejected without being read
    max_pixels: int | None  # larger images are rejected without being decoded
    damaged: Damaged | None  # reject a damaged JPEG, or keep and flag what can be decoded of it
    follow_links: bool | None  # whether to follow links to files and folders, also out of the catalog
    preprocess: str | None  # steps for every image and query, such as `grayscale,binarize=otsu`; `none` for none
    trim: bool | None  # whether plain borders are cut off around the item first; not for a model of its own


class IndexOptions(TypedDict, total=False):
    """Options of what is searched that an index remembers. None or missing: as the index has it, or the default."""

    detector: Location | None  # a `.keras` file of `train --objective detect`; `none` for none
    adapt: bool | None  # learn the projection from photo-like variants of the images, if that helps
    # `annoy`, `exact`, `faiss`, `faiss-codes`, `auto`: annoy or exact, or a server's address; it resets `trees`.
    backend: str | None
    trees: int | None  # trees of the Annoy forest; otherwise as many as tuning finds useful
    seed: int | None  # of the Annoy forest or Faiss lists, and of the sample that the search is tuned on
    memory_budget: int | str | None  # bytes, or such as `1GB`, that a process that answers may come to hold; or `none`
    target_recall: float | None  # share of the ten nearest that searches find at least, above 0, at most 1


class RunOptions(TypedDict, total=False):
    """Options of a single run, which nothing remembers."""

    device: Device | None  # where networks embed images: `cpu`, or `gpu`, if there is one; it fixes `precision` to f32
    force: bool  # go on though most of the images or of the shop's data have vanished, or the decoder keeps crashing
    keep_pixels: bool  # keep embeddings of images that an earlier imgsearch decoded otherwise
    max_skipped: int | None  # refuse to publish when more files than this cannot be used
    wait_lock: float  # seconds to wait for another build to end


class EmbedOptions(ImageOptions, RunOptions, total=False):
    """Options of `embed`."""

    engine: Engine  # what embeds in this run: this machine, or the workers of a cluster
    scheduler: str | None  # of the engine `dask`, such as `tcp://10.0.0.5:8786`; missing: a worker on this machine


class BuildOptions(ImageOptions, IndexOptions, RunOptions, total=False):
    """Options of `build_index`."""

    relearn: bool  # learn the projection, a vocabulary of visual words, and a network in int8 again


def check_options(function: str, kind: type, options: Mapping[str, Any]) -> BuildOptions:
    """Return the options that were given, checked for what one alone can have wrong."""
    for name, value in options.items():
        if name not in kind.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
        if name != "preprocess" and isinstance(value, str | os.PathLike) and not os.fspath(value):
            raise UsageError(
                f"expected a value for {option_names({name: value})[0]}, found nothing", hint="is a variable not set?"
            )
        choices = _CHOICES.get(name)
        if choices and value not in (None, *choices):
            raise UsageError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if options.get("memory_budget") is not None:
        _memory_budget(options["memory_budget"])
    trees, seed, target = (options.get(name) for name in ("trees", "seed", "target_recall"))
    if trees is not None:
        require_between("trees", trees, 1, TREES_LIMIT)
    if seed is not None:
        require_between("seed", seed, 0, MAX_SEED)
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"target_recall must be above 0 and at most 1, got {target}")
    return cast("BuildOptions", {name: value for name, value in options.items() if value is not None})


_UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def _memory_budget(given: int | str) -> int | None:
    """Read a number of bytes; None for `none`."""
    if given == NONE:
        return None
    parts = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?) ?([A-Za-z]*)", str(given))
    units = {name.lower(): size for name, size in _UNITS.items()}
    if not parts or parts[2].lower() not in units or not float(parts[1]):
        raise UsageError(f"memory_budget must be a size such as 800MB or 1.5GB, or none, got {given!r}")
    return round(float(parts[1]) * units[parts[2].lower()])


# Of options that take one of a few words.
_CHOICES: dict[str, tuple[str, ...]] = {
    "precision": get_args(PrecisionOption),
    "damaged": get_args(Damaged),
    "device": get_args(Device),
    "engine": get_args(Engine),
}


def resolve_encoder(options: BuildOptions, previous: Manifest | None) -> Choice:
    """Choose the encoder; a vocabulary that must first be learned has no weights yet."""
    known = previous.encoder if previous else None
    if "onnx_input" in options and "backbone" not in options:
        raise UsageError("--onnx-input has no effect without --backbone FILE.onnx")
    if known and "backbone" not in options and "weights" not in options:
        choice = Choice(_with_new_steps(options, known))
    else:
        choice = _choose_anew(options, known)
    spec = replace(with_precision(choice.spec, _precision(options, known, choice.spec)), pixels=PIXELS_VERSION)
    spec = keep_quantized(known, spec)
    if known and options.get("keep_pixels") and spec.is_fed_otherwise_than(known):
        spec = known
    return replace(choice, spec=spec)


def _with_new_steps(options: BuildOptions, known: EncoderSpec) -> EncoderSpec:
    if "preprocess" not in options and "trim" not in options:
        return known
    steps = _steps(options, known.steps)
    if steps != known.steps and _has_model(known):
        raise UsageError(
            f"the index's encoder {known.name} is a model, which keeps the steps {known.steps!r}",
            hint="to use it with others, give it again with --backbone",
        )
    return replace(known, steps=steps)


def _choose_anew(options: BuildOptions, known: EncoderSpec | None) -> Choice:
    """Choose an encoder by name; those that the index uses keep their weights, unless others are given."""
    if "backbone" not in options and known and any(part.kind in ("model", "onnx") for part in known.all_parts()):
        raise UsageError(f"--weights has no effect on {known.name}, which is a model")
    name = options.get("backbone") or (known.name if known else DEFAULT_BACKBONE)
    given = options.get("weights")
    weights = None if given is None or os.fspath(given) == NONE else Path(given)
    # Steps are remembered like every option, but those that a model was trained with go with the model.
    kept = known.steps if known and not _has_model(known) else None
    onnx_input = options.get("onnx_input") or ""
    choice = choose_encoder(name, weights, steps=_preprocess(options, kept), onnx_input=onnx_input)
    if options.get("trim") or not _has_model(choice.spec):
        choice = choose_encoder(name, weights, steps=_steps(options, kept), onnx_input=onnx_input)
    spec = choice.spec
    for part in known.all_parts() if known else ():
        if part.kind == "visual-words" or (part.kind == "network" and given is None):
            spec = with_weights(spec, part.name, part.weights)
    return replace(choice, spec=spec)


def _precision(options: BuildOptions, known: EncoderSpec | None, spec: EncoderSpec) -> Precision:
    wanted, on_gpu = options.get("precision"), options.get("device") == "gpu"
    if not spec.uses_openvino:
        given = [("--device gpu", on_gpu), *((f"--precision {one}", wanted == one) for one in ("bf16", "int8"))]
        for option, is_given in given:
            if is_given:
                raise UsageError(f"{option} has no effect on {spec.name}, which has no network")
        return "f32"
    if on_gpu and wanted in ("bf16", "int8"):
        raise UsageError(f"--device gpu and --precision {wanted} cannot be combined: a GPU computes in f32")
    if wanted is None and known and known.name == spec.name:
        return known.precision
    if wanted == "int8" and spec.has_text_tower:
        raise UsageError(
            f"--precision int8 is not for {spec.name}: what answers to texts would lose is not measured",
            hint="its vision_model.onnx alone, for images, may be in int8",
        )
    if wanted is not None and wanted != "auto":
        return wanted
    return "f32" if on_gpu else best_precision()


def _has_model(spec: EncoderSpec) -> bool:
    return any(part.kind == "model" for part in spec.all_parts())


def _preprocess(options: BuildOptions, kept: str | None) -> str:
    given = options.get("preprocess", kept or "")
    return "" if given is None or given == NONE else given


def _steps(options: BuildOptions, kept: str | None) -> str:
    """Return what is done to images first; plain borders are trimmed unless declined, now or before."""
    steps = Steps.parse(_preprocess(options, kept))
    trim = options.get("trim")
    if trim is None:
        trim = steps.crop_foreground or kept is None or Steps.parse(kept).crop_foreground
    if steps.crop_foreground and not trim and "preprocess" in options:
        raise UsageError("--no-trim and --preprocess crop-foreground, which trims, cannot be combined")
    return str(replace(steps, crop_foreground=trim))


def resolve_detector(options: BuildOptions, previous: Manifest | None, encoder: EncoderSpec) -> Choice | None:
    """Choose the detector; its file is known only if it is new."""
    given = options.get("detector")
    if given is not None and os.fspath(given) == NONE:
        return None
    if encoder.precision == "int8" and (given is not None or (previous and previous.detector)):
        raise UsageError(
            "--precision int8 is not for an index with a detector, which contains the encoder in another precision",
            hint="leave out one of the two: --detector none or --precision auto",
        )
    if given is not None:
        return choose_detector(Path(given), encoder)
    if previous is None or previous.detector is None:
        return None
    if previous.encoder.identity != encoder.identity:
        logger.warning("the detector %s is dropped: it was trained for the previous encoder", previous.detector.name)
        return None
    return Choice(replace(previous.detector, precision=encoder.precision))


def resolve_adaptation(options: BuildOptions, previous: Manifest | None, draft: Manifest) -> bool:
    """Return whether the projection is learned from variants of the catalog's images."""
    adapt = options.get("adapt")
    if draft.encoder.has_text_tower:
        if adapt:
            raise UsageError(f"--adapt is not for {draft.encoder.name}: its images would leave the space of its texts")
        return False
    if adapt is not None:
        return adapt
    # With a new detector: its items are found far more often with it (docs/benchmarks.md).
    is_new = draft.detector is not None and (
        previous is None or previous.detector_fingerprint != draft.detector_fingerprint
    )
    return is_new or (previous is not None and previous.adaptation is not None)


def resolve_search(options: BuildOptions, previous: Manifest | None) -> SearchOptions:
    """Choose how the index is searched."""
    known = (previous.search if previous else None) or SearchOptions()
    given = _given(options, SearchOptions)
    if "trees" in given and known.backend == AUTO:
        given.setdefault("backend", "annoy")  # trees ask for a forest
    if "backend" in given:
        given |= _backend(given["backend"], known)
        given.setdefault("trees", None)  # naming a backend resets them
    if "memory_budget" in given:
        given["memory_budget"] = _memory_budget(given["memory_budget"])
    resolved = replace(known, **given)
    if options.get("trees") is not None and resolved.backend not in ("annoy", "auto"):
        raise UsageError(
            f"--trees has no effect on the backend {resolved.backend}", hint="for a forest add --backend annoy"
        )
    if resolved.backend == "exact" and resolved.target_recall != known.target_recall:
        raise UsageError("--target-recall has no effect on the backend exact, which finds all")
    return resolved


def _backend(given: str, known: SearchOptions) -> dict[str, str]:
    """Return backend and server for what was given: a name, or the address of a server."""
    if "://" in given and server_name(given) in SERVERS:
        return {"backend": server_name(given), "server": given}
    if given in SERVERS:
        if known.backend == given:
            return {"server": known.server}
        raise UsageError(f"the backend {given} needs the address of a server", hint=f"--backend {given}://HOST")
    if given not in (AUTO, *BACKENDS):
        choices = ", ".join(
            (AUTO, *(each for each in BACKENDS if each not in SERVERS), *(f"{each}://..." for each in SERVERS))
        )
        # The rest of an address may have a password in it.
        shown = f"{given.partition('://')[0]}://..." if "://" in given else given
        raise UsageError(f"backend must be one of {choices}, got {shown!r}")
    return {"server": ""}


def resolve_policy(options: BuildOptions, previous: Manifest | None) -> FilePolicy:
    """Choose which files are let in."""
    given = _given(options, FilePolicy)
    if damaged := options.get("damaged"):
        given["keep_damaged"] = damaged == "keep"
    return replace(previous.policy if previous else FilePolicy(), **given)


def resolve_metadata(options: BuildOptions, previous: Manifest | None) -> Path | None:
    """Choose the file with the shop's data."""
    given = options.get("metadata")
    chosen = given or (previous.metadata_file if previous else "")
    if not chosen or os.fspath(chosen) == NONE:
        return None
    path = Path(chosen).absolute()
    if not os.path.isfile(path):
        raise UsageError(
            f"expected a file of products, found nothing: {path}",
            hint="" if given else "the index remembers it; give its new place with --metadata, or --metadata none",
        )
    return path


def resolve_metadata_encoding(options: BuildOptions, metadata: Path | None, previous: Manifest | None) -> str:
    """Choose the encoding of the file with the shop's data; another file need not have that of the one before."""
    given = options.get("metadata_encoding")
    if given is not None:
        if metadata is None:
            raise UsageError("--metadata-encoding has no effect without --metadata")
        if not has_encoding(metadata):
            raise UsageError(f"--metadata-encoding has no effect on {metadata.name}, whose format has one")
        return known_encoding(given)
    is_same = previous is not None and metadata is not None and previous.metadata_file == os.fspath(metadata)
    return previous.metadata_encoding if previous and is_same else UTF8


def resolve_text(options: BuildOptions, previous: Manifest | None) -> tuple[str, ...]:
    """Choose the columns with the items' own words; none: the default, which the data decide."""
    given = options.get("text")
    if given is None:
        return previous.text if previous else ()
    if given == AUTO:
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",")))
    if "" in names:
        raise UsageError(f"expected names of columns between commas for --text, found {given!r}")
    if names != NO_COLUMNS:
        require_full_text()
    return names


def option_names(options: Mapping[str, object]) -> list[str]:
    """Spell options as they are typed: `--no-trim`."""
    return [f"--{'no-' if value is False else ''}{name.replace('_', '-')}" for name, value in options.items()]


def _given(options: BuildOptions, kind: type) -> dict[str, Any]:
    """Return the options that are fields of a dataclass."""
    return {name: value for name, value in options.items() if name in kind.__annotations__ and value is not None}


# Of address space, for threads and scikit-learn, whose libraries may crash without it.
_LEAST_BYTES = 150_000_000


def check_resources(directory: Path, draft: Manifest, count: int, pending: int, new_encoder: Path | None) -> None:
    """Find out what would make a build fail at its end, before its long part begins."""
    require_address_space(_LEAST_BYTES, "a build")
    needed = count * (4 * draft.encoder.dims + 1000)  # the embeddings; rows of items.sqlite and of the work file
    needed += pending * (4 * draft.encoder.dims + 200)  # in the work file
    if draft.search:
        dims = draft.encoder.dims
        if count >= SMALLEST_CATALOG and not draft.encoder.has_text_tower:
            dims = min(DIMS, dims)
        backend = chosen_backend(draft.search, count, dims)
        backend.ensure_available()
        if draft.search.server:
            SERVERS[backend.name].reach(draft.search.server)
        needed += 4 * count * dims + backend.estimated_bytes(count, 4 * dims, draft.search)
    if encoder_of_texts(draft):
        needed += count * 4 * TEXT_DIMS  # whether any item has words shows later
    if new_encoder:
        needed += sum(file.stat().st_size for file in new_encoder.iterdir())
    require_space(directory, needed + 1_000_000)

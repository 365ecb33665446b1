"""What a build works with: the user's wishes, completed by what the index was built with before."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from imgsearch.encoders.choice import Choice, choose_detector, choose_encoder, with_precision, with_weights
from imgsearch.encoders.projection import DIMS, SMALLEST_CATALOG
from imgsearch.encoders.runtime import best_precision
from imgsearch.encoders.spec import DEFAULT_BACKBONE, EncoderSpec, Precision
from imgsearch.errors import RefusedError, UsageError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.search.backends.annoy_process import require_annoy
from imgsearch.search.backends.backends import import_faiss
from imgsearch.files import require_space
from imgsearch.search.backends.faiss_lists import lists_for
from imgsearch.store.manifest import Manifest
from imgsearch.store.plan import MOST_SEED, TREES_LIMIT, WISHES, SearchOptions
from imgsearch.search.tuning import MOST_TREES, may_need_forest

logger = logging.getLogger(__name__)

NO_DETECTOR = "none"

Damaged = Literal["skip", "keep"]
Location = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a user asked for; None means as the index has it, or the default for a new one.

    Attributes are the parameters of `build.build_index`.
    """

    backbone: str | None = None
    detector: Location | None = None
    weights: Location | None = None
    precision: Precision | None = None
    backend: str | None = None
    trees: int | None = None
    seed: int | None = None
    target_recall: float | None = None
    metadata: Location | None = None
    max_bytes: int | None = None
    max_pixels: int | None = None
    damaged: Damaged | None = None
    follow_links: bool | None = None
    preprocess: str | None = None
    trim: bool | None = None
    adapt: bool | None = None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How one build behaves; unlike wishes, nothing of it is remembered.

    Attributes are the parameters of `build.build_index`.
    """

    relearn: bool = False
    force: bool = False
    max_skipped: int | None = None
    wait_lock: float = 0


def resolve_encoder(options: BuildOptions, previous: Manifest | None) -> Choice:
    """Choose the encoder: a nightly run without options keeps the one of the index, weights and vocabulary included.

    Args:
        wishes: Of the user.
        previous: What is published, if anything.

    Returns:
        The choice; a vocabulary that must first be learned has no weights yet.

    Raises:
        MissingComponentError: There is no such encoder, or its weights cannot be read.
        UsageError: The wishes contradict one another.
    """
    known = previous.encoder if previous else None
    weights = Path(options.weights) if options.weights else None
    # Steps stick like every option, but those that a model was trained with go with the model.
    kept = known.steps if known and not _has_model(known) else None
    if known and options.backbone is None and weights is None:
        choice = Choice(known)
        if options.preprocess is not None or options.trim is not None:
            steps = _steps(options, known.steps)
            if steps != known.steps and _has_model(known):
                raise UsageError(
                    f"the index's encoder {known.name} is a model, which keeps the steps {known.steps!r}",
                    hint="to use it with others, give it again with --backbone",
                )
            choice = replace(choice, spec=replace(known, steps=steps))
    else:
        backbone = options.backbone or (known.name if known else DEFAULT_BACKBONE)
        choice = choose_encoder(backbone, weights, steps=options.preprocess or kept or "")
        if options.trim or not _has_model(choice.spec):
            choice = choose_encoder(backbone, weights, steps=_steps(options, kept))
        if known:
            choice = replace(choice, spec=_with_known_weights(choice.spec, known, given=weights is not None))
    if options.precision is None and known and known.name == choice.spec.name:
        return replace(choice, spec=with_precision(choice.spec, known.precision))
    is_network = with_precision(choice.spec, "bf16") != choice.spec
    return (
        replace(choice, spec=with_precision(choice.spec, options.precision or best_precision()))
        if is_network
        else choice
    )


def resolve_detector(options: BuildOptions, previous: Manifest | None, encoder: EncoderSpec) -> Choice | None:
    """Choose the detector: a nightly run without options keeps the one of the index.

    Args:
        wishes: Of the user.
        previous: What is published, if anything.
        encoder: Of the index that is to be.

    Returns:
        The choice, whose file is known only if it is new; None for no detector.

    Raises:
        MissingComponentError: The file cannot be read.
        UsageError: It is no detector, or one for another encoder.
    """
    if options.detector is not None:
        return None if os.fspath(options.detector) == NO_DETECTOR else choose_detector(Path(options.detector), encoder)
    if previous is None or previous.detector is None:
        return None
    if previous.encoder.identity != encoder.identity:
        logger.warning("the detector %s is left out: it is for the encoder of before", previous.detector.name)
        return None
    return Choice(replace(previous.detector, precision=encoder.precision))


def _has_model(spec: EncoderSpec) -> bool:
    return any(part.kind == "model" for part in spec.all_parts())


def _steps(options: BuildOptions, kept: str | None) -> str:
    """Say what is done to images first: even borders are trimmed unless that was not wanted, now or before.

    Args:
        wishes: Of the user.
        kept: The steps of the index; None where there are none to be kept.
    """
    steps = Steps.parse((kept or "") if options.preprocess is None else options.preprocess)
    trim = options.trim
    if trim is None:
        trim = steps.crop_foreground or kept is None or Steps.parse(kept).crop_foreground
    if steps.crop_foreground and not trim and options.preprocess is not None:
        raise UsageError("expected --no-trim or a step crop-foreground, which trims, found both")
    return str(replace(steps, crop_foreground=trim))


def _with_known_weights(spec: EncoderSpec, known: EncoderSpec, *, given: bool) -> EncoderSpec:
    """Let encoders that the index uses keep their weights, unless others were given."""
    for part in known.all_parts():
        if part.kind == "visual-words" or (part.kind == "network" and not given):
            spec = with_weights(spec, part.name, part.weights)
    return spec


def resolve_adaptation(options: BuildOptions, previous: Manifest | None, detector: EncoderSpec | None) -> bool:
    """Choose whether the catalog is to teach the projection.

    Unless the user has said otherwise it does with a detector, whose items are found with it far more often
    (docs/benchmarks.md).

    Args:
        wishes: Of the user.
        previous: What is published, if anything.
        detector: Of the index that is to be.
    """
    if options.adapt is not None:
        return options.adapt
    is_new = detector is not None and (previous is None or previous.detector_fingerprint != detector.fingerprint)
    return is_new or (previous is not None and previous.adaptation is not None)


def resolve_search(options: BuildOptions, previous: Manifest | None) -> SearchOptions:
    """Choose how the index is to be searched.

    Args:
        wishes: Of the user.
        previous: What is published, if anything.

    Raises:
        UsageError: There is no such backend, or a parameter is out of range.
    """
    known = (previous.search if previous else None) or SearchOptions()
    if options.backend is not None and options.backend not in WISHES:
        raise UsageError(f"expected the backend to be one of {', '.join(WISHES)}, found {options.backend!r}")
    if options.trees is not None and not 1 <= options.trees <= TREES_LIMIT:
        raise UsageError(f"expected 1 to {TREES_LIMIT} trees, found {options.trees}")
    if options.seed is not None and not 0 <= options.seed <= MOST_SEED:
        raise UsageError(f"expected a seed from 0 to 2147483647, found {options.seed}")
    if options.target_recall is not None and not 0 < options.target_recall <= 1:
        raise UsageError(f"expected a target recall above 0, at most 1, found {options.target_recall}")
    # Who gives trees wants a forest; who gives a backend anew no longer wants the trees of before.
    named = options.backend or ("annoy" if options.trees is not None else None)
    return SearchOptions(
        backend=known.backend if named is None else named,
        trees=known.trees if named is None else options.trees,
        seed=known.seed if options.seed is None else options.seed,
        target_recall=known.target_recall if options.target_recall is None else options.target_recall,
    )


def resolve_policy(options: BuildOptions, previous: Manifest | None) -> FilePolicy:
    """Choose which files are let in.

    Args:
        wishes: Of the user.
        previous: What is published, if anything.

    Raises:
        UsageError: A limit is out of range.
    """
    known = previous.policy if previous else FilePolicy()
    return FilePolicy(
        max_bytes=known.max_bytes if options.max_bytes is None else options.max_bytes,
        max_pixels=known.max_pixels if options.max_pixels is None else options.max_pixels,
        keep_damaged=known.keep_damaged if options.damaged is None else options.damaged == "keep",
        follow_links=known.follow_links if options.follow_links is None else options.follow_links,
    )


def resolve_metadata(options: BuildOptions, previous: Manifest | None) -> Path | None:
    """Choose the file with the shop's data: the one of the index is read again by every build.

    Args:
        wishes: Of the user.
        previous: What is published, if anything.

    Raises:
        UsageError: There is no such file.
    """
    chosen = options.metadata or (previous.metadata_file if previous else "")
    if not chosen:
        return None
    path = Path(chosen).absolute()
    if not os.path.isfile(path):
        raise UsageError(
            f"expected a CSV file of products, found nothing: {path}",
            hint="" if options.metadata else "the index remembers it; give its new place with --metadata",
        )
    return path


def guard_against_skipping(rejected: int, run: RunOptions) -> None:
    """Refuse a catalog of which more was rejected than the user expects.

    Args:
        rejected: Files that cannot be used.
        conduct: Of the build.

    Raises:
        RefusedError: They are more than `max_skipped`.
    """
    if run.max_skipped is not None and rejected > run.max_skipped:
        raise RefusedError(
            f"{rejected} files cannot be used, more than --max-skipped {run.max_skipped}; nothing was changed",
            hint="run it without --max-skipped, then imgsearch info --rejected names them",
        )


def check_resources(directory: Path, draft: Manifest, count: int, pending: int, new_encoder: Path | None) -> None:
    """Find out what would make a build fail at its end, before its long part begins.

    Args:
        directory: The index.
        draft: Describes what is to be published.
        count: Items there will be at most.
        pending: Of these, images that must be embedded.
        new_encoder: Folder of the encoder if it must be copied.

    Raises:
        MissingComponentError: Annoy does not run here, or Faiss is not installed.
        OutputError: The disk has no room.
    """
    needed = count * (4 * draft.encoder.dims + 700)  # the embeddings; rows of items.sqlite and of the work file
    needed += pending * (4 * draft.encoder.dims + 200)  # in the work file
    if draft.search:
        searched = 4 * (min(DIMS, draft.encoder.dims) if count >= SMALLEST_CATALOG else draft.encoder.dims)
        needed += count * searched
        if may_need_forest(draft.search, count):
            require_annoy()
            needed += count * (searched + 20 * (draft.search.trees or MOST_TREES))  # measured: 16 bytes a tree and item
        if draft.search.backend == "faiss":
            import_faiss()
            needed += (count + lists_for(count)) * (searched + 8)
    if new_encoder:
        needed += sum(file.stat().st_size for file in new_encoder.iterdir())
    require_space(directory, needed + 1_000_000)


def guard_against_shrinking(left: int, previous: Manifest | None) -> None:
    """Refuse a catalog that is empty, or lost more than half of its images: more likely its disk is not mounted.

    Args:
        left: Images that can be used.
        previous: What is published, if anything.

    Raises:
        RefusedError: There are none, or fewer than half of the published ones.
    """
    if previous is None and not left:
        raise RefusedError(
            "the catalog has no image that can be used",
            hint="is it the right folder, and is its disk mounted? To publish an empty index, pass --force",
        )
    if previous is not None and left < previous.count / 2:
        raise RefusedError(
            f"the catalog has {left} usable images, the index has {previous.count}; nothing was changed",
            hint="is the disk mounted? If the images are really gone, pass --force",
        )

"""`train --objective detect`: from a catalog to a detector that says where in a photo its items are."""

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsearch.encoders.choice import Choice
from imgsearch.encoders.model_file import DETECT, ModelCard, save_model
from imgsearch.files import writing
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Reject
from imgsearch.progress import Progress, no_progress
from imgsearch.training.detector.material import gather_items
from imgsearch.training.detector.plan import Plan, resolve_detector
from imgsearch.training.report import history_file, versions
from imgsearch.training.settings import DEFAULT_ARCHITECTURE, DEFAULT_VALIDATION
from imgsearch.training.train import import_keras, require_output, silence
from imgsearch.training.workplace import Workplace, replacing

if TYPE_CHECKING:
    import keras

    from imgsearch.synthetic.scenes import Stock
    from imgsearch.training.loop import Loop

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DetectReport:
    """What `detect` did.

    Attributes:
        output: The detector.
        plan: How it was trained.
        items: How many items it learned from, and how many were held out.
        backgrounds: The same of the user's backgrounds.
        skipped: How many images show nothing that is large enough to be an item.
        rejected: Images that cannot be used.
        epochs: What was measured in each epoch.
        best: Which of them gave the detector.
        metrics: On 300 scenes of held-out items: `average_precision` at an IoU of 0.5, `recall` of items in the five
            surest boxes, and `mask_overlap`, the IoU of items and mask.
        device: What it was trained on.
        seconds: Wall time of each stage, and of all under `total`.
    """

    output: Path
    plan: Plan
    items: tuple[int, int]
    backgrounds: tuple[int, int]
    skipped: int
    rejected: tuple[Reject, ...]
    epochs: tuple[Mapping[str, Any], ...]
    best: int
    metrics: Mapping[str, float]
    device: str
    seconds: Mapping[str, float]


def detect(
    folder: Path,
    output: Path,
    *,
    backgrounds: Path | None = None,
    architecture: str = DEFAULT_ARCHITECTURE,
    weights: Path | None = None,
    size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    resume: bool = False,
    policy: FilePolicy | None = None,
    progress: Progress = no_progress,
) -> DetectReport:
    """Teach a detector with scenes that are made of catalog images.

    The encoder is frozen and part of the detector: one pass gives the embedding of an image, and boxes. The detector
    is written when it is whole; until then a checkpoint (`OUTPUT.checkpoint`) keeps every epoch.

    Args:
        folder: The catalog: images with folders among them or without; labels are not asked for.
        output: The detector, ending in `.keras`.
        backgrounds: Images of places without items; None for backgrounds that are drawn, and parts of items.
        architecture: Encoder that it shares: a network of the table, or a `.keras` file.
        weights: File with the weights of a network of keras.applications.
        size: Side of the square that it sees; by default that of the encoder.
        epochs: Of 1,024 scenes each; 16 by default.
        batch_size: Scenes in a batch; 16 by default.
        learning_rate: At its height; 0.002 by default.
        seed: Source of all chance.
        resume: Go on where a training with the same options was interrupted, if one was.
        policy: Which files are let in.
        progress: Told ("decode" or "train", done, total).

    Raises:
        LockedError: Another training writes this model.
        MissingComponentError: Keras, the encoder or its weights are missing.
        OutputError: The detector, or what is needed on the way to it, cannot be written.
        RefusedError: The decoder died of one image after another.
        UsageError: There are too few items, an option is out of range, or the training diverged.
    """
    started = time.monotonic()
    policy = policy or FilePolicy()
    require_output(output, folder)
    plan, choice = resolve_detector(
        architecture,
        weights,
        size=size,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    with contextlib.closing(Workplace(output)) as workplace:
        if not resume:
            if workplace.has_checkpoint:
                logger.warning("a training that was interrupted is forgotten: --resume would have gone on with it")
            workplace.clear()
        material = gather_items(folder, backgrounds, workplace, policy, progress)
        identity = {**plan.to_json(), "weights": choice.spec.weights, "images": material.fingerprint()}
        begun = workplace.load(identity)
        gathered = time.monotonic()
        kept, held_out = material.stock.split(DEFAULT_VALIDATION, plan.seed)
        with silence():
            fitting, loops = import_keras()
        loop = loops.Loop(workplace, identity, begun, progress, None)
        detector, metrics = _fitted(plan, choice, kept, held_out, loop)
        ended = time.monotonic()
        report = DetectReport(
            output,
            plan,
            (len(kept.item_rows), len(held_out.item_rows)),
            (len(kept.background_rows), len(held_out.background_rows)),
            material.skipped,
            material.rejected,
            tuple(loop.epochs),
            loop.best,
            metrics,
            fitting.device_name(),
            {"decode": gathered - started, "train": ended - gathered, "total": ended - started},
        )
        _write(report, choice, detector)
        workplace.clear()
    return report


def _fitted(
    plan: Plan, choice: Choice, kept: "Stock", held_out: "Stock", loop: "Loop"
) -> tuple["keras.Model", dict[str, float]]:
    from imgsearch.encoders.networks import build_network
    from imgsearch.training.detector.fitting import fit
    from imgsearch.training.detector.network import build_detector

    encoder = build_network(choice.spec, choice.files.get(choice.spec.weights))
    networks = build_detector(encoder, plan.seed)
    metrics = fit(networks, plan, kept, held_out, loop)
    return networks.detector, metrics


def _write(report: DetectReport, choice: Choice, detector: "keras.Model") -> None:
    with replacing(history_file(report.output)) as file:
        file.write((json.dumps(_history(report), indent=1) + "\n").encode())
    spec = choice.spec
    card = ModelCard(spec.size, spec.fit, "", spec.dims, (), DETECT, spec.name, spec.identity)
    with writing(report.output.parent):
        save_model(detector, report.output, card)


def _history(report: DetectReport) -> dict[str, Any]:
    return {
        "version": 1,
        "settings": {**report.plan.to_json(), "objective": DETECT},
        "items": dict(zip(("training", "validation"), report.items, strict=True)),
        "backgrounds": dict(zip(("training", "validation"), report.backgrounds, strict=True)),
        "skipped": report.skipped,
        "rejected": [
            {"path": reject.path, "cause": reject.cause, "message": reject.message} for reject in report.rejected
        ],
        "epochs": list(report.epochs),
        "best": report.best,
        "metrics": dict(report.metrics),
        "device": report.device,
        "seconds": {name: round(seconds, 3) for name, seconds in report.seconds.items()},
        "versions": versions(),
    }

"""`train --objective detect`: from a catalog to a detector that finds its items in photos."""

import time
from dataclasses import asdict
from pathlib import Path

from imgsearch.encoders.keras_encoder import device_name
from imgsearch.encoders.model_file import DETECT, ModelCard
from imgsearch.progress import Progress
from imgsearch.training.detector.data import load_stock
from imgsearch.training.keras_backend import require_keras, start_keras
from imgsearch.training.options import VALIDATION, Given, file_policy, path_option, resolve_detector
from imgsearch.training.report import DetectReport, write_model
from imgsearch.training.workspace import Workspace


def train_detector(folder: Path, output: Path, options: Given, progress: Progress) -> DetectReport:
    """Train a detector around a frozen encoder: one pass gives the embedding of an image, and boxes."""
    started = time.monotonic()
    settings, choice = resolve_detector(options)
    policy, backgrounds = file_policy(options), path_option(options.get("backgrounds"))
    require_keras()
    with Workspace(output) as workspace:
        data = load_stock(folder, backgrounds, workspace, policy, progress)
        identity = {**asdict(settings), "weights": choice.spec.weights, "images": data.fingerprint()}
        checkpoint = workspace.begin(identity, resume=options.get("resume", False))
        training, held_out = data.stock.split(VALIDATION, settings.seed)
        decoded = time.monotonic()
        start_keras()
        from imgsearch.encoders.networks import build_network
        from imgsearch.training.detector.fitting import fit
        from imgsearch.training.detector.network import build_detector
        from imgsearch.training.loop import Loop

        spec = choice.spec
        networks = build_detector(build_network(spec, choice.files.get(spec.weights)), settings.seed)
        loop = Loop(workspace, checkpoint, progress)
        metrics = fit(networks, settings, training, held_out, loop)
        ended = time.monotonic()
        report = DetectReport(
            output=output,
            settings=settings,
            items=(len(training.item_rows), len(held_out.item_rows)),
            backgrounds=(len(training.background_rows), len(held_out.background_rows)),
            skipped=data.skipped,
            rejected=data.rejected,
            epochs=tuple(loop.epochs),
            best=loop.best,
            metrics=metrics,
            device=device_name(),
            seconds={"decode": decoded - started, "train": ended - decoded, "total": ended - started},
        )
        card = ModelCard(spec.size, spec.fit, "", spec.dims, (), DETECT, spec.name, spec.identity)
        write_model(report, networks.detector, card)
        workspace.clear()
    return report

"""From images without labels to an encoder that knows which differences are noise."""

import os
import time
from dataclasses import asdict
from pathlib import Path

from imgsearch.encoders.adaptation import HELD_OUT, MAX_IMAGES, embedded_variants, learn_adaptation, measure_gain
from imgsearch.encoders.choice import Choice, with_precision
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.keras_encoder import device_name
from imgsearch.encoders.model_file import ModelCard, save_model
from imgsearch.encoders.projection import SMALLEST_CATALOG, AdaptationGain, Projection, learn_projection
from imgsearch.encoders.runtime import best_precision, open_encoder
from imgsearch.errors import GateError
from imgsearch.images.scan import Scan, sampled
from imgsearch.progress import Progress
from imgsearch.training.adapt.data import load_views
from imgsearch.training.keras_backend import require_keras, start_keras
from imgsearch.training.options import Given, choose_network, file_policy, resolve_adaptation
from imgsearch.training.report import AdaptReport, TunedReport, gain_metrics, write_model
from imgsearch.training.workspace import Workspace


def adapt(folder: Path, output: Path, options: Given, progress: Progress) -> AdaptReport | TunedReport:
    """Adapt a backbone to a folder of images; GateError if that does not help."""
    return (_tune if options.get("unfreeze") else _project)(folder, output, options, progress)


def _project(folder: Path, output: Path, options: Given, progress: Progress) -> AdaptReport:
    """Put a projection behind the backbone, which stays as it is."""
    started = time.monotonic()
    policy, choice = file_policy(options), choose_network(options)
    require_keras()
    with Workspace(output):  # one training at a time writes this model
        paths = sampled(Scan(os.fspath(folder), follow_links=policy.follow_links), MAX_IMAGES)
        spec = with_precision(choice.spec, best_precision())
        encoder = open_encoder(spec, exported_encoder(spec, choice.files))
        variants = embedded_variants(folder, paths, policy, encoder, progress)
        originals, held_out = variants[:, 0], variants[:, -HELD_OUT:]
        adapted = learn_adaptation(originals, variants[:, :-HELD_OUT])
        plain = learn_projection(originals) if len(originals) >= SMALLEST_CATALOG else None
        gain = measure_gain(plain, adapted, originals, held_out)
        _require_help(gain, choice)
        _write(output, choice, adapted)
    seconds = {"total": time.monotonic() - started}
    return AdaptReport(output=output, gain=gain, metrics=gain_metrics(gain), seconds=seconds)


def _write(output: Path, choice: Choice, adapted: Projection) -> None:
    start_keras()
    from imgsearch.encoders.networks import build_network
    from imgsearch.training.networks import with_adaptation

    network = build_network(choice.spec, choice.files.get(choice.spec.weights))
    save_model(with_adaptation(network, adapted), output, _card(choice, adapted))


def _tune(folder: Path, output: Path, options: Given, progress: Progress) -> TunedReport:
    """Tune the last blocks of the backbone first."""
    started = time.monotonic()
    settings, choice = resolve_adaptation(options)
    policy, spec, weights = file_policy(options), choice.spec, choice.files.get(choice.spec.weights)
    require_keras()
    with Workspace(output) as workspace:
        start_keras()
        from imgsearch.encoders.networks import build_network
        from imgsearch.training import networks
        from imgsearch.training.adapt.fitting import fit
        from imgsearch.training.loop import Loop

        network = build_network(spec, weights)
        networks.unfreeze(network, settings.unfreeze)
        frozen, tuned = networks.split(network)
        numbers = int(tuned.inputs[0].shape[1])
        views = load_views(folder, spec, frozen.predict_on_batch, numbers, settings.seed, workspace, policy, progress)
        identity = {**asdict(settings), "weights": spec.weights, "images": views.fingerprint}
        checkpoint = workspace.begin(identity, resume=options.get("resume", False))
        decoded = time.monotonic()
        loop = Loop(workspace, checkpoint, progress)
        outcome = fit(settings, tuned, views.maps, loop)
        if not outcome.gain.helps:
            workspace.clear()
        _require_help(outcome.gain, choice)
        ended = time.monotonic()
        report = TunedReport(
            output=output,
            settings=settings,
            gain=outcome.gain,
            mix=outcome.mix,
            rejected=views.rejected,
            epochs=tuple(loop.epochs),
            best=loop.best,
            metrics=gain_metrics(outcome.gain),
            device=device_name(),
            seconds={"decode": decoded - started, "train": ended - decoded, "total": ended - started},
        )
        whole = build_network(spec, weights)  # which is of one piece
        whole.set_weights(network.get_weights())
        write_model(report, networks.with_adaptation(whole, outcome.projection), _card(choice, outcome.projection))
        workspace.clear()
    return report


def _card(choice: Choice, adapted: Projection) -> ModelCard:
    spec = choice.spec
    return ModelCard(spec.size, spec.fit, "", len(adapted.components), (), "adapt", spec.name)


def _require_help(gain: AdaptationGain, choice: Choice) -> None:
    if not gain.helps:
        raise GateError(
            f"the adaptation does not help: {gain.in_words()}; no model was written",
            hint=f"use --backbone {choice.spec.name} as it is",
        )

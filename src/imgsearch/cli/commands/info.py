"""`imgsearch info`."""

from typing import Annotated, Literal

import typer

from imgsearch.cli.options import DEFAULT_INDEX, IndexOption


def info(
    index: IndexOption = DEFAULT_INDEX,
    rejected: Annotated[bool, typer.Option("--rejected", help="List the files that could not be used.")] = False,
    format_: Annotated[Literal["table", "json"], typer.Option("--format", help="Form of the answer.")] = "table",
) -> None:
    """Say what an index holds.

    Examples:

      imgsearch info

      imgsearch info --rejected

      imgsearch info --index /srv/shop.idx --format json
    """
    import json
    from dataclasses import asdict

    from imgsearch.cli.build_report import gain_in_words
    from imgsearch.cli.output import print_text
    from imgsearch.cli.terminal import columns, printable
    from imgsearch.store.generations import ITEMS, read_manifest
    from imgsearch.store.integrity import check_truth
    from imgsearch.store.items import Items

    manifest = read_manifest(index)
    if rejected:
        check_truth(index, manifest, f"{manifest.folder}/{ITEMS}")
        items = Items(index / manifest.folder / ITEMS)
        try:
            rejects = list(items.rejected())
        finally:
            items.close()
        if format_ == "json":
            text = json.dumps([asdict(reject) for reject in rejects], indent=1) + "\n"
        else:
            text = "".join(f"{reject.cause:<18}  {reject.first_seen}  {printable(reject.path)}\n" for reject in rejects)
    elif format_ == "json":
        text = json.dumps(manifest.to_json(), indent=1) + "\n"
    else:
        backend = manifest.backend
        search = "none: embeddings only" if backend is None else backend.name
        if backend is not None and backend.name == "annoy":
            search += f", {backend.trees} trees, search_k {backend.search_k}, seed {backend.seed}"
        if backend is not None and backend.name == "faiss":
            search += f", {backend.lists} lists, probes {backend.probes}, seed {backend.seed}"
        measured = manifest.measured
        calibration = manifest.calibration
        learned = manifest.projection_count
        text = columns(
            [
                ("images", str(manifest.count)),
                ("rejected files", str(manifest.rejected)),
                ("damaged JPEGs", f"kept: {manifest.damaged}" if manifest.policy.keep_damaged else "rejected"),
                ("catalog", manifest.catalog),
                ("metadata", manifest.metadata_file or "none"),
                ("generation", str(manifest.generation)),
                ("encoder", f"{manifest.encoder.name}, {manifest.encoder.precision}, {manifest.fingerprint}"),
                (
                    "detector",
                    f"{manifest.detector.name}, {manifest.detector.precision}, {manifest.detector_fingerprint}"
                    if manifest.detector
                    else "none",
                ),
                ("embedding", f"{manifest.encoder.dims} dimensions"),
                ("projection", f"to {manifest.dims}, learned on {learned} images" if learned else "none"),
                ("adaptation", gain_in_words(manifest.adaptation) if manifest.adaptation else "none"),
                ("preprocessing", manifest.encoder.steps or "none"),
                ("search", search),
                ("target recall", f"{manifest.search.target_recall:g}" if manifest.search else "none"),
                (
                    "measured",
                    f"recall@10 {measured.recall:.4f} of {measured.queries} items, p50 {measured.p50_ms:.2f} ms,"
                    f" p95 {measured.p95_ms:.2f} ms; exact p50 {measured.exact_p50_ms:.2f} ms"
                    if measured
                    else "no",
                ),
                (
                    "probabilities",
                    f"of the same {calibration.meaning}, learned on {calibration.queries} queries,"
                    f" expected calibration error {calibration.error:.3f}"
                    if calibration
                    else "none: imgsearch evaluate --calibrate",
                ),
                ("size", f"{sum(record.size for record in manifest.files.values()) / 1e6:.1f} MB"),
            ]
        )
    print_text(text)

"""`imgsearch info`."""

from typing import TYPE_CHECKING, Annotated

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from imgsearch.store.calibration import Calibration
    from imgsearch.store.manifest import Manifest


def info(
    index: options.IndexOption = options.DEFAULT_INDEX,
    rejected: Annotated[bool, typer.Option("--rejected", help="List the files that could not be used.")] = False,
    unmatched: Annotated[
        bool,
        typer.Option("--unmatched", help="List rows of --metadata without an image, and images without a row."),
    ] = False,
    changes: Annotated[
        str | None,
        typer.Option(metavar="[GENERATION]", help="Compare with an earlier generation: previous, or its number."),
    ] = None,
    format_: options.FormatOption = "table",
) -> None:
    """Print what an index holds and how it was built.

    Examples:

      imgsearch info

      imgsearch info --rejected

      imgsearch info --unmatched

      imgsearch info --changes

      imgsearch info --index /srv/shop.idx --format json
    """
    import json
    import sys
    from dataclasses import asdict

    from imgsearch.cli.output import columns, print_text, printable
    from imgsearch.errors import UsageError
    from imgsearch.store import info as library

    if rejected + unmatched + (changes is not None) > 1:
        raise UsageError("--rejected, --unmatched and --changes cannot be combined")
    if changes is not None:
        print_text(_changes(index, changes, format_))
        return
    found = library.info(index, rejected=rejected, unmatched=sys.maxsize if unmatched else 0)
    if format_ == "json":
        facts: object = found.manifest.to_json()
        if rejected:
            facts = [asdict(reject) for reject in found.rejected]
        elif unmatched:
            facts = {
                "rows_without_image": [{"line": line, "path": path} for line, path in found.rows_without_image],
                "images_without_row": found.images_without_row,
            }
        print_text(json.dumps(facts, indent=1) + "\n")
    elif unmatched:
        rows = [f"no image  line {line:<9}  {printable(path)}\n" for line, path in found.rows_without_image]
        print_text("".join([*rows, *(f"no row    {'':<14}  {printable(path)}\n" for path in found.images_without_row)]))
    elif rejected:
        print_text("".join(f"{each.cause:<18}  {each.first_seen}  {printable(each.path)}\n" for each in found.rejected))
    else:
        print_text(columns(_rows(found.manifest)))


def _changes(index: "Path", since: str, format_: str) -> str:
    import json
    from dataclasses import asdict

    from imgsearch.catalog import changes as library
    from imgsearch.cli.output import printable, progress_bar
    from imgsearch.errors import UsageError

    if since != "previous" and not (since.isascii() and since.isdecimal() and 0 < len(since) < 10):
        raise UsageError(f"--changes must be previous or the number of a generation, got {since!r}")
    with progress_bar(quiet=False) as progress:
        found = library.changes(index, None if since == "previous" else int(since), progress=progress)
    if format_ == "json":
        return json.dumps(asdict(found), indent=1) + "\n"
    neighbors = found.neighbors or ()
    lines = [
        f"generation {found.generation} against {found.before}: {len(found.new)} new, {len(found.gone)} gone,"
        f" {len(found.changed)} changed; "
        + ("neighbors unknown" if found.neighbors is None else f"{len(neighbors)} products with another neighbor"),
        *(f"new       {printable(path)}" for path in found.new),
        *(f"gone      {printable(path)}" for path in found.gone),
        *(f"changed   {printable(each.path)}: {', '.join(each.fields)}" for each in found.changed),
        *(f"neighbor  {_name(each.product)}: {_name(each.now)}, was {_name(each.before)}" for each in neighbors),
    ]
    return "\n".join(lines) + "\n"


def _name(product: str) -> str:
    from imgsearch.cli.output import printable

    return printable(product) if product else "none"


def _calibration(calibration: "Calibration") -> str:
    return (
        f"of the same {calibration.meaning}, learned on {calibration.queries} queries,"
        f" expected calibration error {calibration.error:.3f}"
    )


def _rows(manifest: "Manifest") -> list[tuple[str, str]]:
    from imgsearch.cli.build_report import gain_in_words
    from imgsearch.cli.learned_words import ranking_in_words, recommend_in_words
    from imgsearch.images import PIXELS_VERSION
    from imgsearch.search.backends import backend_of

    encoder, detector = manifest.encoder, manifest.detector
    measured, backend = manifest.measured, manifest.backend
    budget = manifest.search.memory_budget if manifest.search else None
    calibration, of_words = manifest.calibration, manifest.words_calibration
    search = "none: embeddings only" if backend is None else backend_of(backend).describe(backend)
    learned = manifest.projection_count
    is_older = encoder.pixels < PIXELS_VERSION
    profiles = "not applied: an older imgsearch read the images" if is_older else "applied"
    if manifest.ignored_profiles and not is_older:
        profiles += f", {manifest.ignored_profiles} of no use"
    return [
        ("images", str(manifest.count)),
        ("rejected files", str(manifest.rejected)),
        ("damaged JPEGs", f"kept: {manifest.damaged}" if manifest.policy.keep_damaged else "rejected"),
        ("of one color", "not counted" if is_older else str(manifest.blank)),
        ("color profiles", profiles),
        ("catalog", manifest.catalog),
        ("metadata", manifest.metadata_file or "none"),
        ("words", _words(manifest)),
        ("generation", str(manifest.generation)),
        ("encoder", f"{encoder.name}, {encoder.precision}, {manifest.fingerprint}"),
        ("detector", f"{detector.name}, {detector.precision}, {manifest.detector_fingerprint}" if detector else "none"),
        ("embedding", f"{encoder.dims} dimensions"),
        ("projection", f"to {manifest.dims}, learned on {learned} images" if learned else "none"),
        ("adaptation", gain_in_words(manifest.adaptation) if manifest.adaptation else "none"),
        *([("int8", manifest.int8.in_words())] if manifest.int8 else []),
        ("preprocessing", encoder.steps or "none"),
        ("search", search),
        ("target recall", f"{manifest.search.target_recall:g}" if manifest.search else "none"),
        *([("memory budget", f"{budget / 1e6:,.0f} MB")] if budget is not None else []),
        (
            "measured",
            f"recall@10 {measured.recall:.4f} of {measured.queries} items, p50 {measured.p50_ms:.2f} ms,"
            f" p95 {measured.p95_ms:.2f} ms; exact p50 {measured.exact_p50_ms:.2f} ms"
            if measured
            else "no",
        ),
        (
            "probabilities",
            _calibration(calibration) if calibration else "none: imgsearch evaluate --calibrate",
        ),
        *([("probabilities of words", _calibration(of_words))] if of_words else []),
        *([("recommendations", recommend_in_words(manifest.recommend))] if manifest.recommend else []),
        *([("learned ranking", ranking_in_words(manifest.ranking))] if manifest.ranking else []),
        ("size", f"{sum(record.size for record in manifest.files.values()) / 1e6:.1f} MB"),
    ]


def _words(manifest: "Manifest") -> str:
    from imgsearch.cli.output import printable

    words = manifest.words
    if words is None:
        return "none"
    source = f"columns {printable(', '.join(words.columns))}" if words.columns else "names of files and folders"
    predicted = f", {words.predicted or 'none'} predicted" if words.prediction else ""
    compared = "compared by meaning" if words.encoder else "not compared by meaning"
    worth = f"; {words.prediction.in_words()}" if words.prediction else ""
    return f"{words.own} of {manifest.count} images, from {source}{predicted}; {compared}{worth}"

"""`imgsearch query`."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgsearch.images.boxes import Box
    from imgsearch.search.hits import Hit
    from imgsearch.search.views import Regions


def query(
    images: options.ImagesArgument,
    index: options.IndexOption = options.DEFAULT_INDEX,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="K", min=1, help="Maximum number of hits.")] = 5,
    format_: options.AnswerFormatOption = "table",
    output_file: options.OutputOption = None,
    where: Annotated[
        str,
        typer.Option(
            metavar="SQL",
            help="SQL condition that hits must satisfy, on path, product, category, and the columns of --metadata.",
        ),
    ] = "",
    category: Annotated[
        str, typer.Option(metavar="NAME", help="Only hits of this category, or of one below it: shoes, shoes/boots.")
    ] = "",
    price: Annotated[
        str | None, typer.Option(metavar="LOW..HIGH", help="Short for --range price=LOW..HIGH; either may be missing.")
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="COLUMN=LOW..HIGH",
            help="Only hits with a number or date in this range, ends included; may be repeated.",
        ),
    ] = None,
    by: Annotated[
        Literal["product"] | None,
        typer.Option(help="One hit for each product: its best image, and how many others match; K counts products."),
    ] = None,
    distinct: Annotated[
        str, typer.Option(metavar="COLUMN", help="One hit for each value of a column, such as a color; the best.")
    ] = "",
    min_score: Annotated[float | None, typer.Option(metavar="S", help="Minimum score (cosine, -1 to 1).")] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(
            metavar="P", min=0, max=1, help="Minimum probability that a hit is right, 0 to 1; see evaluate --calibrate."
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every image; slower, never misses.")] = False,
    regions: Annotated[
        str,
        typer.Option(
            metavar="auto|whole|N", help="Also search with parts of the image: what stands out, none, or N of them."
        ),
    ] = "auto",
    box: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Search with this part of the image only, in pixels.")
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Search for each item in the image separately, in reading order.")
    ] = False,
    rerank: Annotated[
        Literal["geometric"] | None,
        typer.Option(help="Re-rank the top 20 by geometric verification (SIFT + homography); slower."),
    ] = None,
    vote: Annotated[
        bool, typer.Option("--vote", help="Predict the category by a weighted vote of the hits; try --top-k 20.")
    ] = False,
    preview: options.PreviewOption = False,
    null: options.NullOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Find the catalog images most similar to each image.

    Give many images at once: they share one start. An image that cannot be read is reported, the others are
    answered, and the exit code is 4; likewise with an image that --box lies outside of, and exit code 2.

    Examples:

      imgsearch query photo.jpg --top-k 5

      imgsearch query photo.jpg --preview

      imgsearch query *.jpg --format html -o answers.html

      imgsearch query photo.jpg --format json | jq -r '.[0].hits[].path'

      imgsearch query photo.jpg --where "price < 50 and stock > 0"

      imgsearch query photo.jpg --category shoes --price ..50 --by product

      imgsearch query photo.jpg --vote --top-k 20

      imgsearch query table.jpg --objects --format html -o table.html

      imgsearch query photo.jpg --box 120,80,300,300

      find new -name '*.jpg' -print0 | imgsearch query - -0 --format csv -o answers.csv
    """
    from imgsearch.cli.output import set_up_logging
    from imgsearch.cli.ranges import ranges_of
    from imgsearch.errors import UsageError
    from imgsearch.search.backends import require_backend, runs_backend
    from imgsearch.search.hits import Filter

    set_up_logging(quiet=quiet, verbose=verbose)
    if preview:
        from imgsearch.cli.terminal import require_preview

        require_preview(format_, output_file)
    ranges = ranges_of(range_ or [], price)
    conditions = Filter(where, category, ranges, min_score=min_score, min_probability=min_probability)
    if conditions.has_conditions:
        exact = exact or not runs_backend(index)
    require_backend(index, exact=exact)

    from imgsearch.cli.answers import Call, FoundClasses, FoundHits, FoundObjects, Result, hit_columns
    from imgsearch.cli.loop import answer_images
    from imgsearch.cli.output import refuse_to_harm
    from imgsearch.search.hits import vote as count_votes
    from imgsearch.search.index import Index
    from imgsearch.search.rerank import CANDIDATES, draw_hit
    from imgsearch.search.views import QueryImage

    part, limited_to = _regions(regions), _box(box)
    _refuse_contradictions(regions=regions != "auto", box=box is not None, objects=objects, vote=vote)
    if by and distinct:
        raise UsageError("--by and --distinct cannot be combined", hint=f"--distinct {distinct} alone, or --by product")
    with Index.open(index) as opened:
        manifest = opened.manifest
        refuse_to_harm(output_file, index, manifest.catalog, manifest.metadata_file)
        plan = opened.plan(filter=conditions, exact=exact)
        limits: dict[str, Any] = {"filter": conditions, "exact": exact, "rerank": rerank is not None}
        limits["distinct"] = by or distinct
        k = max(top_k, CANDIDATES) if rerank else top_k  # to see which of the candidates were compared

        def find(image: str) -> Result:
            query = QueryImage.read(image, manifest.policy)
            draw = partial(draw_hit, manifest, opened.items, query)
            if objects:
                found = opened.search_objects(query, k, **limits)
                state = _rerank_state([each.hits[:CANDIDATES] for each in found]) if rerank else None
                found = [replace(each, hits=each.hits[:top_k]) for each in found]
                return FoundObjects(found, manifest, draw, query, state)
            hits = opened.search(query, k, regions=part, box=limited_to, **limits)
            state = _rerank_state([hits[:CANDIDATES]]) if rerank else None
            hits = hits[:top_k]
            if vote:
                return FoundClasses(count_votes(hits), hits, query, state)
            return FoundHits(hits, manifest, draw, query, state)

        # How many images satisfy the conditions, where they were counted.
        matching = opened.nearest.matching(conditions.conditions) if conditions.has_conditions else None
        how: dict[str, Any] = {"plan": plan} if matching is None else {"plan": plan, "matching": matching}
        facts = {"generation": manifest.generation, "count": manifest.count, "encoder": manifest.encoder.name}
        if vote:
            call = Call(FoundClasses.COLUMNS, find, {"seconds": 0, **how, "index": facts}, command="query")
        else:
            call = Call(
                hit_columns(manifest, with_others=bool(by or distinct), with_boxes=objects),
                find,
                {**how, "seconds": 0, "index": facts},
                (plan, f"{manifest.count} images"),
                "query",
            )
        raise typer.Exit(answer_images(call, images, format_, output_file, null=null, preview=preview))


def _rerank_state(candidates: "Sequence[Sequence[Hit]]") -> str:
    """Say, for JSON, how many of the candidates of an answer could be compared with the query."""
    is_compared = {hit.inliers is not None for hits in candidates for hit in hits}
    return "skipped" if is_compared == {False} else "partial" if False in is_compared else "done"


def _regions(text: str) -> "Regions":
    from imgsearch.errors import UsageError
    from imgsearch.search.views import MAX_REGIONS

    if text == "auto":
        return "auto"
    if text == "whole":
        return "whole"
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    raise UsageError(f"--regions must be auto, whole or 1 to {MAX_REGIONS}, got {text!r}")


def _box(text: str | None) -> "Box | None":
    from imgsearch.errors import UsageError
    from imgsearch.images.boxes import Box

    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) == 4 and all(
        number.strip().isascii() and number.strip().isdecimal() and len(number) < 10 for number in numbers
    ):
        box = Box(*map(int, numbers))
        if box.area:
            return box
    raise UsageError(f"--box must be X,Y,W,H in whole pixels, got {text!r}", hint="for example --box 120,80,300,300")


def _refuse_contradictions(*, regions: bool, box: bool, objects: bool, vote: bool) -> None:
    from imgsearch.errors import UsageError

    parts = {"--regions": regions, "--box": box, "--objects": objects}
    given = [name for name, is_given in parts.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given[:2])} cannot be combined", hint="each says which part to search with")
    if vote and objects:
        raise UsageError("--vote and --objects cannot be combined", hint="a vote is about an image as a whole")

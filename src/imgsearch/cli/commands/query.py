"""`imgsearch query`."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgsearch.cli.answers import Result
    from imgsearch.images.decode import Pixels
    from imgsearch.search.hits import Hit
    from imgsearch.search.index import Index, Order, Refine
    from imgsearch.search.views import Indexed, QueryImage


def query(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE...]", help="Image files; - reads one path per line from standard input."),
    ] = None,
    index: options.IndexOption = options.DEFAULT_INDEX,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="K", min=1, help="Maximum number of hits.")] = 5,
    item: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH|PRODUCT",
            help="Ask with what is in the index: an image, or all images of a product; repeatable.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS",
            help="Ask with words, alone or beside each image or item: the same, in blue; repeatable.",
        ),
    ] = None,
    text_weight: Annotated[
        float | None,
        typer.Option(metavar="W", min=0, max=1, help="How much words count beside images. [default: 0.5]"),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE|ITEM", help="Ask with this file or item beside each image or item; repeatable."),
    ] = None,
    like_weight: Annotated[
        list[float] | None,
        typer.Option(
            metavar="W", help="How much --like counts; an IMAGE counts 1. Once for all, or once for each. [default: 1]"
        ),
    ] = None,
    fuse: Annotated[
        Literal["mean", "max"] | None,
        typer.Option(help="Answer once for all: with the mean of their vectors, or by the best score that any gives."),
    ] = None,
    not_: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            metavar="IMAGE|ITEM|WORDS",
            help="Less of what looks like this file or item, or else is about these words; repeatable.",
        ),
    ] = None,
    diverse: options.DiverseOption = None,
    format_: options.AnswerFormatOption = "table",
    output_file: options.OutputOption = None,
    where: options.WhereOption = "",
    category: options.CategoryOption = "",
    color: options.ColorOption = "",
    price: options.PriceOption = None,
    range_: options.RangeOption = None,
    by: options.ByOption = None,
    distinct: options.DistinctOption = "",
    min_score: Annotated[float | None, typer.Option(metavar="S", help="Minimum score (cosine, -1 to 1).")] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(
            metavar="P", min=0, max=1, help="Minimum probability that a hit is right, 0 to 1; see evaluate --calibrate."
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every image; slower, never misses.")] = False,
    fallback: options.FallbackOption = None,
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
    rank: Annotated[
        Literal["learned"] | None,
        typer.Option(help="Order the first 200 hits as clicks have taught; see train --objective rank."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Let --rank know what this person did before, by the events of the index."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of each hit what moved it most in the order of --rank.")
    ] = False,
    vote: Annotated[
        bool, typer.Option("--vote", help="Predict the category by a weighted vote of the hits; try --top-k 20.")
    ] = False,
    feedback: Annotated[
        bool,
        typer.Option(
            "--feedback", help="Heed what was said of answers to similar queries; see imgsearch feedback --help."
        ),
    ] = False,
    preview: options.PreviewOption = False,
    null: options.NullOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Find the catalog images most similar to images or words.

    Give many images at once: they share one start. An image that cannot be read is reported, the others are
    answered, and the exit code is 4; likewise with an image that --box lies outside of, and exit code 2. With --fuse
    all are asked with at once, and one that cannot be read leaves no answer.

    Examples:

      imgsearch query photo.jpg --top-k 5

      imgsearch query photo.jpg --preview

      imgsearch query *.jpg --format html -o answers.html

      imgsearch query photo.jpg --format json | jq -r '.[0].hits[].path'

      imgsearch query photo.jpg --where "price < 50 and stock > 0"

      imgsearch query photo.jpg --category shoes --color blue --price ..50 --by product

      imgsearch query --item fruit/apple.png --diverse

      imgsearch query --text "red dress" --price ..50

      imgsearch query photo.jpg --text "in blue" --not "long sleeves"

      imgsearch query front.jpg back.jpg --fuse max --not label.jpg

      imgsearch query photo.jpg --like other.jpg --like-weight 0.5

      imgsearch query photo.jpg --rank learned --user anna --explain

      imgsearch query photo.jpg --vote --top-k 20

      imgsearch query table.jpg --objects --format html -o table.html

      imgsearch query photo.jpg --box 120,80,300,300

      find new -name '*.jpg' -print0 | imgsearch query - -0 --format csv -o answers.csv
    """
    from imgsearch.cli.output import set_up_logging
    from imgsearch.cli.query_options import Additions, questions, refuse_options
    from imgsearch.search import hits as library
    from imgsearch.search.backends import require_backend, runs_backend
    from imgsearch.search.given import box_of, filter_of, regions_of

    set_up_logging(quiet=quiet, verbose=verbose)
    refuse_options(
        {
            "image": images,
            "item": item,
            "text": text,
            "text_weight": text_weight is not None,
            "like": like,
            "like_weight": like_weight,
            "fuse": fuse,
            "not": not_,
            "by": by,
            "distinct": distinct,
            "diverse": diverse is not None,
            "regions": regions != "auto",
            "box": box is not None,
            "objects": objects,
            "vote": vote,
            "rerank": rerank,
            "feedback": feedback,
            "rank": rank,
            "user": user is not None,
            "explain": explain,
        }
    )
    if preview:
        from imgsearch.cli.terminal import require_preview

        require_preview(format_, output_file)
    conditions = filter_of(where, category, color, range_ or (), price, min_score, min_probability)
    # With words every image is compared, and no backend needed.
    exact = exact or bool(text) or (conditions.has_conditions and not runs_backend(index))
    require_backend(index, exact=exact, fallback=fallback is not None)

    from imgsearch.cli.answers import Call, FoundClasses, FoundHits, FoundObjects, hit_columns
    from imgsearch.cli.loop import answer_all, names_of
    from imgsearch.cli.output import refuse_to_harm
    from imgsearch.search.facts import facts_of_answer
    from imgsearch.search.index import Index
    from imgsearch.search.views import QueryImage

    part, limited_to = regions_of(regions), None if box is None else box_of(box)
    with ExitStack() as resources:
        opened = resources.enter_context(Index.open(index, fallback=fallback))
        manifest = opened.manifest
        refuse_to_harm(output_file, index, manifest.catalog, manifest.metadata_file)
        additions = Additions(opened, output_file, text or (), text_weight, like or (), like_weight or (), not_ or ())
        plan = opened.plan(filter=conditions, exact=exact or additions.have_words)
        limits: dict[str, Any] = {
            "filter": conditions,
            "exact": exact,
            "diverse": diverse,
            "distinct": by or distinct,
            "refine": _refinement(opened, resources) if feedback else None,
            "order": _learned_order(opened, user, explains=explain, quiet=quiet) if rank else None,
        }

        def find(image: str) -> "Result":
            if additions:
                return find_together([image])
            query = QueryImage.read(image, manifest.policy)
            compared: list[Hit] = []
            reranking: dict[str, Any] = {"rerank": rerank is not None, "compared": compared.extend}
            if objects:
                found = opened.search_objects(query, top_k, **reranking, **limits)
                state = library.rerank_state(compared) if rerank else None
                return FoundObjects(found, manifest, _drawing(opened, query), query, state)
            hits = opened.search(query, top_k, regions=part, box=limited_to, **reranking, **limits)
            state = library.rerank_state(compared) if rerank else None
            if vote:
                return FoundClasses(library.vote(hits), hits, query, state)
            return FoundHits(hits, manifest, _drawing(opened, query), query, state)

        def find_together(asked: "Sequence[str | Indexed]") -> "Result":
            hits = additions.search(asked, top_k, fuse, regions=part, **limits)
            described = additions.described(asked, is_fused=fuse is not None)
            if vote:
                return FoundClasses(library.vote(hits), hits, asked=described)
            return FoundHits(hits, manifest, lambda _: None, None, asked=described)

        columns = (
            FoundClasses.COLUMNS
            if vote
            else hit_columns(
                with_probability=additions.have_probability(is_alone=not (images or item)),
                with_others=bool(by or distinct),
                with_matched=additions.have_words,
                with_moved=explain,
                with_boxes=objects,
            )
        )
        details = () if vote else (plan, f"{manifest.count} images")
        call = Call(columns, find, facts_of_answer(opened, conditions, plan), details, "query")
        names = names_of(images or (), output_file, null=null)
        asked_for = questions(
            names,
            item or (),
            additions,
            find,
            find_together,
            is_fused=fuse is not None,
            is_alone=not (images or item),
        )
        raise typer.Exit(answer_all(call, asked_for, format_, output_file, null=null, preview=preview))


def _refinement(index: "Index", resources: ExitStack) -> "Refine | None":
    """Return what moves queries by the feedback of an index; None where there is none, and then no file is made."""
    from imgsearch.personal.feedback import FEEDBACK_FILE, FeedbackStore
    from imgsearch.personal.rocchio import refine_views

    if not (index.directory / FEEDBACK_FILE).exists():
        return None
    return refine_views(index, resources.enter_context(FeedbackStore(index.directory, read_only=True)))


def _learned_order(index: "Index", user: str | None, *, explains: bool, quiet: bool) -> "Order":
    """Return what orders hits as clicks have taught, knowing what a person did before, if one is named."""
    from imgsearch.cli.output import printable, say
    from imgsearch.personal.ranking.order import known_history, learned_order

    history = None if user is None else known_history(index, user)
    if user is not None and not history and not quiet:
        say(f"{printable(user)}: nothing says what they like; hits are in the order that is for everybody")
    return learned_order(index, history, explains=explains)


def _drawing(index: "Index", query: "QueryImage") -> "Callable[[Hit], Pixels | None]":
    """Return what draws the points that a hit has in common with a query; imported where some have been compared."""

    def draw(hit: "Hit") -> "Pixels | None":
        from imgsearch.search.rerank import draw_hit

        return draw_hit(index.manifest, index.items, query, hit)

    return draw

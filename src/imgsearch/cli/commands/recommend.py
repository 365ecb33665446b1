"""`imgsearch recommend`."""

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgsearch.cli.answers import Picture, Result
    from imgsearch.personal.event_store import EventStore
    from imgsearch.personal.recommend.history import History
    from imgsearch.search.index import Index


def recommend(
    user: Annotated[
        list[str] | None,
        typer.Option(
            metavar="USER",
            help="Whose events to recommend from, as they were imported; repeatable. - reads one name per line from"
            " standard input.",
        ),
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Recommend to somebody who likes these products or images of the index."),
    ] = None,
    session: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Recommend from one person's events in a file: see imgsearch events import --help."
        ),
    ] = None,
    index: options.IndexOption = options.DEFAULT_INDEX,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="K", min=1, help="Maximum number of hits.")] = 10,
    method: Annotated[
        Literal["auto", "hybrid", "content", "collaborative", "popular"],
        typer.Option(
            help="content: what looks like what they like; collaborative: what others want who want the same; popular:"
            " what most want; hybrid: all of these; auto: hybrid, or what can be had of it."
        ),
    ] = "auto",
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Leave out the products that the person did something with.")
    ] = False,
    where: options.WhereOption = "",
    category: options.CategoryOption = "",
    color: options.ColorOption = "",
    price: options.PriceOption = None,
    range_: options.RangeOption = None,
    by: options.ByOption = None,
    distinct: options.DistinctOption = "",
    diverse: options.DiverseOption = None,
    format_: options.AnswerFormatOption = "table",
    output_file: options.OutputOption = None,
    null: options.NullOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Recommend products to a person, from what they did.

    Give exactly one of --user, --items and --session; the last two are kept nowhere. What somebody disliked or gave
    back is never recommended to them. To somebody of whom nothing is known, popular products are.

    Examples:

      imgsearch recommend --user anna --exclude-seen --by product

      imgsearch recommend --items sku-4711,sku-4712 --category shoes --price ..50

      imgsearch recommend --session basket.jsonl --diverse

      imgsearch recommend --user anna --method popular --category shoes

      imgsearch recommend --user - --format jsonl -o recommended.jsonl < users.txt
    """
    from imgsearch.cli.output import set_up_logging
    from imgsearch.search.given import filter_of

    set_up_logging(quiet=quiet, verbose=verbose)
    _refuse_options(user, items, session, exclude_seen=exclude_seen, by=by, distinct=distinct)
    conditions = filter_of(where, category, color, range_ or (), price, None, None)

    from imgsearch.cli.answers import Asked, Call, FoundHits, hit_columns
    from imgsearch.cli.formats import end_of_path
    from imgsearch.cli.loop import answer_all, listed_names
    from imgsearch.cli.output import printable, refuse_to_harm, refuse_to_replace, say
    from imgsearch.personal.recommend.recommender import Recommender
    from imgsearch.search.facts import facts_of_answer
    from imgsearch.search.index import Index

    with ExitStack() as resources:
        opened = resources.enter_context(Index.open(index))
        manifest = opened.manifest
        refuse_to_harm(output_file, index, manifest.catalog, manifest.metadata_file)
        recommender = resources.enter_context(Recommender(opened))
        recommender.begin(method)
        history_of: Callable[[str], History]
        if items is not None:
            names: Iterable[str] = [items]
            liked = [name.strip() for name in items.split(",")]
            history_of = lambda _: recommender.history_of_items(liked)  # noqa: E731  # as the others
        elif session is not None:
            refuse_to_replace(output_file, "the events to recommend from", session)
            names = [str(session)]
            history_of = partial(_history_of_file, opened, recommender.half_life, _events(opened, resources))
        else:
            names = listed_names(user or (), end_of_path(null=null).encode())
            history_of = partial(_history_of_user, opened, recommender.half_life, _events(opened, resources))

        def find(name: str) -> "Result":
            history = history_of(name)
            way = recommender.method_for(history, method)
            if way == "popular" != method and not quiet:
                say(f"{printable(name)}: nothing says what they like; popular products are recommended")
            hits = recommender.recommend(
                history,
                top_k,
                method=way,
                filter=conditions,
                distinct=by or distinct,
                diverse=diverse,
                exclude_seen=exclude_seen or items is not None,
            )
            asked = Asked(partial(_pictures, opened, history if items else None))
            return FoundHits(hits, manifest, lambda _: None, None, asked=asked, method=way)

        columns = hit_columns(with_others=bool(by or distinct), with_matched=True)
        facts = facts_of_answer(opened, conditions, "exact")  # every item is scored
        call = Call(columns, find, facts, (f"{manifest.count} images",), "recommend")
        questions = ((name, partial(find, name)) for name in names)
        raise typer.Exit(answer_all(call, questions, format_, output_file, null=null))


def _refuse_options(
    user: "Sequence[str] | None",
    items: str | None,
    session: Path | None,
    *,
    exclude_seen: bool,
    by: str | None,
    distinct: str,
) -> None:
    """Raise `UsageError` for options that cannot be combined."""
    from imgsearch.errors import UsageError
    from imgsearch.search.given import refuse_contradictions

    given = {"--user": user, "--items": items is not None, "--session": session is not None}
    names = [name for name, is_given in given.items() if is_given]
    if len(names) != 1:
        raise UsageError(
            f"expected one of {', '.join(given)}, found {' and '.join(names) or 'none'}",
            hint="see imgsearch recommend --help",
        )
    if exclude_seen and items is not None:
        raise UsageError("--exclude-seen has no effect with --items", hint="these are left out anyway")
    refuse_contradictions({"by": by, "distinct": distinct}, "--{}".format)


def _events(index: "Index", resources: ExitStack) -> "EventStore | None":
    """Open the events of an index; None where there are none, and then no file is made."""
    from imgsearch.personal.event_store import EVENTS_FILE, EventStore

    if not (index.directory / EVENTS_FILE).exists():
        return None
    return resources.enter_context(EventStore(index.directory, read_only=True))


def _history_of_user(index: "Index", half_life: float, store: "EventStore | None", user: str) -> "History":
    from imgsearch.personal.recommend.history import NO_HISTORY, history_of_user

    return NO_HISTORY if store is None else history_of_user(store, user, index.items, half_life)


def _history_of_file(index: "Index", half_life: float, store: "EventStore | None", file: str) -> "History":
    from imgsearch.personal.event_files import events_of_one
    from imgsearch.personal.events import DEFAULT_WEIGHTS
    from imgsearch.personal.recommend.history import MOST_READ, history_of

    events = events_of_one(Path(file), MOST_READ)
    newest = max((event.time for event in events), default=0)
    return history_of(events, index.items, DEFAULT_WEIGHTS if store is None else store.weights(), half_life, newest)


def _pictures(index: "Index", history: "History | None") -> "list[Picture]":
    """Return the images that were asked with, for a page."""
    from imgsearch.cli.answers import Picture

    items = [] if history is None else index.items.fetch(history.rows.tolist())
    return [Picture(item.path, os.path.join(index.manifest.catalog, item.path)) for item in items]

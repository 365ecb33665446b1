"""`imgsearch feedback add`, `list`, `export` and `forget`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgsearch.personal.feedback import Judgment
    from imgsearch.search.index import Index
    from imgsearch.search.views import View

# Of `add`: so many hits are kept as what was shown.
_SHOWN = 10

_COLUMNS = ("time", "verdict", "path", "session", "answer", "generation", "space", "shown")


def feedback() -> None:
    """Keep what people say of answers, for query --feedback.

    Judgments are kept in feedback.sqlite in the index. Builds and rollbacks leave it alone.
    """


def add(
    image: Annotated[str | None, typer.Argument(metavar="[IMAGE]", help="Image file that was asked with.")] = None,
    index: options.IndexOption = options.DEFAULT_INDEX,
    item: Annotated[
        str | None, typer.Option(metavar="PATH|PRODUCT", help="What was asked with, if it is in the index.")
    ] = None,
    chosen: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="An image of the catalog that was right; repeatable.")
    ] = None,
    rejected: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="An image of the catalog that was wrong; repeatable.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Whose judgments these are; they can be forgotten by it.")
    ] = None,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Keep which items were right and which were wrong.

    The index is asked once, as by imgsearch query, for the vector of what was asked with.

    Examples:

      imgsearch feedback add photo.jpg --chosen fruit/apple.png --rejected fruit/pear.png

      imgsearch feedback add --item fruit/apple.png --rejected animals/snail.png
    """
    from imgsearch.cli.output import say, set_up_logging
    from imgsearch.errors import UsageError
    from imgsearch.search.backends import require_backend

    set_up_logging(quiet=quiet, verbose=verbose)
    right, wrong = chosen or [], rejected or []
    if (image is None) == (item is None):
        found = "none" if image is None else "both"
        raise UsageError(f"expected an image or --item, found {found}", hint="see imgsearch feedback add --help")
    if not right and not wrong:
        raise UsageError("expected --chosen or --rejected, found neither", hint="see imgsearch feedback add --help")
    require_backend(index, exact=False)

    import secrets

    from imgsearch.personal.feedback import FeedbackStore, Shown, space_of
    from imgsearch.personal.rocchio import nearest_view
    from imgsearch.search.index import Index
    from imgsearch.search.views import Indexed

    with Index.open(index) as opened:
        rows = {verdict: _rows(opened, names) for verdict, names in (("chosen", right), ("rejected", wrong))}
        if both := set(rows["chosen"]) & set(rows["rejected"]):
            path = rows["chosen"][min(both)]
            raise UsageError(f"expected {path!r} to be chosen or rejected, found both")
        views: list[View] = []

        def keep(asked: "Sequence[View]") -> "Sequence[View]":
            views.extend(asked)
            return asked

        asked = Indexed(item) if item is not None else image or ""
        shown = [hit.path for hit in opened.search_together([asked], _SHOWN, refine=keep)]
        judged = rows["chosen"] | rows["rejected"]
        paths = tuple(dict.fromkeys([*shown, *judged.values()]))
        answer, space = secrets.token_hex(16), space_of(opened.manifest)
        with FeedbackStore(index) as store:
            for row, path in judged.items():
                vector = nearest_view(opened, views, row).vector
                verdict: Literal["chosen", "rejected"] = "chosen" if row in rows["chosen"] else "rejected"
                store.judge(
                    Shown(answer, opened.manifest.generation, space, vector, paths), path, verdict, session or ""
                )
    if not quiet:
        say(f"judgments kept: {len(judged)}")


def list_(
    index: options.IndexOption = options.DEFAULT_INDEX,
    format_: options.FormatOption = "table",
    output_file: options.OutputOption = None,
) -> None:
    """List the judgments, the oldest first."""
    import json

    from imgsearch.cli.output import draw_table, print_text, printable

    _refuse_to_harm(output_file, index)
    kept = list(_judgments(index))
    if format_ == "json":
        print_text(json.dumps([_facts(each) for each in kept], indent=1) + "\n", output_file)
        return
    rows = [(_time(each), each.verdict, each.path, each.session, each.shown.id) for each in kept]
    count = f"judgments: {len(kept)}"
    heads = ("time", "verdict", "image", "session", "answer")
    print_text(draw_table(printable(count), heads, rows, heads) if rows else f"{count}\n", output_file)


def export(
    index: options.IndexOption = options.DEFAULT_INDEX,
    format_: Annotated[Literal["jsonl", "csv"], typer.Option("--format", help="Output format.")] = "jsonl",
    output_file: options.OutputOption = None,
) -> None:
    """Write all that is kept, a line for each judgment.

    In jsonl that is also the vector of the query.

    Examples:

      imgsearch feedback export -o feedback.jsonl
    """
    import json

    from imgsearch.cli.formats import csv_line
    from imgsearch.cli.output import output, write

    _refuse_to_harm(output_file, index)
    with output(output_file) as file:
        if format_ == "csv":
            write(file, csv_line(_COLUMNS))
        for each in _judgments(index):
            facts = _facts(each)
            if format_ == "csv":
                facts["shown"] = json.dumps(facts["shown"])
                write(file, csv_line(facts[name] for name in _COLUMNS))
            else:
                facts["vector"] = [float(f"{number:.9g}") for number in each.shown.vector.tolist()]
                write(file, json.dumps(facts) + "\n")


def forget(
    index: options.IndexOption = options.DEFAULT_INDEX,
    session: Annotated[str | None, typer.Option(metavar="TOKEN", help="The judgments of this session.")] = None,
    before: options.BeforeOption = None,
    all_: Annotated[bool, typer.Option("--all", help="All judgments.")] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Remove judgments: of a session, before a date, or all.

    Examples:

      imgsearch feedback forget --before 2026-01-01
    """
    from imgsearch.cli.output import say
    from imgsearch.errors import UsageError
    from imgsearch.personal.feedback import FEEDBACK_FILE, FeedbackStore
    from imgsearch.store.generations import read_manifest

    if (session is not None) + (before is not None) + all_ != 1:
        raise UsageError("expected one of --session, --before and --all", hint="see imgsearch feedback forget --help")
    until = None if before is None else options.read_before(before)
    read_manifest(index)
    count = 0
    if (index / FEEDBACK_FILE).exists():
        with FeedbackStore(index) as store:
            count = store.forget(session=session, before=until, everything=all_)
    if not quiet:
        say(f"judgments forgotten: {count}")


COMMANDS = (add, list_, export, forget)


def _rows(index: "Index", names: "Sequence[str]") -> dict[int, str]:
    """Return the items of these names: path by row."""
    rows = [row for name in names for row in index.nearest.rows_named(name)]
    return {item.row: item.path for item in index.items.fetch(rows)}


def _judgments(index: Path) -> "Iterator[Judgment]":
    """Yield what is kept; nothing where nothing was, and then no file is made."""
    from imgsearch.personal.feedback import FEEDBACK_FILE, FeedbackStore

    if (index / FEEDBACK_FILE).exists():
        with FeedbackStore(index, read_only=True) as store:
            yield from store.judgments()


def _refuse_to_harm(output_file: Path | None, index: Path) -> None:
    from imgsearch.cli.output import refuse_to_harm
    from imgsearch.store.generations import read_manifest

    manifest = read_manifest(index)
    refuse_to_harm(output_file, index, manifest.catalog, manifest.metadata_file)


def _facts(judgment: "Judgment") -> dict[str, Any]:
    shown = judgment.shown
    return {
        "time": _time(judgment),
        "verdict": judgment.verdict,
        "path": judgment.path,
        "session": judgment.session,
        "answer": shown.id,
        "generation": shown.generation,
        "space": shown.space,
        "shown": list(shown.paths),
    }


def _time(judgment: "Judgment") -> str:
    return judgment.time.strftime("%Y-%m-%dT%H:%M:%SZ")

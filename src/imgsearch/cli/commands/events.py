"""`imgsearch events import`, `stats`, `forget` and `weights`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgsearch.personal.events import EventStats, Kind

# Rows that are named on standard error.
_NAMED = 10


def events() -> None:
    """Keep what people did with products, to learn from.

    Events are kept in events.sqlite in the index. Builds and rollbacks leave it alone.
    """


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Log of the shop: .csv, .jsonl or .parquet.", show_default=False)
    ],
    index: options.IndexOption = options.DEFAULT_INDEX,
    encoding: Annotated[str, typer.Option(metavar="NAME", help="Encoding of its text.")] = "utf-8",
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows that are no events, one JSON object a line.")
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Add the events of a log to those that are kept; what was imported before counts once.

    Its columns: time, user, event (view, click, cart, buy, like, dislike or return), product or path; and if you
    have them, query, position and session.

    Examples:

      imgsearch events import yesterday.csv

      imgsearch events import 2026-01.parquet --report refused.jsonl

    Exit codes: 0 done, 3 done but some rows are no events, 2 FILE or the key of the names is not as it should be,
    8 a library is missing, 11 no space, 130 interrupted: import it again.
    """
    import contextlib
    import json
    import os

    from imgsearch.cli.output import REJECTED_EXIT_CODE, output, printable, refuse_to_replace, say, write
    from imgsearch.personal.event_files import RefusedRow, import_events

    if report:
        _refuse_to_harm(report, index)
        refuse_to_replace(report, "the log", file)
    named = 0
    with contextlib.ExitStack() as opened:
        report_file = opened.enter_context(output(report)) if report else None

        def refuse(row: RefusedRow) -> None:
            nonlocal named
            if report_file:
                write(report_file, json.dumps({"line": row.line, "cause": row.cause, "problem": row.problem}) + "\n")
            if not quiet and named < _NAMED:
                say(f"refused line {row.line}: {printable(row.problem)}")
            named += 1

        done = import_events(index, file, encoding=encoding, refuse=refuse)
    if not quiet:
        causes = ", ".join(f"{count:,} {cause}" for cause, count in done.refused.items())
        elsewhere = "; --report FILE names all" if named > _NAMED and not report else ""
        say(
            f"{printable(os.fspath(file))}: {done.new:,} new events, {done.known:,} known, {named:,} rows refused"
            + (f" ({causes}){elsewhere}" if causes else "")
        )
    raise typer.Exit(REJECTED_EXIT_CODE if done.refused else 0)


def stats(
    index: options.IndexOption = options.DEFAULT_INDEX,
    format_: options.FormatOption = "table",
    output_file: options.OutputOption = None,
) -> None:
    """Count what is kept, and check its file."""
    import json

    from imgsearch.cli.output import columns, print_text
    from imgsearch.personal.event_store import event_stats

    _refuse_to_harm(output_file, index)
    facts = _facts(event_stats(index))
    if format_ == "json":
        print_text(json.dumps(facts, indent=1) + "\n", output_file)
        return
    of_kinds = facts.pop("events")
    rows = {**of_kinds, **facts}.items()
    shown = [(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else value or "-") for name, value in rows]
    print_text(columns(shown), output_file)


def forget(
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="The events of this user.")] = None,
    index: options.IndexOption = options.DEFAULT_INDEX,
    before: options.BeforeOption = None,
    quiet: options.QuietOption = False,
) -> None:
    """Remove the events of a user, or those before a date.

    Nothing of them is left in the file. What was learned from them goes with the next imgsearch train.

    Examples:

      imgsearch events forget customer-17

      imgsearch events forget --before 2026-01-01
    """
    from imgsearch.cli.output import say
    from imgsearch.errors import UsageError
    from imgsearch.personal.event_store import EVENTS_FILE, EventStore
    from imgsearch.personal.live_database import microseconds
    from imgsearch.store.generations import read_manifest

    if (user is None) == (before is None):
        raise UsageError("expected one of USER and --before", hint="see imgsearch events forget --help")
    until = None if before is None else microseconds(options.read_before(before))
    read_manifest(index)
    count = 0
    if (index / EVENTS_FILE).exists():
        with EventStore(index) as store:
            count = store.forget(user=user, before=until)
    if not quiet:
        say(f"events forgotten: {count:,}")


def weights(
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[EVENT=WEIGHT]...", help="New weights, -1000 to 1000.")
    ] = None,
    index: options.IndexOption = options.DEFAULT_INDEX,
) -> None:
    """Show how much an event of each kind says of a product, or change it.

    Examples:

      imgsearch events weights

      imgsearch events weights buy=10 return=-10
    """
    from imgsearch.cli.output import columns, print_text
    from imgsearch.personal.event_store import EVENTS_FILE, EventStore
    from imgsearch.personal.events import DEFAULT_WEIGHTS
    from imgsearch.store.generations import read_manifest

    changed = _weights(changes or [])
    read_manifest(index)
    found = dict(DEFAULT_WEIGHTS)
    if changed or (index / EVENTS_FILE).exists():
        with EventStore(index, read_only=not changed) as store:
            if changed:
                store.set_weights(changed)
            found = store.weights()
    print_text(columns([(kind, f"{weight:g}") for kind, weight in found.items()]))


COMMANDS = (import_, stats, forget, weights)


def _weights(changes: "Sequence[str]") -> "dict[Kind, float]":
    from imgsearch.errors import UsageError

    found: dict[Any, float] = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise UsageError(f"expected an event and its weight, such as buy=10, found {change!r}") from None
    return found


def _facts(found: "EventStats") -> dict[str, Any]:
    return {
        "events": dict(found.kinds),
        "users": found.users,
        "products": found.products,
        "products_not_in_catalog": found.absent,
        "first": _time(found.first),
        "last": _time(found.last),
        "bytes": found.bytes,
    }


def _time(time: int | None) -> str | None:
    from datetime import UTC, datetime

    return None if time is None else datetime.fromtimestamp(time // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _refuse_to_harm(output_file: Path | None, index: Path) -> None:
    from imgsearch.cli.output import refuse_to_harm
    from imgsearch.store.generations import read_manifest

    manifest = read_manifest(index)
    refuse_to_harm(output_file, index, manifest.catalog, manifest.metadata_file)

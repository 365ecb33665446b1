"""`imgsearch check`."""

from typing import Annotated, Literal

import typer

from imgsearch.cli.options import DEFAULT_INDEX, IndexOption


def check(
    index: IndexOption = DEFAULT_INDEX,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also whether the files agree, the encoder opens, and rollback is possible.")
    ] = False,
    format_: Annotated[Literal["table", "json"], typer.Option("--format", help="Form of the answer.")] = "table",
) -> None:
    """Look whether an index is whole; change nothing.

    Reads every file and compares it with what was published. Says nothing about a whole index; otherwise names
    each damaged or missing file and what to do about it, and the exit code is 6.

    Examples:

      imgsearch check

      imgsearch check --deep --index /srv/shop.idx
    """
    import json
    from dataclasses import asdict

    from imgsearch.cli.output import print_text
    from imgsearch.cli.terminal import printable
    from imgsearch.errors import DamagedIndexError
    from imgsearch.search import check as library

    findings = library.check(index, deep=deep)
    if format_ == "json":
        text = json.dumps([asdict(finding) for finding in findings], indent=1) + "\n"
    else:
        text = "".join(
            f"{printable(finding.file)}: {printable(finding.problem)}\n  {printable(finding.remedy)}\n"
            for finding in findings
        )
    print_text(text)
    raise typer.Exit(DamagedIndexError.exit_code if findings else 0)

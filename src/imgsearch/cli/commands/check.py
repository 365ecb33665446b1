"""`imgsearch check`."""

from typing import Annotated

import typer

from imgsearch.cli import options


def check(
    index: options.IndexOption = options.DEFAULT_INDEX,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also check that the files agree, the encoder opens, and rollback is possible."),
    ] = False,
    format_: options.FormatOption = "table",
) -> None:
    """Verify that an index is intact; changes nothing.

    Every file is compared with what was published. Prints nothing about an intact index; otherwise lists each
    damaged or missing file and what to do about it, and the exit code is 6.

    Examples:

      imgsearch check

      imgsearch check --deep --index /srv/shop.idx
    """
    import json
    from dataclasses import asdict

    from imgsearch.cli.output import print_text, printable
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

"""What a build tells its user: rejected files on standard error, one line on standard output."""

import os
from collections import Counter
from pathlib import Path

from imgsearch.cli.render import output, write
from imgsearch.cli.terminal import printable, say
from imgsearch.index.report import BuildReport

# A folder with thousands of files of one bad kind should not fill a mailbox with them.
_SHOWN_OF_A_CAUSE = 20

REJECTED_EXIT_CODE = 3


def report_build(report: BuildReport, directory: Path, *, quiet: bool, strict: bool) -> int:
    """Say what a build did.

    Args:
        report: Of the build.
        directory: Where it wrote.
        quiet: Say nothing; the exit code says it.
        strict: Whether any rejected file counts, not only those rejected for the first time.

    Returns:
        The exit code, 0 or 3.
    """
    if not quiet:
        _name_rejects(report)
        with output(None) as file:
            write(file, f"{_summary(report, printable(os.fspath(directory)))}\n")
    counts = report.rejected if strict else len(report.new_rejects)
    return REJECTED_EXIT_CODE if counts else 0


def _name_rejects(report: BuildReport) -> None:
    shown: Counter[str] = Counter()
    for reject in report.new_rejects:
        shown[reject.cause] += 1
        if shown[reject.cause] <= _SHOWN_OF_A_CAUSE:
            detail = f" ({printable(reject.message)})" if reject.message else ""
            say(f"rejected {printable(reject.path)}: {reject.cause}{detail}")
    for cause, count in shown.items():
        if count > _SHOWN_OF_A_CAUSE:
            say(f"rejected {count - _SHOWN_OF_A_CAUSE} more: {cause} (imgsearch info --rejected names them)")


def _summary(report: BuildReport, directory: str) -> str:
    state = f"{directory}: {report.count} pictures, generation {report.generation}"
    rejected = f", {report.rejected} rejected" if report.rejected else ""
    if not report.published:
        return f"{state}, nothing changed{rejected} ({report.seconds:.1f} s)"
    return (
        f"{state}: {report.embedded} embedded, {report.renamed} renamed or copied, {report.removed} removed,"
        f" {report.unchanged} unchanged{rejected} ({report.seconds:.1f} s)"
    )

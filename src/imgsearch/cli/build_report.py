"""What a build tells its user: rejected files on standard error, one line on standard output, a file for programs."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imgsearch.build.report import BuildReport
from imgsearch.cli.output import REJECTED_EXIT_CODE, print_text, printable, require_writable, say, say_rejects
from imgsearch.encoders.projection import AdaptationGain
from imgsearch.errors import ImgsearchError, OutputError
from imgsearch.records import as_json
from imgsearch.store.info import info
from imgsearch.system import refusal_of

_COUNTS = ("seen", "unchanged", "renamed", "embedded", "resumed", "removed", "rejected")

# Rows and images that a report lists: all images may be without a row, and their number says as much.
_MOST_UNMATCHED = 1000


def report_build(report: BuildReport, directory: Path, *, quiet: bool, strict: bool) -> int:
    """Print what a build did; returns the exit code: 3 if files are newly rejected, with `strict` if any are."""
    if not quiet:
        say_rejects(report.new_rejects, " (imgsearch info --rejected names them)")
        print_text(f"{_summary(report, printable(os.fspath(directory)))}\n")
    counts = report.rejected if strict else len(report.new_rejects)
    return REJECTED_EXIT_CODE if counts else 0


class ReportFile:
    """`--report FILE`: one JSON object about a run, whether it succeeded or not; nothing for None."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @contextlib.contextmanager
    def of_failures(self) -> Iterator[None]:
        """Write the report if what is done inside fails; that it can be written is known before a long build."""
        if self._path is not None:
            require_writable(self._path)
        try:
            yield
        except ImgsearchError as error:
            self._write_failure(error.exit_code, error.message, error.hint)
            raise
        except KeyboardInterrupt:
            self._write_failure(130, "interrupted")
            raise
        except SystemExit as end:  # SIGTERM and SIGHUP
            self._write_failure(end.code, "ended by a signal")
            raise
        except Exception as error:
            if refusal := refusal_of(error):
                self._write_failure(refusal.exit_code, refusal.message, refusal.hint)
            else:
                self._write_failure(
                    ImgsearchError.exit_code, f"a bug: {error!r}", "please report what is on standard error"
                )
            raise

    def write(self, report: BuildReport, directory: Path, exit_code: int) -> None:
        """Write the report of a run that succeeded; docs/output-format.md describes it."""
        if self._path is None:
            return
        found = info(directory, rejected=True, unmatched=_MOST_UNMATCHED)
        facts = as_json(report)
        counts = {
            **{name: facts[name] for name in _COUNTS},
            "rejected_new": len(report.new_rejects),
            "rejected_by_cause": dict(sorted(report.causes.items())),
            "damaged": report.damaged,
            "blank": report.blank,
            "ignored_profiles": report.ignored_profiles,
            "forgotten": report.forgotten,
            "texts_encoded": report.texts_encoded,
            "rows_without_image": report.rows_without_image,
            "images_without_row": report.images_without_row,
            "left_out": dict(sorted(report.left_out.items())),
        }
        self._write(
            {
                "exit_code": exit_code,
                **{name: facts[name] for name in ("generation", "published")},
                "counts": counts,
                "rejected": [
                    {"path": each.path, "cause": each.cause, "first_seen": each.first_seen} for each in found.rejected
                ],
                "damaged": [{"path": path, "message": message} for path, message in found.damaged],
                "blank": [{"path": path, "color": color} for path, color in found.blank],
                "ignored_profiles": [{"path": path, "message": message} for path, message in found.ignored_profiles],
                "rows_without_image": [{"line": line, "path": path} for line, path in found.rows_without_image],
                "images_without_row": list(found.images_without_row),
                "seconds": {stage: round(seconds, 3) for stage, seconds in report.seconds.items()},
                "images_per_second": round(report.images_per_second, 2),
                **{name: facts[name] for name in ("peak_rss_bytes", "encoder", "plan", "adaptation", "int8")},
            }
        )

    def _write_failure(self, exit_code: object, message: str, hint: str = "") -> None:
        try:
            self._write({"exit_code": exit_code, "error": {"message": message, "hint": hint}})
        except OutputError as error:
            say(printable(error.message))  # the failure itself, which follows, matters more

    def _write(self, facts: dict[str, Any]) -> None:
        if self._path is not None:
            print_text(json.dumps(facts, indent=1) + "\n", self._path)


def _summary(report: BuildReport, directory: str) -> str:
    state = f"{directory}: {report.count} images, generation {report.generation}"
    rejected = f", {report.rejected} rejected" if report.rejected else ""
    odd = f", {report.damaged} damaged but kept" if report.damaged else ""
    odd += f", {report.blank} of one color" if report.blank else ""
    odd += f", {report.ignored_profiles} with a color profile of no use" if report.ignored_profiles else ""
    texts = f", {report.texts_encoded} texts encoded" if report.texts_encoded else ""
    adapted = f", adapted: {gain_in_words(report.adaptation)}" if report.adaptation else ""
    adapted += f", in int8: {report.int8.in_words()}" if report.int8 else ""
    seconds = report.seconds["total"]
    if not report.published:
        return f"{state}, nothing changed{rejected}{odd} ({seconds:.1f} s)"
    return (
        f"{state}: {report.embedded} embedded, {report.renamed} renamed or copied, {report.removed} removed,"
        f" {report.unchanged} unchanged{rejected}{odd}{texts}{adapted} ({seconds:.1f} s)"
    )


def gain_in_words(gain: AdaptationGain) -> str:
    """Return what an adaptation is worth, and whether it is used."""
    return gain.in_words() + ("" if gain.helps else ", which does not help, so it is not used")

"""Is it good enough (gates), and is it worse than before (two evaluations of the same queries)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from imgsearch.errors import UsageError
from imgsearch.evaluation.bootstrap import Interval, paired_interval
from imgsearch.evaluation.metrics import measures
from imgsearch.evaluation.record import Record

# A loss of these is a failure. They are few, and unlike one another: each one more is another chance of a false alarm.
GUARDED = ("hit_rate@1", "map", "ndcg@10", "index_recall@10")
# A smaller loss is none, however sure: forests and networks differ by as much from processor to processor.
LEAST_LOSS = 0.002
# What a shop takes out of its catalog in a day is less than a tenth; what an unmounted disk takes is more.
LEAST_KEPT = 0.9

_RECALL = "--recall"
_RETRIEVAL = "--labels, --queries or --self-test"
# What comes before the @ in a flat name -> the option that measures it.
_OPTIONS = {
    "count": "every evaluation",
    "queries": _RETRIEVAL,
    "index_recall": _RECALL,
    "queries_per_second": _RECALL,
    **{name.partition("@")[0]: _RETRIEVAL for name in measures(np.array([1]), 1)},
}
_LESS_IS_BETTER = ("latency", "calibration_error")
_LISTED = 20
# A mean of 0.8 may come out of its sum as 0.7999999999999999.
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Gate:
    """What a figure must be at least.

    Attributes:
        name: Flat name of the figure.
        least: Finite.
    """

    name: str
    least: float


@dataclass(frozen=True, slots=True)
class Change:
    """How one measure changed on the queries that were asked both times.

    Attributes:
        name: Flat name of the measure.
        asked: How many queries were asked before.
        queries: How many of them were asked again, at least 1.
        before: Mean over these, then, 0 to 1.
        after: Mean over these, now.
        difference: Mean of after - before, and its paired 99 % interval.
    """

    name: str
    asked: int
    queries: int
    before: float
    after: float
    difference: Interval

    @property
    def worse(self) -> bool:
        """Whether it is a loss that is neither chance nor too small to count."""
        return self.difference.high < 0 and self.difference.mean <= -LEAST_LOSS


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of the figures of an earlier evaluation.

    Attributes:
        changes: Of every measure that both evaluations have for the same queries, those of `GUARDED` first.
        problems: What is worse, a line for each; empty if nothing is.
    """

    changes: tuple[Change, ...]
    problems: tuple[str, ...]


def parse_gate(text: str) -> Gate:
    """Read a gate such as `hit_rate@1=0.8`.

    Raises:
        UsageError: It is not of that form, there is no such figure, or that figure is the better the smaller it is.
    """
    name, _, number = text.rpartition("=")
    try:
        least = float(number)
    except ValueError:
        least = math.nan
    if not name.strip() or not math.isfinite(least):
        raise UsageError(f"--min: expected NAME=NUMBER, found {text!r}", hint="for example --min hit_rate@1=0.8")
    stem = name.strip().partition("@")[0]
    if stem not in _OPTIONS and not stem.startswith(_LESS_IS_BETTER):
        near = get_close_matches(stem, _OPTIONS, n=1)
        rest = name.strip().removeprefix(stem)
        hint = f"did you mean {near[0]}{rest}?" if near else "docs/metrics.md names all figures"
        raise UsageError(f"--min: expected the name of a figure, found {name.strip()!r}", hint=hint)
    if stem.startswith(_LESS_IS_BETTER):
        raise UsageError(
            f"--min {name.strip()}: expected a figure that is the better the larger it is,"
            " found one that should be small",
            hint="--min queries_per_second=NUMBER asks for speed" if stem.startswith("latency") else "",
        )
    return Gate(name.strip(), least)


def require_measured(gates: Sequence[Gate], *, recall: bool, retrieval: bool) -> None:
    """Refuse gates on what is not going to be measured, before anything is.

    Args:
        gates: What is asked for.
        recall: Whether index recall is measured.
        retrieval: Whether queries are judged.

    Raises:
        UsageError: One is on another figure.
    """
    for gate in gates:
        option = _OPTIONS[gate.name.partition("@")[0]]
        if (option == _RECALL and not recall) or (option == _RETRIEVAL and not retrieval):
            raise UsageError(
                f"--min {gate.name}: expected a figure that is measured, found one that is not",
                hint=f"{option} measures it",
            )


def unmet(gates: Sequence[Gate], figures: Mapping[str, Interval]) -> list[str]:
    """Say which gates are not met, and by how much.

    Args:
        gates: What is asked for.
        figures: What was measured, by flat name. The mean counts, not the end of its interval.

    Returns:
        A line for each gate that is not met.

    Raises:
        UsageError: A gate is on a figure that was not measured.
    """
    lines = []
    for gate in gates:
        _require_gateable(gate.name, figures)
        mean = figures[gate.name].mean
        lacking = gate.least - mean
        if lacking > _TOLERANCE:
            # So many digits that what is lacking can be seen.
            digits = max(3, 1 - math.floor(math.log10(lacking)))
            found, short, least = (_plain(number, digits) for number in (mean, lacking, gate.least))
            lines.append(f"{gate.name} is {found}, {short} below {least}")
    return lines


def compare(before: Record, after: Record) -> Comparison:
    """Compare two evaluations by the queries that were asked both times.

    A measure of `GUARDED` is worse if the paired bootstrap interval (99 %) of its change lies below 0 and it lost at
    least `LEAST_LOSS`. Queries or items that are there no more are a problem of their own: what is missing cannot
    be wrong.

    Args:
        before: The earlier evaluation.
        after: The later one, as it would be read from its file: rounded alike, so that what is the same is equal.

    Raises:
        UsageError: They were set up differently, or have no measure in common.
    """
    _require_same_setup(before, after)
    common = [name for name in GUARDED if name in before.per_query and name in after.per_query]
    common += [name for name in before.per_query if name in after.per_query and name not in GUARDED]
    if not common:
        raise UsageError(
            "expected evaluations with a measure in common, found none",
            hint="run evaluate with the options of that evaluation, or write a new file with --json",
        )
    problems: dict[str, None] = {}  # in order, and each once: most measures have the same queries
    changes = []
    for name in common:
        then, now = before.per_query[name], after.per_query[name]
        # Sorted, so that the interval does not depend on the order in a file.
        queries = sorted(then.keys() & now.keys())
        least = LEAST_KEPT * _undisplaced(before, after, name, len(now)) * len(then)
        if name in GUARDED and len(queries) < least:
            problems[f"of {len(then):,} earlier queries only {len(queries):,} are there still"] = None
        if queries:
            changes.append(_change(name, then, now, queries))
    if not changes and not problems:
        raise UsageError("expected evaluations with queries in common, found none")
    problems |= dict.fromkeys(_loss(change) for change in changes if change.name in GUARDED and change.worse)
    return Comparison(tuple(changes), (*problems, *_lost_items(before, after)))


def _require_gateable(name: str, figures: Mapping[str, Interval]) -> None:
    if name in figures:
        return
    stem = name.partition("@")[0]
    if stem in _OPTIONS and not any(figure.partition("@")[0] == stem for figure in figures):
        hint = f"{_OPTIONS[stem]} measures it"
    elif near := get_close_matches(name, figures, n=1):
        hint = f"did you mean {near[0]}?"
    else:
        more = f" and {len(figures) - _LISTED} more" if len(figures) > _LISTED else ""
        hint = f"there are: {', '.join(list(figures)[:_LISTED])}{more}"
    raise UsageError(f"--min {name}: expected a figure that was measured, found none of that name", hint=hint)


def _plain(number: float, digits: int) -> str:
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".")


def _require_same_setup(before: Record, after: Record) -> None:
    for name in sorted(before.setup.keys() | after.setup.keys()):
        then, now = before.setup.get(name), after.setup.get(name)
        if then != now:
            raise UsageError(
                f"expected evaluations that were set up alike, found {name} {now!r} where it was {then!r}",
                hint="run evaluate with the options of that evaluation, or write a new file with --json",
            )


def _undisplaced(before: Record, after: Record, name: str, queries: int) -> float:
    """Return the share of earlier queries that a full sample of a catalog that has grown still has room for."""
    if after.setup.get("kind") == "queries" and not name.startswith("index_recall"):
        return 1.0  # images of the user are no sample
    sample, counts = after.setup.get("sample"), _counts(before, after)
    if counts is None or not isinstance(sample, int) or queries < sample:
        return 1.0
    then, now = counts
    return min(1.0, then / max(1, now))


def _change(name: str, then: Mapping[str, float], now: Mapping[str, float], queries: Sequence[str]) -> Change:
    before, after = (np.array([values[query] for query in queries]) for values in (then, now))
    return Change(
        name, len(then), len(queries), float(before.mean()), float(after.mean()), paired_interval(before, after)
    )


def _loss(change: Change) -> str:
    difference = change.difference
    return (
        f"{change.name} is {change.after:.3f} where it was {change.before:.3f} on the same {change.queries:,} queries,"
        f" {-difference.mean:.3f} less (99 % interval: {-difference.high:.3f} to {-difference.low:.3f})"
    )


def _lost_items(before: Record, after: Record) -> list[str]:
    then, now = _counts(before, after) or (0, 0)
    if now >= LEAST_KEPT * then:
        return []
    return [f"the index holds {now:,.0f} items where it held {then:,.0f}: {100 * (1 - now / then):.0f} % less"]


def _counts(before: Record, after: Record) -> tuple[float, float] | None:
    """Return how many items the index had and has; None where a file does not say."""
    if "count" not in before.figures or "count" not in after.figures:
        return None
    return before.figures["count"].mean, after.figures["count"].mean

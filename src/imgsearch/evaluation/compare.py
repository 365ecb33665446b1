"""Is an index good enough (gates), and is it worse than before (two evaluations of the same queries)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from imgsearch.bootstrap import Interval, paired_interval
from imgsearch.errors import UsageError
from imgsearch.evaluation import order, recommendations
from imgsearch.evaluation.metrics import measures
from imgsearch.evaluation.record import EvaluationRecord
from imgsearch.evaluation.retrieval import OF_CATEGORIES

# A loss of these is a failure. They are few, and unlike one another: each one more can raise a false alarm.
GUARDED = ("hit_rate@1", "map", "ndcg@10", "index_recall@10", "hybrid_ndcg@10")
# A smaller loss does not count, however certain: forests and networks differ by as much from processor to processor.
MIN_LOSS = 0.002
# What a shop takes out of its catalog in a day is less than a tenth; what an unmounted disk takes is more.
MIN_SHARE_LEFT = 0.9

_RECALL = "--recall"
_RETRIEVAL = "--labels, --queries, --self-test or --text"
_EVENTS = "--events"
_CHANGES = "--text, with 20 items whose words differ in one,"
# What comes before the @ in a flat name -> the option that measures it.
_OPTIONS = {
    "count": "every evaluation",
    "queries": _RETRIEVAL,
    "index_recall": _RECALL,
    "queries_per_second": _RECALL,
    **{name.partition("@")[0]: _RETRIEVAL for name in measures(np.array([1]), 1)},
    **{
        f"{way}_{name.partition('@')[0]}": _CHANGES
        for way in ("picture_and_word", "picture_alone", "word_alone")
        for name in OF_CATEGORIES
    },
    **{name.partition("@")[0]: _EVENTS for name in (*recommendations.NAMES, *order.NAMES)},
}
_LESS_IS_BETTER = ("latency", "calibration_error")
# A mean of 0.8 may come out of its sum as 0.7999999999999999.
_TOLERANCE = 1e-9
_SETUP_HINT = "run evaluate with the options of that evaluation, or write a new file with --json"


@dataclass(frozen=True, slots=True)
class Gate:
    """The minimum of a figure, which is named by its flat name."""

    name: str
    minimum: float


@dataclass(frozen=True, slots=True)
class Change:
    """How the mean of one measure changed on the queries of both evaluations."""

    name: str
    queries: int  # of both evaluations, at least 1
    before: float  # 0 to 1
    after: float
    difference: Interval  # mean of after - before, and its paired 99 % interval

    @property
    def worse(self) -> bool:
        """Whether it is a loss that is neither chance nor too small to count."""
        return self.difference.high < 0 and self.difference.mean <= -MIN_LOSS


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the figures of an earlier evaluation changed."""

    changes: tuple[Change, ...]  # of every measure that both evaluations have, those of `GUARDED` first
    problems: tuple[str, ...]  # what is worse, a line for each


def parse_gate(text: str) -> Gate:
    """Read a gate such as `hit_rate@1=0.8`; a UsageError if there is no such figure, or less of it is better."""
    name, _, number = (part.strip() for part in text.rpartition("="))
    try:
        minimum = float(number)
    except ValueError:
        minimum = math.nan
    if not name or not math.isfinite(minimum):
        raise UsageError(f"--min must be NAME=NUMBER, got {text!r}", hint="for example --min hit_rate@1=0.8")
    stem = name.partition("@")[0]
    if stem.startswith(_LESS_IS_BETTER):
        raise UsageError(
            f"--min {name}: less of that is better, so it has no minimum",
            hint="--min queries_per_second=NUMBER asks for speed" if stem.startswith("latency") else "",
        )
    if stem not in _OPTIONS:
        near = get_close_matches(stem, _OPTIONS, n=1)
        hint = f"did you mean {near[0]}{name.removeprefix(stem)}?" if near else "docs/metrics.md names all figures"
        raise UsageError(f"--min must name a figure, got {name!r}", hint=hint)
    return Gate(name, minimum)


def require_measured(
    gates: Sequence[Gate], *, recall: bool, retrieval: bool, text: bool = False, events: bool = False
) -> None:
    """Refuse gates on what is not going to be measured, before anything is."""
    for gate in gates:
        option = _option_of(gate.name)
        if not {_RECALL: recall, _RETRIEVAL: retrieval, _CHANGES: text, _EVENTS: events}.get(option, True):
            raise UsageError(f"--min {gate.name}: that is not measured", hint=f"{option} measures it")


def failed_gates(gates: Sequence[Gate], figures: Mapping[str, Interval]) -> list[str]:
    """Return a line for each gate that is not met; the mean counts, not the end of its interval."""
    lines = []
    for gate in gates:
        _require_known(gate.name, figures)
        mean = figures[gate.name].mean
        lacking = gate.minimum - mean
        if lacking > _TOLERANCE:
            # So many digits that what is lacking can be seen.
            digits = max(3, 1 - math.floor(math.log10(lacking)))
            found, short, minimum = (_plain(number, digits) for number in (mean, lacking, gate.minimum))
            lines.append(f"{gate.name} is {found}, {short} below {minimum}")
    return lines


def compare(before: EvaluationRecord, after: EvaluationRecord) -> Comparison:
    """Compare two evaluations by the queries of both; `after` as it is read from its file, rounded like `before`."""
    _require_same_setup(before, after)
    common = [name for name in GUARDED if name in before.per_query and name in after.per_query]
    common += [name for name in before.per_query if name in after.per_query and name not in GUARDED]
    if not common:
        raise UsageError("the two evaluations have no measure in common", hint=_SETUP_HINT)
    problems: dict[str, None] = {}  # in order, and each once: most measures have the same queries
    changes = []
    for name in common:
        old, new = before.per_query[name], after.per_query[name]
        # Sorted, so that the interval does not depend on the order in a file.
        queries = sorted(old.keys() & new.keys())
        least = MIN_SHARE_LEFT * _share_sampled(before, after, name, len(new)) * len(old)
        if name in GUARDED and len(queries) < least:  # what is missing cannot be wrong
            problems[f"of {len(old):,} earlier queries only {len(queries):,} are left"] = None
        if queries:
            changes.append(_change(name, old, new, queries))
    if not changes and not problems:
        raise UsageError("the two evaluations have no queries in common")
    problems |= dict.fromkeys(_loss(change) for change in changes if change.name in GUARDED and change.worse)
    return Comparison(tuple(changes), (*problems, *_lost_items(before, after)))


def _option_of(name: str) -> str:
    return _OPTIONS[name.partition("@")[0]]


def _require_known(name: str, figures: Mapping[str, Interval]) -> None:
    if name in figures:
        return
    near = get_close_matches(name, figures, n=1)
    hint = f"did you mean {near[0]}?" if near else "docs/metrics.md names all figures"
    if not any(figure.partition("@")[0] == name.partition("@")[0] for figure in figures):
        option = _option_of(name)
        hint = f"{option} measures it"
        if option == _EVENTS and figures.keys() & {*recommendations.NAMES, *order.NAMES}:
            hint = "the log says too little for it: docs/metrics.md#recommendations"
    raise UsageError(f"--min {name}: no figure of that name was measured", hint=hint)


def _plain(number: float, digits: int) -> str:
    return f"{number:.{digits}f}".rstrip("0").rstrip(".")


def _require_same_setup(before: EvaluationRecord, after: EvaluationRecord) -> None:
    for name in sorted(before.setup.keys() | after.setup.keys()):
        old, new = before.setup.get(name), after.setup.get(name)
        if old != new:
            raise UsageError(f"the two evaluations differ in {name}: it was {old!r} and is {new!r}", hint=_SETUP_HINT)


def _share_sampled(before: EvaluationRecord, after: EvaluationRecord, name: str, queries: int) -> float:
    """Return the share of earlier queries that a full sample of a catalog that has grown still has room for."""
    if after.setup.get("kind") == "queries" and not name.startswith("index_recall"):
        return 1.0  # images of the user are no sample
    sample, counts = after.setup.get("sample"), _counts(before, after)
    if counts is None or not isinstance(sample, int) or queries < sample:
        return 1.0
    old, new = counts
    return min(1.0, old / max(1, new))


def _change(name: str, old: Mapping[str, float], new: Mapping[str, float], queries: Sequence[str]) -> Change:
    before, after = (np.array([values[query] for query in queries]) for values in (old, new))
    return Change(name, len(queries), float(before.mean()), float(after.mean()), paired_interval(before, after))


def _loss(change: Change) -> str:
    difference = change.difference
    return (
        f"{change.name} is {change.after:.3f} where it was {change.before:.3f} on the same {change.queries:,} queries,"
        f" {-difference.mean:.3f} less (99 % interval: {-difference.high:.3f} to {-difference.low:.3f})"
    )


def _lost_items(before: EvaluationRecord, after: EvaluationRecord) -> list[str]:
    old, new = _counts(before, after) or (0, 0)
    if new >= MIN_SHARE_LEFT * old:
        return []
    return [f"the index holds {new:,.0f} items where it held {old:,.0f}: {100 * (1 - new / old):.0f} % less"]


def _counts(before: EvaluationRecord, after: EvaluationRecord) -> tuple[float, float] | None:
    """Return how many items the index had and has; None where a file does not say."""
    if "count" not in before.figures or "count" not in after.figures:
        return None
    return before.figures["count"].mean, after.figures["count"].mean

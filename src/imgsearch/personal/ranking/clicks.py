"""Answers that somebody clicked, of the service and of imported logs, and what the places of clicks say.

People look less at later places. So a click far down says more than one at the first place, and what was not clicked
there says little. At place k somebody looks with a probability of 1 / k ** eta.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.personal.events import ClickedAnswer, Kind
from imgsearch.personal.feedback import Judgment

# Of more answers the newest are learned from: features of each candidate of each are computed.
MOST_ANSWERS = 15_000

# How much more a product was wanted than one that was not clicked.
GAINS: Mapping[Kind, float] = {"click": 1.0, "cart": 2.0, "buy": 3.0}

# How much more than at the first place a click may count at most: to learn from, else a single one at place 90 would
# drown all others; and to judge by, where a lower limit favors the order that was shown, and steadier figures do not.
MOST_WEIGHT = 10.0
MOST_JUDGED = 100.0

# With fewer clicks that tell, an estimated eta is mostly chance.
_LEAST_CLICKS = 50
_MOST_ETA = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What one person saw and did of one answer.

    Attributes:
        time: Microseconds since 1970, UTC.
        asked: The name of something in the index, or words; or the vector of a query.
        user: As in `EventArrays`; None where that is not known.
        shown: Place of each product or path, from 1; 0 where that is not known. Empty where nothing says what was
            shown.
        gains: How much those were wanted that were clicked, above 0; by product or path.
    """

    time: int
    asked: str | Embeddings
    user: int | None
    shown: Mapping[str, int]
    gains: Mapping[str, float]


def newest_answers(clicked: Iterable[ClickedAnswer], judgments: Iterable[Judgment], space: str) -> list[Answer]:
    """Bring answers of logs and of the service into one form: the newest of both, the oldest of these first.

    Args:
        clicked: Of imported events, the oldest first.
        judgments: Of the service, likewise.
        space: That of the index: queries with vectors of other spaces are left out.
    """
    of_logs = deque(map(_of_log, clicked), MOST_ANSWERS)
    return [*merge(of_logs, _judged(judgments, space), key=lambda answer: answer.time)][-MOST_ANSWERS:]


def _of_log(answer: ClickedAnswer) -> Answer:
    gains = {product: GAINS[kind] for product, kind in answer.clicked.items()}
    # Where only clicks were logged, they do not say what else there was.
    shown = dict(answer.shown) if len(answer.shown) > len(gains) else {}
    return Answer(answer.time, answer.query, answer.user, shown, gains)


def _judged(judgments: Iterable[Judgment], space: str) -> list[Answer]:
    found: OrderedDict[tuple[str, str], Answer] = OrderedDict()
    for judgment in judgments:
        shown, key = judgment.shown, (judgment.shown.id, judgment.session)
        if shown.space != space or judgment.verdict != "chosen":
            continue
        gains = {**(found[key].gains if key in found else {}), judgment.path: GAINS["click"]}
        places = {path: place for place, path in enumerate(shown.paths, start=1)}
        found[key] = Answer(int(judgment.time.timestamp() * 1e6), shown.vector, None, places, gains)
        if len(found) > MOST_ANSWERS:
            found.popitem(last=False)
    return sorted(found.values(), key=lambda answer: answer.time)


def learn_eta(answers: Sequence[Answer]) -> float | None:
    """Estimate how fast people look less at later places; None where too few clicks tell.

    The same product at several places of answers to the same question gets fewer clicks at the later ones, and only
    because fewer people look there (Agarwal et al.: Estimating Position Bias without Intrusive Interventions, WSDM
    2019). Of the clicks of such a pair, those at place k are then a share proportional to n(k) / k ** eta, n(k) being
    how often it was shown there: how relevant it is falls out. Eta maximizes the likelihood of all shares. Counted are
    answers in which something else was clicked, too: answers without clicks are not known, and to leave them out
    would favor what was clicked where it was.
    """
    pairs, places, shown, clicks = _counts(answers)
    if clicks.sum() < _LEAST_CLICKS:
        return None
    logs = np.log(places)
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    sizes = np.diff(np.append(starts, len(pairs)))

    def slope(eta: float) -> float:
        """Derive the likelihood: by how much clicks lie further up than expected."""
        shares = shown * np.exp(-eta * logs)
        means = np.add.reduceat(shares * logs, starts) / np.add.reduceat(shares, starts)
        return float((clicks * (np.repeat(means, sizes) - logs)).sum())

    low, high = 0.0, _MOST_ETA
    for _ in range(30):  # the slope falls, so halves are enough
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return round((low + high) / 2, 3)


def _counts(
    answers: Sequence[Answer],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Count, for pairs of a question and a product that were at several places, how often each was there, and clicked.

    Returns:
        Number of the pair (ascending), place, times shown, times clicked: of all (n,).
    """
    numbers: dict[tuple[str, str], int] = {}
    seen: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for answer in answers:
        if not isinstance(answer.asked, str):  # of a vector it is hardly ever the same question
            continue
        for name, place in answer.shown.items():
            if place and len(answer.gains) > (name in answer.gains):
                pair = numbers.setdefault((answer.asked, name), len(numbers))
                found = seen[pair, place]
                found[0] += 1
                found[1] += name in answer.gains
    rows = np.array([(*key, *found) for key, found in sorted(seen.items())], np.float64).reshape(-1, 4)
    pairs = rows[:, 0].astype(np.int64)
    size, clicked = np.bincount(pairs), np.bincount(pairs, rows[:, 3])
    tells = (size[pairs] > 1) & (clicked[pairs] > 0)
    return pairs[tells], rows[tells, 1], rows[tells, 2], rows[tells, 3]


def click_weights(places: NDArray[np.int64], eta: float, most: float = MOST_WEIGHT) -> NDArray[np.float64]:
    """Return how much more clicks at some places count, being rarer: 1 at the first and where it is not known.

    Joachims, Swaminathan, Schnabel: Unbiased Learning-to-Rank with Biased Feedback, WSDM 2017; clipped as there.
    """
    return np.minimum(np.maximum(places, 1).astype(np.float64) ** eta, most)

"""What a classifier says of an image, and hits that vote."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """One class that an image may belong to.

    Attributes:
        rank: Place, from 1.
        label: Name of the class.
        probability: 0 to 1; those of all classes add up to 1.
    """

    rank: int
    label: str
    probability: float

"""What was learned from events, in words: for those who train, and for `imgsearch info`."""

from dataclasses import astuple, fields
from datetime import UTC, datetime, timedelta

from imgsearch.store.learned import RankingFacts, RecommendFacts

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def recommend_in_words(facts: RecommendFacts) -> str:
    """Say how recommendations are made, and what they were learned from."""
    worth = f"nDCG@10 {facts.gain:+.3f} against the most popular, of {facts.queries:,} people in a held-out week"
    return (
        f"{blend_in_words(facts)}; {facts.learner}, learned from {facts.events:,} events of {facts.users:,} people"
        f" until {_date(facts.newest)} about {facts.products:,} products;"
        f" {worth if facts.queries else 'too few people came back to say what it is worth'}"
    )


def blend_in_words(facts: RecommendFacts) -> str:
    """Say how much each way to recommend counts, and how soon events count less."""
    shares = zip(fields(facts.blend), astuple(facts.blend), strict=True)
    named = ", ".join(f"{field.name} {share:g}" for field, share in shares if share)
    return f"{named}; an event counts half after {facts.half_life:g} days"


def ranking_in_words(facts: RankingFacts) -> str:
    """Say how hits are ordered, and what that was learned from."""
    return (
        f"{facts.learner}, learned from {facts.answers:,} answers with clicks until {_date(facts.newest)};"
        f" nDCG@10 {facts.gain:+.3f} against the order of scores, of {facts.queries:,} held-out answers"
    )


def _date(microseconds: int) -> str:
    try:
        return f"{_EPOCH + timedelta(microseconds=microseconds):%Y-%m-%d}"
    except OverflowError:
        return "a time that is none"

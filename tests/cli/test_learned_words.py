"""What was learned from events, in words."""

from imgsearch.cli.learned_words import ranking_in_words, recommend_in_words
from imgsearch.store.learned import Blend, RankingFacts, RecommendFacts


def test_facts_are_said_with_what_they_are_worth():
    recommend = RecommendFacts(
        "als", Blend(0.25, 0.75, 0), 30.0, 1_700_000_000_000_000, 2_000_000, 50_000, 20_000, 0, 0
    )
    ranking = RankingFacts("lambdamart", 1_700_000_000_000_000, 4_000, 800, 0.0421, 1.0)

    assert recommend_in_words(recommend) == (
        "content 0.25, collaborative 0.75; an event counts half after 30 days; als, learned from 2,000,000 events of"
        " 50,000 people until 2023-11-14 about 20,000 products; too few people came back to say what it is worth"
    )
    assert ranking_in_words(ranking) == (
        "lambdamart, learned from 4,000 answers with clicks until 2023-11-14; nDCG@10 +0.042 against the order of"
        " scores, of 800 held-out answers"
    )


def test_a_time_that_no_calendar_has_is_said_to_be_none():
    assert "until a time that is none;" in ranking_in_words(RankingFacts("linear", 2**62, 1, 1, 0, 1))

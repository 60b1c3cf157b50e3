"""Vote of windows on a recording's language."""

from __future__ import annotations

from batching.language_vote import LanguageVote


def test_no_language_is_likely_before_the_first_detection() -> None:
    assert LanguageVote(None, 0.0, lag=2).likely(0) is None


def test_the_first_detected_language_holds_until_votes_count() -> None:
    vote = LanguageVote(None, 0.0, lag=2)
    vote.first = "en"
    vote.count(0, "en", 1.0)
    vote.count(1, "de", 25.0)
    assert [vote.likely(index) for index in (1, 2, 3)] == ["en", "en", "de"]


def test_recent_votes_do_not_count_whether_they_are_in_or_not() -> None:
    fast, slow = LanguageVote("en", 0.0, lag=3), LanguageVote("en", 0.0, lag=3)
    votes = [(0, "en", 5.0), (1, "de", 20.0), (2, "de", 20.0), (3, "fr", 90.0)]
    for index, language, weight in votes:
        fast.count(index, language, weight)
    slow.count(*votes[0])
    assert fast.likely(3) == slow.likely(3) == "en"


def test_the_heavier_vote_wins_and_a_weight_of_zero_has_none() -> None:
    vote = LanguageVote("en", 0.0, lag=1)
    vote.count(0, "de", 0.0)
    assert vote.likely(1) == "en"
    vote.count(1, "de", 3.0)
    vote.count(2, "en", 2.0)
    assert vote.likely(3) == "de"


def test_a_resumed_job_keeps_its_language() -> None:
    vote = LanguageVote("de", 600.0, lag=1)
    vote.count(20, "en", 28.0)
    assert vote.likely(21) == "de"

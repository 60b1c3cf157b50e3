"""The vote of windows on a recording's language."""

from __future__ import annotations

from batching.language_vote import Vote


def test_nothing_is_likely_before_anything_was_heard() -> None:
    assert Vote(None, 0.0, behind=2).likely(0) is None


def test_the_first_language_heard_holds_until_votes_count() -> None:
    vote = Vote(None, 0.0, behind=2)
    vote.first = "en"
    vote.count(0, "en", 1.0)
    vote.count(1, "de", 25.0)
    assert [vote.likely(index) for index in (1, 2, 3)] == ["en", "en", "de"]


def test_a_window_goes_by_those_well_behind_it_however_many_are_in() -> None:
    hasty, slow = Vote("en", 0.0, behind=3), Vote("en", 0.0, behind=3)
    votes = [(0, "en", 5.0), (1, "de", 20.0), (2, "de", 20.0), (3, "fr", 90.0)]
    for each in votes:
        hasty.count(*each)
    slow.count(*votes[0])
    assert hasty.likely(3) == slow.likely(3) == "en"


def test_the_heavier_vote_wins_and_an_assumed_language_has_none() -> None:
    vote = Vote("en", 0.0, behind=1)
    vote.count(0, "de", 0.0)
    assert vote.likely(1) == "en"
    vote.count(1, "de", 3.0)
    vote.count(2, "en", 2.0)
    assert vote.likely(3) == "de"


def test_a_job_that_goes_on_keeps_what_it_knew() -> None:
    vote = Vote("de", 600.0, behind=1)
    vote.count(20, "en", 28.0)
    assert vote.likely(21) == "de"

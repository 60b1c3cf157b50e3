"""Deadlines of the work in hand, and health checks that fail by them."""

from __future__ import annotations

import pytest

from deployments.health import LEAST_S, UNKNOWN_S, Pace, Stalled, Watch


class Clock:
    """Clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_work_within_its_deadline_is_healthy() -> None:
    clock = Clock()
    watch = Watch(clock)
    with watch.within(10, "a batch"):
        clock.now = 10
        watch.check()


def test_work_beyond_its_deadline_fails_the_check_until_it_ends() -> None:
    clock = Clock()
    watch = Watch(clock)
    with watch.within(100, "other work"), watch.within(10, "a batch"):
        clock.now = 11
        with pytest.raises(Stalled, match="a batch has made no progress for 10 s"):
            watch.check()
    watch.check()


def test_progress_puts_a_deadline_off() -> None:
    clock = Clock()
    watch = Watch(clock)
    with watch.within(10, "a download") as deadline:
        clock.now = 9
        deadline.progress()
        clock.now = 18
        watch.check()


def test_nothing_is_due_while_somebody_else_is_waited_for() -> None:
    clock = Clock()
    watch = Watch(clock)
    with watch.within(10, "a decode") as deadline:
        with deadline.suspended():
            clock.now = 1000
            watch.check()
        watch.check()
        clock.now = 1011
        with pytest.raises(Stalled):
            watch.check()


def test_the_first_batch_has_much_time_and_sets_no_pace() -> None:
    pace = Pace()
    assert pace.limit_s(30) == UNKNOWN_S
    pace.measured(30, 300)
    assert pace.limit_s(30) == UNKNOWN_S


@pytest.mark.parametrize(("seconds", "limit_s"), [(3, 20 * 3), (30, 20 * 30), (0.1, 0)])
def test_later_batches_have_twenty_times_their_usual_time_but_not_less_than_the_least(
    seconds: float, limit_s: float
) -> None:
    pace = Pace()
    pace.measured(30, 300)
    pace.measured(30, seconds)
    assert pace.limit_s(30) == pytest.approx(max(limit_s, LEAST_S))


def test_the_pace_follows_the_batches() -> None:
    pace = Pace()
    for seconds in (0, 100, *[10] * 50):
        pace.measured(10, seconds)
    assert pace.limit_s(10) == pytest.approx(200, rel=0.01)

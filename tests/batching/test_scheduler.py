"""Which windows next: nothing lost, within limits, fair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batching.scheduler import Scheduler, Ticket

calm = settings(deadline=None)

MAX_ITEMS, MAX_SECONDS = 4, 60


class Conservation(RuleBasedStateMachine):
    """Tickets come, go and are forgotten in any order; a plain list knows who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(MAX_ITEMS, MAX_SECONDS)
        self.waiting: list[Ticket] = []
        self.gone: list[Ticket] = []
        self.numbers = count()

    @rule(
        name=st.sampled_from(["a1", "a2", "b1", "c1"]),
        seconds=st.integers(1, 40),
        urgency=st.integers(0, 2),
        kind=st.sampled_from([None, "warm"]),
    )
    def add(self, name: str, seconds: int, urgency: int, kind: str | None) -> None:
        ticket = Ticket(next(self.numbers), name, name[0], seconds, urgency, kind)
        self.scheduler.add(ticket)
        self.waiting.append(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.scheduler.discard(ticket)
        self.waiting.remove(ticket)
        self.gone.append(ticket)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def discard_again(self, data: st.DataObject) -> None:
        self.scheduler.discard(data.draw(st.sampled_from(self.gone)))

    @rule(limit=st.none() | st.integers(1, 6))
    def take(self, limit: int | None) -> None:
        batch = self.scheduler.next_batch(limit)
        assert bool(batch) == bool(self.waiting)
        assert len(batch) <= min(MAX_ITEMS, limit or MAX_ITEMS)
        assert len(batch) < 2 or sum(ticket.seconds for ticket in batch) <= MAX_SECONDS
        assert len({ticket.kind for ticket in batch}) <= 1
        if batch:
            assert batch[0].urgency == min(ticket.urgency for ticket in self.waiting)
        for ticket in batch:
            line = [t for t in self.waiting if (t.job, t.urgency) == (ticket.job, ticket.urgency)]
            assert ticket == next(t for t in line if t.kind == ticket.kind)
            assert ticket is not batch[0] or ticket == line[0]
            self.waiting.remove(ticket)
        self.gone += batch

    @invariant()
    def its_length_is_who_waits(self) -> None:
        assert len(self.scheduler) == len(self.waiting)

    def teardown(self) -> None:
        while self.waiting:
            self.take(None)
        assert self.scheduler.next_batch() == []


TestConservation = Conservation.TestCase
TestConservation.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


def tickets(*seconds: float, job: str = "job", tenant: str = "tenant", urgency: int = 0, kind: str = "") -> list[Ticket]:
    """Tickets of a job, numbered from 0."""
    return [Ticket(number, job, tenant, cost, urgency, kind) for number, cost in enumerate(seconds)]


def scheduler_with(*tickets: Ticket, max_items: int = 4, max_seconds: float = 60) -> Scheduler:
    """A scheduler in which these tickets wait."""
    scheduler = Scheduler(max_items, max_seconds)
    for ticket in tickets:
        scheduler.add(ticket)
    return scheduler


def drain(scheduler: Scheduler) -> list[Ticket]:
    """All that waits, in the order it is served."""
    order: list[Ticket] = []
    while batch := scheduler.next_batch():
        order += batch
    return order


def test_an_empty_scheduler_gives_an_empty_batch() -> None:
    assert Scheduler(4, 60).next_batch() == []


def test_a_batch_takes_all_that_fits() -> None:
    line = tickets(1, 2, 3, 4, 5)
    assert scheduler_with(*line).next_batch() == line[:4]


def test_a_batch_is_no_larger_than_its_caller_allows() -> None:
    line = tickets(1, 2, 3, 4, 5)
    assert scheduler_with(*line).next_batch(2) == line[:2]


def test_a_callers_limit_does_not_raise_the_schedulers() -> None:
    assert len(scheduler_with(*tickets(1, 1, 1), max_items=2).next_batch(9)) == 2


def test_a_batch_holds_no_more_seconds_than_allowed() -> None:
    scheduler = scheduler_with(*tickets(30, 30, 1))
    assert [len(scheduler.next_batch()), len(scheduler.next_batch())] == [2, 1]


def test_a_ticket_that_is_too_long_for_a_batch_goes_alone() -> None:
    assert [ticket.seconds for ticket in scheduler_with(*tickets(100, 1)).next_batch()] == [100]


def test_only_one_kind_shares_a_batch() -> None:
    cold, warm = tickets(1, 1, job="cold", kind="cold"), tickets(1, 1, job="warm", kind="warm")
    scheduler = scheduler_with(*cold, *warm)
    assert [scheduler.next_batch(), scheduler.next_batch()] == [cold, warm]


def test_tickets_of_a_kind_share_a_batch_over_the_head_of_others_in_their_job() -> None:
    first, other, last = (Ticket(i, "job", "tenant", 1, kind=kind) for i, kind in enumerate("aba"))
    scheduler = scheduler_with(first, other, last)
    assert [scheduler.next_batch() for _ in range(2)] == [[first, last], [other]]


def test_the_oldest_of_a_job_is_next_whatever_its_kind() -> None:
    line = [Ticket(i, "job", "tenant", 1, kind=kind) for i, kind in enumerate("abaab")]
    scheduler = scheduler_with(*line, max_items=2)
    assert [[t.number for t in scheduler.next_batch()] for _ in range(3)] == [[0, 2], [1, 4], [3]]


def test_urgent_goes_first_and_the_rest_fills_the_batch() -> None:
    (later,), (urgent,) = tickets(1, urgency=1), tickets(1, job="urgent")
    assert scheduler_with(later, urgent).next_batch() == [urgent, later]


def test_a_discarded_ticket_is_never_served() -> None:
    first, second, third = tickets(1, 1, 1)
    scheduler = scheduler_with(first, second, third)
    scheduler.discard(second)
    assert drain(scheduler) == [first, third]


def test_discarding_what_does_not_wait_changes_nothing() -> None:
    first, second = tickets(1, 1)
    scheduler = scheduler_with(first, second)
    scheduler.next_batch(1)
    scheduler.discard(first)
    (stranger,) = tickets(1, job="stranger")
    scheduler.discard(stranger)
    assert drain(scheduler) == [second]


def by_tenant(ticket: Ticket) -> str:
    return ticket.tenant


def by_job(ticket: Ticket) -> str:
    return ticket.job


def lead_while_both_wait(order: Sequence[Ticket], who: Callable[[Ticket], str]) -> float:
    """The most seconds that one of two got ahead of the other while both still had something waiting."""
    names = sorted({who(ticket) for ticket in order})
    left = {name: sum(who(ticket) == name for ticket in order) for name in names}
    served = dict.fromkeys(names, 0.0)
    lead = 0.0
    for ticket in order:
        if not all(left.values()):
            break
        left[who(ticket)] -= 1
        served[who(ticket)] += ticket.seconds
        lead = max(lead, abs(served[names[0]] - served[names[1]]))
    return lead


COSTS = st.lists(st.integers(1, 30), min_size=1, max_size=30)


@calm
@given(COSTS, COSTS, st.integers(1, 5))
def test_no_tenant_gets_further_ahead_than_one_ticket(one: list[int], other: list[int], max_items: int) -> None:
    line = [*tickets(*one, tenant="one"), *tickets(*other, tenant="other")]
    order = drain(scheduler_with(*line, max_items=max_items))
    assert lead_while_both_wait(order, by_tenant) <= max(*one, *other)


@calm
@given(COSTS, COSTS, st.integers(1, 5))
def test_no_job_of_a_tenant_gets_further_ahead_than_one_ticket(one: list[int], other: list[int], max_items: int) -> None:
    line = [*tickets(*one, job="one"), *tickets(*other, job="other")]
    order = drain(scheduler_with(*line, max_items=max_items))
    assert lead_while_both_wait(order, by_job) <= max(*one, *other)


def test_a_thousand_tickets_of_one_tenant_do_not_hold_up_the_few_of_another() -> None:
    crowd, few = tickets(*[10] * 1000, tenant="crowd"), tickets(*[10] * 3, tenant="few")
    order = drain(scheduler_with(*crowd, *few))
    assert [order.index(ticket) // 2 for ticket in few] == [0, 1, 2]
    assert len(order) == 1003


def test_turns_are_counted_in_seconds_not_in_tickets() -> None:
    line = [*tickets(*[20] * 10, tenant="long"), *tickets(*[5] * 10, tenant="short")]
    first = drain(scheduler_with(*line, max_items=1))[:10]
    assert sum(ticket.tenant == "short" for ticket in first) == 8


def test_many_jobs_give_a_tenant_no_more_turns() -> None:
    many = [ticket for number in range(10) for ticket in tickets(1, 1, job=f"job {number}", tenant="many")]
    order = drain(scheduler_with(*many, *tickets(*[1] * 20, tenant="one")))
    assert sum(ticket.tenant == "one" for ticket in order[:20]) == 10


@pytest.mark.parametrize("late", [{"tenant": "late"}, {"job": "late"}])
def test_one_who_comes_late_starts_level(late: dict[str, str]) -> None:
    scheduler = scheduler_with(*tickets(*[1] * 20), max_items=1)
    for _ in range(10):
        scheduler.next_batch()
    for ticket in tickets(*[1] * 10, tenant=late.get("tenant", "tenant"), job=late.get("job", "job")):
        scheduler.add(ticket)
    order = drain(scheduler)
    assert lead_while_both_wait(order, by_tenant if "tenant" in late else by_job) == 1


def test_one_who_hands_in_tickets_one_by_one_gets_no_more_than_its_share() -> None:
    scheduler = scheduler_with(*tickets(*[7] * 100, tenant="patient"), max_items=1)
    scheduler.add(Ticket(100, "job", "one by one", 28))
    served = {"patient": 0.0, "one by one": 0.0}
    for number in range(101, 141):
        (ticket,) = scheduler.next_batch()
        served[ticket.tenant] += ticket.seconds
        if ticket.tenant == "one by one":
            scheduler.add(Ticket(number, "job", "one by one", 28))
    assert abs(served["patient"] - served["one by one"]) <= 28 + 7

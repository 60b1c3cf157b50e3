"""The scheduler: nothing lost, within limits, fair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batching.scheduler import Scheduler, Ticket

calm = settings(deadline=None)

MAX_ITEMS, MAX_COST = 4, 60


class Conservation(RuleBasedStateMachine):
    """Tickets are added, discarded and served in any order; the model is a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(MAX_ITEMS, MAX_COST)
        self.waiting: list[Ticket] = []
        self.gone: list[Ticket] = []
        self.numbers = count()

    @rule(
        name=st.sampled_from(["a1", "a2", "b1", "c1"]),
        cost=st.integers(1, 40),
        urgency=st.integers(-1, 2),
        kind=st.sampled_from([None, "warm"]),
    )
    def add(self, name: str, cost: int, urgency: int, kind: str | None) -> None:
        ticket = Ticket(next(self.numbers), name, name[0], cost, urgency, kind)
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
        assert len(batch) < 2 or sum(ticket.cost for ticket in batch) <= MAX_COST
        assert len({ticket.kind for ticket in batch}) <= 1
        if batch:
            assert batch[0].urgency == min(t.urgency for t in self.waiting if t.tenant == batch[0].tenant)
        for ticket in batch:
            queue = [t for t in self.waiting if (t.job, t.urgency) == (ticket.job, ticket.urgency)]
            assert ticket == next(t for t in queue if t.kind == ticket.kind)
            assert ticket is not batch[0] or ticket == queue[0]
            self.waiting.remove(ticket)
        self.gone += batch

    @invariant()
    def its_length_counts_the_waiting_tickets(self) -> None:
        assert len(self.scheduler) == len(self.waiting)

    def teardown(self) -> None:
        while self.waiting:
            self.take(None)
        assert self.scheduler.next_batch() == []


TestConservation = Conservation.TestCase
TestConservation.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


def tickets(*costs: float, job: str = "job", tenant: str = "tenant", urgency: int = 0, kind: str = "") -> list[Ticket]:
    """Tickets of a job, numbered from 0."""
    return [Ticket(number, job, tenant, cost, urgency, kind) for number, cost in enumerate(costs)]


def scheduler_with(
    *tickets: Ticket, max_items: int = 4, max_cost: float = 60, weights: dict[str, float] | None = None
) -> Scheduler:
    """A scheduler with these tickets."""
    scheduler = Scheduler(max_items, max_cost, weights or {})
    for ticket in tickets:
        scheduler.add(ticket)
    return scheduler


def drain(scheduler: Scheduler) -> list[Ticket]:
    """All tickets, in the order of service."""
    order: list[Ticket] = []
    while batch := scheduler.next_batch():
        order += batch
    return order


def test_an_empty_scheduler_gives_an_empty_batch() -> None:
    assert Scheduler(4, 60).next_batch() == []


def test_a_batch_takes_all_tickets_that_fit() -> None:
    queue = tickets(1, 2, 3, 4, 5)
    assert scheduler_with(*queue).next_batch() == queue[:4]


def test_a_batch_is_no_larger_than_its_caller_allows() -> None:
    queue = tickets(1, 2, 3, 4, 5)
    assert scheduler_with(*queue).next_batch(2) == queue[:2]


def test_a_callers_limit_does_not_raise_the_schedulers() -> None:
    assert len(scheduler_with(*tickets(1, 1, 1), max_items=2).next_batch(9)) == 2


def test_a_batch_costs_no_more_than_allowed() -> None:
    scheduler = scheduler_with(*tickets(30, 30, 1))
    assert [len(scheduler.next_batch()), len(scheduler.next_batch())] == [2, 1]


def test_a_ticket_that_costs_more_than_a_batch_may_is_a_batch() -> None:
    assert [ticket.cost for ticket in scheduler_with(*tickets(100, 1)).next_batch()] == [100]


def test_only_one_kind_shares_a_batch() -> None:
    cold, warm = tickets(1, 1, job="cold", kind="cold"), tickets(1, 1, job="warm", kind="warm")
    scheduler = scheduler_with(*cold, *warm)
    assert [scheduler.next_batch(), scheduler.next_batch()] == [cold, warm]


def test_tickets_of_a_kind_overtake_other_kinds_of_their_job_to_share_a_batch() -> None:
    first, other, last = (Ticket(i, "job", "tenant", 1, kind=kind) for i, kind in enumerate("aba"))
    scheduler = scheduler_with(first, other, last)
    assert [scheduler.next_batch() for _ in range(2)] == [[first, last], [other]]


def test_the_oldest_ticket_of_a_job_is_next_whatever_its_kind() -> None:
    queue = [Ticket(i, "job", "tenant", 1, kind=kind) for i, kind in enumerate("abaab")]
    scheduler = scheduler_with(*queue, max_items=2)
    assert [[t.number for t in scheduler.next_batch()] for _ in range(3)] == [[0, 2], [1, 4], [3]]


def test_an_urgent_ticket_goes_first_and_others_fill_the_batch() -> None:
    (later,), (urgent,) = tickets(1, urgency=1), tickets(1, job="urgent")
    assert scheduler_with(later, urgent).next_batch() == [urgent, later]


def test_a_tenant_that_calls_all_its_work_urgent_gets_no_more_of_the_model() -> None:
    pushy = tickets(*[24] * 8000, tenant="pushy", urgency=0)
    polite = [ticket for n in range(10) for ticket in tickets(*[24] * 800, job=f"job {n}", tenant="polite", urgency=1)]
    scheduler = scheduler_with(*pushy, *polite, max_items=8, max_cost=240)
    served = [ticket.tenant for _ in range(1000) for ticket in scheduler.next_batch()]
    assert len(served) == 8000
    assert served.count("polite") == 4000


def test_urgent_work_of_another_tenant_shares_the_next_batch() -> None:
    scheduler = scheduler_with(*tickets(*[24] * 100, tenant="crowd"), max_items=2)
    scheduler.next_batch()
    (urgent,) = tickets(24, job="clip", tenant="newcomer")
    scheduler.add(urgent)
    assert urgent in scheduler.next_batch()


def test_urgent_work_overtakes_bulk_work_of_its_own_tenant() -> None:
    bulk, live = tickets(1, 1, urgency=1), Ticket(9, "live", "tenant", 1, urgency=-1)
    urgent = Ticket(8, "urgent", "tenant", 1, urgency=0)
    assert drain(scheduler_with(*bulk, urgent, live, max_items=1)) == [live, urgent, *bulk]


def test_bulk_work_goes_on_from_its_fair_share_after_urgent_work_of_its_tenant() -> None:
    bulk = [*tickets(*[1] * 50, job="first", urgency=1), *tickets(*[1] * 50, job="second", urgency=1)]
    scheduler = scheduler_with(*bulk, max_items=1)
    for _ in range(10):
        scheduler.next_batch()
    for ticket in tickets(*[1] * 5, job="urgent"):
        scheduler.add(ticket)
    order = drain(scheduler)
    assert {ticket.job for ticket in order[:5]} == {"urgent"}
    assert lead_while_both_wait(order[5:], by_job) <= 1


def test_a_discarded_ticket_is_never_served() -> None:
    first, second, third = tickets(1, 1, 1)
    scheduler = scheduler_with(first, second, third)
    scheduler.discard(second)
    assert drain(scheduler) == [first, third]


def test_discarding_a_ticket_that_does_not_wait_changes_nothing() -> None:
    first, second = tickets(1, 1)
    scheduler = scheduler_with(first, second)
    scheduler.next_batch(1)
    scheduler.discard(first)
    (unknown,) = tickets(1, job="unknown")
    scheduler.discard(unknown)
    assert drain(scheduler) == [second]


def by_tenant(ticket: Ticket) -> str:
    return ticket.tenant


def by_job(ticket: Ticket) -> str:
    return ticket.job


def lead_while_both_wait(order: Sequence[Ticket], key: Callable[[Ticket], str]) -> float:
    """The largest lead in cost of one queue over the other while both had waiting tickets."""
    names = sorted({key(ticket) for ticket in order})
    left = {name: sum(key(ticket) == name for ticket in order) for name in names}
    served = dict.fromkeys(names, 0.0)
    lead = 0.0
    for ticket in order:
        if not all(left.values()):
            break
        left[key(ticket)] -= 1
        served[key(ticket)] += ticket.cost
        lead = max(lead, abs(served[names[0]] - served[names[1]]))
    return lead


COSTS = st.lists(st.integers(1, 30), min_size=1, max_size=30)


@calm
@given(COSTS, COSTS, st.integers(1, 5))
def test_no_tenant_gets_further_ahead_than_one_ticket(first: list[int], second: list[int], max_items: int) -> None:
    queue = [*tickets(*first, tenant="first"), *tickets(*second, tenant="second")]
    order = drain(scheduler_with(*queue, max_items=max_items))
    assert lead_while_both_wait(order, by_tenant) <= max(*first, *second)


@calm
@given(COSTS, COSTS, st.integers(1, 5))
def test_no_job_of_a_tenant_gets_further_ahead_than_one_ticket(first: list[int], second: list[int], max_items: int) -> None:
    queue = [*tickets(*first, job="first"), *tickets(*second, job="second")]
    order = drain(scheduler_with(*queue, max_items=max_items))
    assert lead_while_both_wait(order, by_job) <= max(*first, *second)


@calm
@given(COSTS, COSTS, st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 5))
def test_tenants_are_served_in_proportion_to_their_weights(
    first: list[int], second: list[int], weight: float, max_items: int
) -> None:
    queue = [*tickets(*first, tenant="first", urgency=1), *tickets(*second, tenant="second")]
    order = drain(scheduler_with(*queue, max_items=max_items, weights={"first": weight}))
    left = {"first": len(first), "second": len(second)}
    served = dict.fromkeys(left, 0.0)
    for ticket in order:
        if not all(left.values()):
            break
        left[ticket.tenant] -= 1
        served[ticket.tenant] += ticket.cost / (weight if ticket.tenant == "first" else 1.0)
        assert abs(served["first"] - served["second"]) <= max(max(first) / weight, *second)


@calm
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.integers(1, 30)), min_size=1, max_size=40),
    st.integers(1, 8),
)
def test_a_ticket_waits_for_no_more_than_the_shares_of_the_other_tenants(
    others: list[tuple[str, int, int]], max_items: int
) -> None:
    mine = Ticket(10_000, "job", "mine", 30, urgency=2)
    crowd = [Ticket(n, f"{t}{n}", t, cost, urgency) for n, (t, urgency, cost) in enumerate(others)]
    order = drain(scheduler_with(*crowd, mine, max_items=max_items))
    before = order[: order.index(mine)]
    # Each other tenant may start one ticket at virtual time 0, where this one waits.
    assert len(before) <= len({ticket.tenant for ticket in crowd})
    assert len(order) == len(crowd) + 1


def test_a_thousand_tickets_of_one_tenant_do_not_hold_up_the_few_of_another() -> None:
    crowd, few = tickets(*[10] * 1000, tenant="crowd"), tickets(*[10] * 3, tenant="few")
    order = drain(scheduler_with(*crowd, *few))
    assert [order.index(ticket) // 2 for ticket in few] == [0, 1, 2]
    assert len(order) == 1003


def test_shares_are_of_cost_not_of_tickets() -> None:
    queue = [*tickets(*[20] * 10, tenant="long"), *tickets(*[5] * 10, tenant="short")]
    first = drain(scheduler_with(*queue, max_items=1))[:10]
    assert sum(ticket.tenant == "short" for ticket in first) == 8


def test_many_jobs_give_a_tenant_no_larger_share() -> None:
    many = [ticket for number in range(10) for ticket in tickets(1, 1, job=f"job {number}", tenant="many")]
    order = drain(scheduler_with(*many, *tickets(*[1] * 20, tenant="one")))
    assert sum(ticket.tenant == "one" for ticket in order[:20]) == 10


@pytest.mark.parametrize("late", [{"tenant": "late"}, {"job": "late"}])
def test_a_new_queue_joins_at_the_current_virtual_time(late: dict[str, str]) -> None:
    scheduler = scheduler_with(*tickets(*[1] * 20), max_items=1)
    for _ in range(10):
        scheduler.next_batch()
    for ticket in tickets(*[1] * 10, tenant=late.get("tenant", "tenant"), job=late.get("job", "job")):
        scheduler.add(ticket)
    order = drain(scheduler)
    assert lead_while_both_wait(order, by_tenant if "tenant" in late else by_job) == 1


def test_trickling_requests_gain_no_more_than_a_fair_share() -> None:
    scheduler = scheduler_with(*tickets(*[7] * 100, tenant="backlog"), max_items=1)
    scheduler.add(Ticket(100, "job", "trickle", 28))
    served = {"backlog": 0.0, "trickle": 0.0}
    for number in range(101, 141):
        (ticket,) = scheduler.next_batch()
        served[ticket.tenant] += ticket.cost
        if ticket.tenant == "trickle":
            scheduler.add(Ticket(number, "job", "trickle", 28))
    assert abs(served["backlog"] - served["trickle"]) <= 28 + 7


@pytest.mark.parametrize(("mixed", "first"), [(True, [3, 0, 1, 2]), (False, [3])])
def test_less_urgent_tickets_join_an_urgent_batch_only_where_they_cost_no_time(mixed: bool, first: list[int]) -> None:
    scheduler = Scheduler(4, 1000.0, mixed=mixed)
    for number in range(3):
        scheduler.add(Ticket(number, "long", "a", 24.0, urgency=1))
    scheduler.add(Ticket(3, "clip", "a", 10.0, urgency=0))
    assert [ticket.number for ticket in scheduler.next_batch()] == first
    rest = [ticket.number for ticket in scheduler.next_batch()]
    assert sorted(first + rest) == [0, 1, 2, 3]
    assert len(scheduler) == 0


def test_an_urgent_ticket_joins_a_batch_that_a_less_urgent_one_leads() -> None:
    scheduler = Scheduler(4, 1000.0, mixed=False)
    scheduler.add(Ticket(0, "long", "a", 24.0, urgency=1))
    scheduler.add(Ticket(1, "clip", "b", 10.0, urgency=0))
    assert [ticket.number for ticket in scheduler.next_batch()] == [0, 1]


def test_a_tenant_that_comes_while_a_batch_runs_is_in_the_next_one() -> None:
    scheduler = Scheduler(4, 1000.0, mixed=False)
    for number in range(12):
        scheduler.add(Ticket(number, "long", "a", 24.0, urgency=1))
    assert [ticket.tenant for ticket in scheduler.next_batch()] == ["a"] * 4
    scheduler.add(Ticket(12, "clip", "b", 10.0, urgency=0))
    assert [ticket.tenant for ticket in scheduler.next_batch()] == ["b"]

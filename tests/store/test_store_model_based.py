"""Model-based test: the scripts on a real Valkey against a small model, driven by hypothesis."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from secrets import randbits
from typing import Any, TypeVar
from uuid import uuid4

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, precondition, rule
from redis import Redis

from serve_app.local.valkey import Valkey
from serve_app.models.event import EventKind, Progress
from serve_app.models.job import ChannelCheckpoint, JobError, JobSpec, Phase, Priority, State
from serve_app.models.lease import AttemptCost, Claim, Commit, CommitOutcome, LeaseRules, LeaseState
from serve_app.models.listing import JobQuery
from serve_app.models.submission import IdempotencyRecord, RetryOutcome, SubmitOutcome, SubmitResult
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.scripts import PREFIX

T = TypeVar("T")
STATES = {Phase(state): state for state in State if state is not State.RUNNING}
FINAL = {Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED}
TENANTS = ("a", "b", "c")
WORKERS = ("w1", "w2")
STALLS, LOSSES = 3, 4
QUOTA_MS = {"a": 0, "b": 100_000, "c": 1_000_000}  # a month
RESERVE_MS = 60_000
ATTEMPTS = 3
STEP_S = 25  # seconds of audio in a window
IDLE_S = 2.5  # a Runner with a free place counts as such at least this long after its last claim


@dataclass
class Known:
    """A job in the model."""

    tenant: str
    priority: Priority = Priority.INTERACTIVE
    phase: Phase = Phase.QUEUED
    token: int | None = None
    windows: int = 0
    stalls: int = 0
    losses: int = 0
    cancelling: bool = False
    delayed: bool = False
    deleted: bool = False
    webhook: bool = True
    tokens: list[int] = field(default_factory=list)
    attempts: int = 0
    forgiven: int = 0
    until: int = 0  # committed audio, in STEP_S
    length_ms: int | None = None
    counted_ms: int = 0
    hold_ms: int | None = None
    cap: int = 0

    @property
    def waits(self) -> bool:
        return self.phase is Phase.QUEUED and not self.delayed

    @property
    def done_ms(self) -> int:
        return self.until * STEP_S * 1000


@dataclass
class Reservation:
    """An idempotency key: reserved, or with the fingerprint of a submitted request."""

    job_id: str
    fingerprint: str | None = None


class Jobs(RuleBasedStateMachine):
    """Any order of calls, by workers with valid and stale tokens, with restarts of the server."""

    ids = Bundle("ids")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(prefix="murmur-test-", dir="/tmp")
        self.valkey = Valkey(Path(self.folder.name), Path(self.folder.name))
        self.jobs: dict[str, Known] = {}
        self.keys: dict[str, Reservation] = {}
        self.job_count = self.steps = 0
        self.workers: dict[int, str] = {}
        self.shared: set[str] = set()
        self.used_ms: Counter[str] = Counter()
        self.idle: dict[str, float] = {}  # worker -> time of the last claim that left it a free place
        self.start()

    def start(self) -> None:
        self.valkey.start()
        redis = connect(self.valkey.url)
        self.store = Store(redis, LeaseRules(lease_s=600, max_stalls=STALLS, max_losses=LOSSES))
        self.expiring = Store(redis, LeaseRules(lease_s=-1, max_stalls=STALLS, max_losses=LOSSES))
        self.raw = Redis(unix_socket_path=self.valkey.url.removeprefix("unix://"), decode_responses=True)
        # Restarts are graceful, so no write needs an fsync; a server notices SIGTERM `hz` times a second.
        self.raw.config_set("appendfsync", "no", "hz", "100")
        assert self.run(self.store.leases.reap()) == 0, "the first search after a start grants all leases more time"

    def teardown(self) -> None:
        self.stop()
        self.loop.close()
        self.folder.cleanup()

    def stop(self) -> None:
        self.run(self.store.close())
        self.raw.close()
        self.valkey.stop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    def held(self, claim: Claim) -> Known | None:
        """The job of a claim that is still valid."""
        job = self.jobs.get(claim.job_id)
        return job if job and job.token == claim.token else None

    def ended(self, job: Known, phase: Phase) -> None:
        need = job.done_ms - job.counted_ms
        if need > 0:
            self.used_ms[job.tenant] += self.fitted(job, need)
            job.counted_ms = job.done_ms
        job.phase, job.token, job.delayed, job.hold_ms = phase, None, False, None

    def left_ms(self, tenant: str) -> int:
        held = sum(job.hold_ms or 0 for job in self.jobs.values() if job.tenant == tenant)
        return max(QUOTA_MS[tenant] - self.used_ms[tenant] - held, 0)

    def fitted(self, job: Known, need_ms: int) -> int:
        """Fit the hold of a job to its need, and return what it may use."""
        if job.hold_ms is None:
            return need_ms
        job.hold_ms = max(min(need_ms, job.hold_ms + self.left_ms(job.tenant)), 1)
        return job.hold_ms

    def running(self) -> Counter[str]:
        return Counter(job.tenant for job in self.jobs.values() if job.token)

    @initialize()
    def begin(self) -> None:
        assert self.run(self.store.leases.claim("nobody")) is None

    @rule(
        target=ids,
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from(Priority),
        seconds=st.sampled_from([None, None, 10, 80]),
    )
    def submit(self, tenant: str, priority: Priority, seconds: int | None) -> Any:
        job_id, quota_ms, left_ms = self.fresh(), QUOTA_MS[tenant], self.left_ms(tenant)
        spec = JobSpec("m", priority=priority, webhook="https://there/", max_attempts=ATTEMPTS)
        submitting = self.store.jobs.submit(
            job_id, "me", tenant, spec, ttl_s=600, quota_s=quota_ms / 1000, reserve_s=seconds
        )
        receipt = self.run(submitting)
        if quota_ms and (not left_ms or (seconds or 0) * 1000 > left_ms):
            assert receipt.outcome is SubmitOutcome.SPENT
            return multiple()
        assert receipt == SubmitResult(SubmitOutcome.NEW, job_id, self.run(self.store.jobs.get(job_id)))
        job = self.jobs[job_id] = Known(tenant, priority)
        if quota_ms:
            job.hold_ms = min(RESERVE_MS, left_ms) if seconds is None else seconds * 1000
        return job_id

    @rule(target=ids, digest=st.sampled_from("xyz"), fingerprint=st.sampled_from("12"), reserved=st.booleans())
    def submit_once(self, digest: str, fingerprint: str, reserved: bool) -> Any:
        """Submit with an idempotency key, which this request or another may have reserved."""
        job_id = self.fresh()
        held = self.keys.get(digest)
        if reserved:
            free = 1 if held is None else 2 if held.fingerprint is not None else 0
            assert self.run(self.store.jobs.reserve_key(digest, job_id, 600)) == free
            held = self.keys.setdefault(digest, Reservation(job_id))
        idempotency = IdempotencyRecord(digest, fingerprint)
        receipt = self.run(self.store.jobs.submit(job_id, "me", "a", JobSpec("m"), ttl_s=600, idempotency=idempotency))
        reply = receipt.outcome, receipt.job_id
        if held is None or (held.job_id == job_id and held.fingerprint is None):
            assert reply == (SubmitOutcome.NEW, job_id)
            self.jobs[job_id] = Known("a", webhook=False)
            self.keys[digest] = Reservation(job_id, fingerprint)
            return job_id
        if held.fingerprint is None:
            assert reply == (SubmitOutcome.BUSY, held.job_id)
        else:
            assert reply == (SubmitOutcome.SAME if held.fingerprint == fingerprint else SubmitOutcome.OTHER, held.job_id)
        return multiple()

    @rule(digest=st.sampled_from("xyz"), releases=st.booleans())
    def reserve_and_release(self, digest: str, releases: bool) -> None:
        """Reserve a key without a submit; release it, or die."""
        job_id = self.fresh()
        if self.run(self.store.jobs.reserve_key(digest, job_id, 600)) and digest not in self.keys:
            self.keys[digest] = Reservation(job_id)
        if releases:
            self.run(self.store.jobs.release_key(digest, job_id))
            if self.keys[digest] == Reservation(job_id):
                del self.keys[digest]

    def fresh(self) -> str:
        self.job_count += 1
        return f"job{self.job_count}"

    @rule(
        target=claims,
        cap=st.sampled_from([0, 0, 1]),
        worker=st.sampled_from([*WORKERS, ""]),
        places=st.sampled_from([1, 1, 2]),
        repeats=st.booleans(),
    )
    def claim(self, cap: int, worker: str, places: int, repeats: bool) -> Any:
        running = self.running()
        waiting = [j for j in self.jobs.values() if j.waits]
        free = [job for job in waiting if not cap or running[job.tenant] < cap]
        worker = worker or f"worker-{len(self.workers)}"
        request = uuid4().hex
        arguments = worker, 600_000, cap, request, randbits(16), places, 0
        found = self.run(self.store.leases._scripts.run("claim", *arguments))
        if found and repeats:
            assert self.run(self.store.leases._scripts.run("claim", *arguments)) == found, "a repeat claims nothing else"
        reply = Claim(found[0].decode(), int(found[1])) if found else None
        assert (reply is not None) == bool(free), "a claim succeeds if and only if a job is waiting"
        self.idle.pop(worker, None)
        if reply is None or places > 1:
            self.idle[worker] = time.monotonic()
        if reply is None:
            return multiple()
        job = self.jobs[reply.job_id]
        assert job in free
        assert all(reply.token > token for other in self.jobs.values() for token in other.tokens), "tokens rise"
        assert job.priority is Priority.INTERACTIVE or not any(
            other.tenant == job.tenant and other.priority is Priority.INTERACTIVE for other in waiting if other is not job
        )
        job.phase, job.token, job.cap = Phase.DOWNLOADING, reply.token, cap
        job.attempts += 1
        job.tokens.append(reply.token)
        self.workers[reply.token] = worker
        return reply

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        job = self.held(claim)
        state = LeaseState.LOST if job is None else LeaseState.CANCELLING if job.cancelling else LeaseState.HELD
        assert self.run(self.store.leases.renew(claim)) is state

    @rule(claim=claims, skip=st.sampled_from([0, 0, 0, 1, -1]), size=st.integers(0, 3), times=st.integers(1, 5))
    def commit(self, claim: Claim, skip: int, size: int, times: int) -> None:
        for _ in range(times):
            self.commit_once(claim, skip, size)

    def commit_once(self, claim: Claim, skip: int, size: int) -> CommitOutcome:
        job = self.held(claim)
        known = self.jobs.get(claim.job_id)
        until = (known.until if known else 0) + 1 + skip
        segments = tuple(orjson.dumps({"window": until, "n": n}).decode() for n in range(size))
        progress = Progress(until * STEP_S, None, until, None, None)
        commit = Commit(99, segments, 1.0, None, "cpu", progress, state=ChannelCheckpoint(until, 1.0))
        outcome = self.run(self.store.leases.commit(claim, commit))
        if job is None:
            assert outcome is CommitOutcome.LOST
        elif job.cancelling:
            assert outcome is CommitOutcome.CANCELLING
        elif until <= job.until:
            assert outcome is CommitOutcome.REPEATED
        else:
            job.windows += 1
            job.until = until
            job.stalls, job.losses, job.forgiven = 0, 0, job.attempts - 1
            need_ms = job.done_ms - job.counted_ms
            exhausted = job.hold_ms is not None and need_ms > job.hold_ms and self.fitted(job, need_ms) < need_ms
            assert (outcome is CommitOutcome.EXHAUSTED) == exhausted
            assert outcome is not CommitOutcome.YIELD or self.may_yield(job)
        return outcome

    def may_yield(self, job: Known) -> bool:
        """Whether a job that waits has more right to the place of a running one."""
        waiting, running, tenant = [other for other in self.jobs.values() if other.waits], self.running(), job.tenant
        idle = any(at > time.monotonic() - IDLE_S for at in self.idle.values())
        urgent = {other.tenant for other in waiting if other.priority is Priority.INTERACTIVE}
        bulk = job.priority is Priority.BULK
        if bulk and tenant in urgent and (not idle or 0 < job.cap <= running[tenant]):
            return True
        share = running.total() / len({*running, *(other.tenant for other in waiting)})
        lacking = {other.tenant for other in waiting if running[other.tenant] < share}
        over = running[tenant] > share or (running[tenant] == share and bulk and bool(lacking & urgent))
        return not idle and over and bool(lacking)

    @rule()
    def all_runners_are_full(self) -> None:
        self.idle.clear()
        self.raw.delete(f"{PREFIX}idle")

    @rule(claim=claims, seconds=st.sampled_from([5, 50, 500]))
    def note_length(self, claim: Claim, seconds: int) -> None:
        job = self.held(claim)
        assert self.run(self.store.leases.note_audio(claim, declared_s=seconds)) == (job is not None)
        if job:
            job.length_ms = seconds * 1000
            need_ms = max(job.length_ms, job.done_ms) - job.counted_ms
            self.fitted(job, need_ms)

    @rule(claim=claims, phase=st.sampled_from([Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED]), partial=st.booleans())
    def finish(self, claim: Claim, phase: Phase, partial: bool) -> None:
        job, record = self.held(claim), self.run(self.store.jobs.get(claim.job_id))
        error = None if phase is Phase.COMPLETED else JobError("internal", "It failed.")
        done = self.run(self.store.leases.finish(claim, phase, error, partial=partial))
        assert done == (job is not None or bool(record and record.transcript == claim.token))
        if job:
            self.ended(job, Phase.CANCELLED if job.cancelling else phase)

    @rule(claim=claims, delayed=st.booleans(), cost=st.sampled_from(AttemptCost))
    def give_back(self, claim: Claim, delayed: bool, cost: AttemptCost) -> None:
        job = self.held(claim)
        returned = self.run(self.store.leases.give_back(claim, delay_s=3600 if delayed else 0, cost=cost))
        assert returned == (job is not None)
        if job and job.cancelling:
            self.ended(job, Phase.CANCELLED)
        elif job:
            job.stalls += cost is AttemptCost.STALL
            job.losses += cost is AttemptCost.LOSS
            if (cost is AttemptCost.STALL and job.stalls >= STALLS) or (cost is AttemptCost.LOSS and job.losses >= LOSSES):
                self.ended(job, Phase.FAILED)
            else:
                job.phase, job.token, job.delayed = Phase.QUEUED, None, delayed
                job.attempts -= cost is not AttemptCost.ATTEMPT

    @rule(claim=claims)
    def worker_dies(self, claim: Claim) -> None:
        """Let a lease expire, and reap it."""
        job = self.held(claim)
        self.run(self.expiring.leases.renew(claim))
        assert self.run(self.store.leases.reap()) == (job is not None)
        if job is None:
            return
        worker = self.workers[claim.token]
        if any(self.workers[other.token] == worker for other in self.jobs.values() if other.token and other is not job):
            self.shared.add(worker)
        if job.cancelling:
            self.ended(job, Phase.CANCELLED)
            return
        if worker in self.shared:
            job.losses += 1
        else:
            job.stalls += 1
        if job.losses >= LOSSES or job.stalls >= STALLS:
            self.ended(job, Phase.FAILED)
        else:
            job.phase, job.token = Phase.QUEUED, None
            job.attempts -= 1

    @rule(job_id=ids)
    def cancel(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        met = self.run(self.store.jobs.cancel(job_id))
        assert met == (job.phase if job else None)
        if job and job.phase not in FINAL:
            if job.token:
                job.cancelling = True
            else:
                self.ended(job, Phase.CANCELLED)

    @rule(job_id=ids, cancelled=st.booleans())
    def retry(self, job_id: str, cancelled: bool) -> None:
        job = self.jobs.get(job_id)
        quota_ms, left_ms = (QUOTA_MS[job.tenant], self.left_ms(job.tenant)) if job else (0, 0)
        phases = {Phase.FAILED, Phase.CANCELLED} if cancelled else {Phase.FAILED}
        outcome = self.run(self.store.jobs.retry(job_id, phases, quota_s=quota_ms / 1000))
        if job is None:
            assert outcome is None
        elif job.phase not in phases or job.attempts - job.forgiven >= ATTEMPTS or job.deleted:
            assert outcome is RetryOutcome.REFUSED
        elif quota_ms and not left_ms:
            assert outcome is RetryOutcome.SPENT
        else:
            assert outcome is RetryOutcome.QUEUED
            job.phase, job.stalls, job.losses, job.cancelling = Phase.QUEUED, 0, 0, False
            if quota_ms:
                rest_ms = RESERVE_MS if job.length_ms is None else max(job.length_ms - job.counted_ms, 1)
                job.hold_ms = min(rest_ms, left_ms)

    @rule(job_id=ids)
    def delete(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        marked = self.run(self.store.jobs.mark_deleted(job_id))
        assert marked == (job.phase in FINAL and not job.deleted if job else None)
        if job and marked:
            job.deleted = True

    @rule(job_id=consumes(ids))
    def purge(self, job_id: str) -> Any:
        job = self.jobs.get(job_id)
        gone = self.run(self.store.jobs.delete(job_id))
        assert gone == (job.phase in FINAL if job else None)
        if gone:
            del self.jobs[job_id]
            self.keys = {digest: held for digest, held in self.keys.items() if held.job_id != job_id}
            self.run(self.store.upkeep.removed(f"jobs/{job_id}"))
            assert not self.traces(job_id)

    def traces(self, job_id: str) -> list[str]:
        """Redis keys that name a job, or whose value does."""
        read: dict[str, Any] = {
            "string": self.raw.get,
            "hash": self.raw.hgetall,
            "zset": lambda k: self.raw.zrange(k, 0, -1),
        }
        traces = []
        for key in self.raw.scan_iter("*"):
            if key.startswith(f"{PREFIX}claim:"):  # it expires
                continue
            kind = str(self.raw.type(key))
            words = read[kind](key) if kind in read else ""
            if re.search(rf"\b{job_id}\b", f"{key} {words}"):
                traces.append(key)
        return traces

    # The rules above take any claim and any job; most are stale or queued. These take those that something can happen to.

    @rule(tenant=st.sampled_from(TENANTS), priority=st.sampled_from(Priority), cap=st.sampled_from([0, 0, 2]))
    def submit_and_claim(self, tenant: str, priority: Priority, cap: int) -> None:
        self.submit(tenant, priority, None)
        self.claim(cap, "w1", 1, repeats=False)

    @precondition(lambda self: self.running())
    @rule(pick=st.integers(0, 9), times=st.integers(1, 4), yields=st.booleans())
    def work(self, pick: int, times: int, yields: bool) -> None:
        """Commit windows of a running job, and give it back if it must make room."""
        claim = self.pick_running(pick)
        for _ in range(times):
            outcome = self.commit_once(claim, 0, 1)
            if outcome is CommitOutcome.YIELD and yields:
                self.give_back(claim, delayed=False, cost=AttemptCost.NOTHING)
                return
            if outcome is CommitOutcome.EXHAUSTED:
                self.finish(claim, Phase.FAILED, partial=True)
                return

    @precondition(lambda self: self.running())
    @rule(pick=st.integers(0, 9), phase=st.sampled_from([Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED]))
    def end(self, pick: int, phase: Phase) -> None:
        self.finish(self.pick_running(pick), phase, partial=True)

    @precondition(lambda self: self.running())
    @rule(pick=st.integers(0, 9), cost=st.sampled_from(AttemptCost), dies=st.booleans())
    def interrupt(self, pick: int, cost: AttemptCost, dies: bool) -> None:
        if dies:
            self.worker_dies(self.pick_running(pick))
        else:
            self.give_back(self.pick_running(pick), delayed=False, cost=cost)

    @precondition(lambda self: any(job.phase in FINAL for job in self.jobs.values()))
    @rule(pick=st.integers(0, 9))
    def retry_ended(self, pick: int) -> None:
        ended = [job_id for job_id, job in self.jobs.items() if job.phase in FINAL]
        self.retry(ended[pick % len(ended)], cancelled=True)

    def pick_running(self, pick: int) -> Claim:
        claims = [Claim(job_id, job.token) for job_id, job in self.jobs.items() if job.token]
        return claims[pick % len(claims)]

    @rule()
    def server_restarts(self) -> None:
        self.stop()
        self.start()

    @invariant()
    def every_job_is_in_exactly_one_place(self) -> None:
        leases = set(self.raw.zrange(f"{PREFIX}leases", 0, -1))
        delayed = set(self.raw.zrange(f"{PREFIX}delayed", 0, -1))
        waiting = [str(job) for tenant in TENANTS for job in self.raw.zrange(f"{PREFIX}wait:{tenant}", 0, -1)]
        ended = set(self.raw.zrange(f"{PREFIX}expiry", 0, -1))
        assert leases == {i for i, job in self.jobs.items() if job.token}
        assert delayed == {i for i, job in self.jobs.items() if job.delayed}
        assert sorted(waiting) == sorted(i for i, job in self.jobs.items() if job.phase is Phase.QUEUED and not job.delayed)
        assert ended == {i for i, job in self.jobs.items() if job.phase in FINAL}
        assert set(self.raw.zrange(f"{PREFIX}tenants", 0, -1)) == {self.jobs[i].tenant for i in waiting}

    @invariant()
    def every_end_has_its_webhook_queued_once(self) -> None:
        queued = sorted(str(i) for tenant in TENANTS for i in self.raw.zrange(f"{PREFIX}webhooks:{tenant}", 0, -1))
        assert set(self.raw.zrange(f"{PREFIX}webhooks", 0, -1)) == {self.jobs[i.partition(":")[0]].tenant for i in queued}
        ended = {i: self.run(self.store.jobs.get(i)) for i, job in self.jobs.items() if job.phase in FINAL and job.webhook}
        assert queued == sorted(f"{i}:{job.done_event}" for i, job in ended.items() if job)

    @invariant()
    def listings_show_jobs_that_are_not_deleted(self) -> None:
        listed = [i for tenant in TENANTS for i in self.raw.zrange(f"{PREFIX}index:{tenant}/me", 0, -1)]
        assert sorted(listed) == sorted(i for i, job in self.jobs.items() if not job.deleted)

    @invariant()
    def every_job_is_on_the_shelf_of_its_state(self) -> None:
        self.steps += 1
        if self.steps % 4:  # it takes most of the time
            return
        for tenant in TENANTS:
            for state in State:
                listed = self.run(
                    self.store.jobs.query("me", tenant, "native", JobQuery((state,), newest_first=False, limit=1000))
                )
                mine = [i for i, job in self.jobs.items() if job.tenant == tenant and not job.deleted]
                assert [job.id for job in listed.jobs] == [
                    i for i in mine if STATES.get(self.jobs[i].phase, "running") == state
                ]
                assert listed.total == len(listed.jobs)

    def counts(self, name: str) -> dict[str, int]:
        return {str(field): int(count) for field, count in self.raw.hgetall(f"{PREFIX}{name}").items()}

    @invariant()
    def counters_equal_jobs(self) -> None:
        assert self.counts("running") == self.running()
        assert self.counts("worker_jobs") == Counter(self.workers[job.token] for job in self.jobs.values() if job.token)
        assert self.counts("kept") == Counter(job.tenant for job in self.jobs.values())

    @invariant()
    def minutes_are_held_until_a_job_ends_and_charged_once(self) -> None:
        for tenant, quota_ms in QUOTA_MS.items():
            holds = {i: job.hold_ms for i, job in self.jobs.items() if job.tenant == tenant and job.hold_ms is not None}
            assert self.counts(f"held:{tenant}") == holds
            assert self.counts("held").get(tenant, 0) == sum(holds.values())
            assert round(self.run(self.store.usage.audio_s(tenant)) * 1000) == self.used_ms[tenant]
            assert not quota_ms or self.used_ms[tenant] + sum(holds.values()) <= quota_ms

    @invariant()
    def records_match_the_model(self) -> None:
        for job_id, job in self.jobs.items():
            record = self.run(self.store.jobs.get(job_id))
            assert record
            assert (record.phase, record.checkpoint.next_window) == (job.phase, job.windows)
            assert (record.attempts, record.forgiven) == (job.attempts, job.forgiven)
            assert record.setbacks == job.stalls + job.losses
            places = {channel: state.until for channel, state in record.checkpoint.channels.items()}
            assert job.phase is Phase.COMPLETED or places == ({None: job.until} if job.windows else {})
            assert not record.partial or record.phase in (Phase.FAILED, Phase.CANCELLED)

    @invariant()
    def streams_hold_every_segment_once_in_order_and_one_end(self) -> None:
        for job_id, job in self.jobs.items():
            events = self.run(self.store.events.read(job_id))
            segments = [orjson.loads(e.data) for e in events if e.kind is EventKind.SEGMENT]
            assert segments == sorted(segments, key=lambda s: (s["window"], s["n"]))
            assert len({(s["window"], s["n"]) for s in segments}) == len(segments)
            ends = [e for e in events if e.kind is EventKind.DONE]
            assert len(ends) == (job.phase in FINAL)
            assert not ends or events[-1] == ends[0]


TestJobs = Jobs.TestCase
TestJobs.settings = settings(
    max_examples=15, stateful_step_count=45, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

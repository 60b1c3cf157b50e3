"""Model-based test: the scripts on a real Valkey against a small model, driven by hypothesis."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from redis import Redis

from serve_app.local.valkey import Valkey
from serve_app.models.event import EventKind, Progress
from serve_app.models.job import JobError, JobSpec, Phase, Priority, State
from serve_app.models.lease import AttemptCost, Claim, Commit, CommitOutcome, LeaseRules, LeaseState
from serve_app.models.listing import JobQuery
from serve_app.models.submission import IdempotencyRecord, SubmitOutcome, SubmitResult
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.scripts import PREFIX

T = TypeVar("T")
STATES = {Phase(state): state for state in State if state is not State.RUNNING}
FINAL = {Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED}
TENANTS = ("a", "b", "c")
WORKERS = ("w1", "w2")
STALLS, LOSSES = 3, 4


@dataclass
class Known:
    """A job in the model."""

    tenant: str
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
        self.job_count = 0
        self.workers: dict[int, str] = {}
        self.shared: set[str] = set()
        self.start()

    def start(self) -> None:
        self.valkey.start()
        redis = connect(self.valkey.url)
        self.store = Store(redis, LeaseRules(lease_s=600, max_stalls=STALLS, max_losses=LOSSES))
        self.expiring = Store(redis, LeaseRules(lease_s=-1, max_stalls=STALLS, max_losses=LOSSES))
        self.raw = Redis(unix_socket_path=self.valkey.url.removeprefix("unix://"), decode_responses=True)
        # Restarts are graceful, so no write needs an fsync; a server notices SIGTERM `hz` times a second.
        self.raw.config_set("appendfsync", "no", "hz", "100")

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
        job.phase, job.token, job.delayed = phase, None, False

    @initialize()
    def begin(self) -> None:
        assert self.run(self.store.leases.claim("nobody")) is None

    @rule(target=ids, tenant=st.sampled_from(TENANTS), priority=st.sampled_from(Priority))
    def submit(self, tenant: str, priority: Priority) -> str:
        job_id = self.fresh()
        spec = JobSpec("m", priority=priority, webhook="https://there/")
        receipt = self.run(self.store.jobs.submit(job_id, "me", tenant, spec, ttl_s=600))
        assert receipt == SubmitResult(SubmitOutcome.NEW, job_id, self.run(self.store.jobs.get(job_id)))
        self.jobs[job_id] = Known(tenant)
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

    @rule(target=claims, cap=st.sampled_from([0, 0, 1]), worker=st.sampled_from([*WORKERS, ""]))
    def claim(self, cap: int, worker: str) -> Any:
        running = Counter(job.tenant for job in self.jobs.values() if job.token)
        waiting = [j for j in self.jobs.values() if j.phase is Phase.QUEUED and not j.delayed]
        free = [job for job in waiting if not cap or running[job.tenant] < cap]
        worker = worker or f"worker-{len(self.workers)}"
        reply = self.run(self.store.leases.claim(worker, cap))
        assert (reply is not None) == bool(free), "a claim succeeds if and only if a job is waiting"
        if reply is None:
            return multiple()
        job = self.jobs[reply.job_id]
        assert job in free
        assert all(reply.token > token for other in self.jobs.values() for token in other.tokens), "tokens rise"
        job.phase, job.token = Phase.DOWNLOADING, reply.token
        job.tokens.append(reply.token)
        self.workers[reply.token] = worker
        return reply

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        job = self.held(claim)
        state = LeaseState.LOST if job is None else LeaseState.CANCELLING if job.cancelling else LeaseState.HELD
        assert self.run(self.store.leases.renew(claim)) is state

    @rule(claim=claims, skip=st.sampled_from([0, 0, 0, 1, -1]), size=st.integers(0, 3))
    def commit(self, claim: Claim, skip: int, size: int) -> None:
        job = self.held(claim)
        known = self.jobs.get(claim.job_id)
        window = max((known.windows if known else 0) + skip, 0)
        segments = tuple(orjson.dumps({"window": window, "n": n}).decode() for n in range(size))
        progress = Progress(1.0, None, window + 1, None, None)
        outcome = self.run(self.store.leases.commit(claim, Commit(window, segments, 1.0, None, "cpu", progress)))
        if job is None:
            assert outcome is CommitOutcome.LOST
        elif job.cancelling:
            assert outcome is CommitOutcome.CANCELLING
        elif window != job.windows:
            assert outcome is CommitOutcome.REPEATED
        else:
            assert outcome is CommitOutcome.COMMITTED
            job.windows += 1
            job.stalls = job.losses = 0

    @rule(claim=claims, phase=st.sampled_from([Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED]))
    def finish(self, claim: Claim, phase: Phase) -> None:
        job = self.held(claim)
        error = None if phase is Phase.COMPLETED else JobError("internal", "It failed.")
        done = self.run(self.store.leases.finish(claim, phase, error))
        assert done == (job is not None)
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

    @rule(job_id=ids)
    def retry(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        record = self.run(self.store.jobs.get(job_id))
        left = bool(record and record.attempts < record.spec.max_attempts)
        again = self.run(self.store.jobs.retry(job_id))
        assert again == (job.phase is Phase.FAILED and left and not job.deleted if job else None)
        if job and again:
            job.phase, job.stalls, job.losses, job.cancelling = Phase.QUEUED, 0, 0, False

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
            kind = str(self.raw.type(key))
            words = read[kind](key) if kind in read else ""
            if re.search(rf"\b{job_id}\b", f"{key} {words}"):
                traces.append(key)
        return traces

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
        queued = sorted(self.raw.zrange(f"{PREFIX}webhooks", 0, -1))
        ended = {i: self.run(self.store.jobs.get(i)) for i, job in self.jobs.items() if job.phase in FINAL and job.webhook}
        assert queued == sorted(f"{i}:{job.done_event}" for i, job in ended.items() if job)

    @invariant()
    def listings_show_jobs_that_are_not_deleted(self) -> None:
        listed = [i for tenant in TENANTS for i in self.raw.zrange(f"{PREFIX}index:{tenant}/me", 0, -1)]
        assert sorted(listed) == sorted(i for i, job in self.jobs.items() if not job.deleted)

    @invariant()
    def every_job_is_on_the_shelf_of_its_state(self) -> None:
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

    @invariant()
    def counters_equal_leases(self) -> None:
        running = {t: int(n) for t, n in self.raw.hgetall(f"{PREFIX}running").items() if int(n)}
        assert running == Counter(job.tenant for job in self.jobs.values() if job.token)

    @invariant()
    def records_match_the_model(self) -> None:
        for job_id, job in self.jobs.items():
            record = self.run(self.store.jobs.get(job_id))
            assert record
            assert (record.phase, record.checkpoint.next_window) == (job.phase, job.windows)
            assert record.attempts >= 0

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
    max_examples=15, stateful_step_count=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

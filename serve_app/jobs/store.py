"""The jobs in Redis: the only file that names a key. What must change together changes in one script (lua/*.lua).

Keys, all under one hash tag: `job:ID` hash, `events:ID` stream, `index:TENANT/OWNER` ids by order of creation, `made:` and
`ended:TENANT/OWNER/DIALECT:SHELF` the same of those made in a dialect, by time, `wait:TENANT` queue by urgency and order,
`tenants` start tags of those with a queue, `weights`, `finish` and `clock` of the fair queueing, `running` jobs a tenant,
`claimed` and `pace` of its queue, `leases`, `delayed`, `expiry`, `ended`, `private` and `summaries` ids by the time at which
something is to be done, `webhooks` deliveries by time, `file:ID` and `file_jobs:ID` sources that lie apart, `bucket:TENANT`
and `used:TENANT` of its limits, `shared:WORKER` that a lost worker had several jobs, `once:HASH` idempotency keys, `metrics`
figures that only grow, `seq`, `stamp` and `token` counters.
Channels: `work` (a job waits), `wake` (a stream grew), `cancel` (a running job is to stop).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis

from serve_app.jobs.connection import answer
from serve_app.jobs.models import Claim, Commit, Event, EventKind, File, Job, JobError, JobSpec, Phase, State, SummaryState
from serve_app.jobs.record import FILE, SPEC, placed, to_file, to_job
from serve_app.jobs.terms import Counts, Figures, Leases, Listed, Once, Order, Receipt, Verdict, Wanted

PREFIX = "murmur:{q}:"
SCRIPTS = Path(__file__).parent / "lua"


@cache
def script(name: str) -> str:
    """A script of lua/, with what all share before it."""
    return (SCRIPTS / "lib.lua").read_text() + (SCRIPTS / f"{name}.lua").read_text()


class Store:
    """Everything the core asks of Redis."""

    def __init__(self, redis: Redis, leases: Leases | None = None) -> None:
        self._redis = redis
        self._leases = leases or Leases()
        self._scripts = {path.stem: redis.register_script(script(path.stem)) for path in SCRIPTS.glob("*.lua")}

    @property
    def lease_s(self) -> float:
        """How long a claim lasts without renewal."""
        return self._leases.lease_s

    async def ping(self) -> None:
        """Raise one of OUTAGES unless the server answers."""
        await answer(self._redis.ping())

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    # The life of a job, as the edge sees it.

    async def submit(
        self,
        job_id: str,
        owner: str,
        tenant: str,
        spec: JobSpec,
        *,
        ttl_s: float,
        queue_limit: int = 0,
        quota_s: float = 0.0,
        once: Once | None = None,
        file: File | None = None,
    ) -> Receipt:
        """Record a job and queue it, unless the tenant has `queue_limit` jobs waiting or had `quota_s` of audio this month,
        or `once` stands for a job, or the file that it is of is gone. `file` is one that is new."""
        webhook = int(spec.webhook is not None)
        place, fingerprint = (once.place, once.fingerprint) if once else ("", "")
        arguments = [spec.priority.urgency, spec.max_attempts, int(ttl_s * 1000), SPEC.dump_json(spec), queue_limit]
        arguments += [webhook, place, fingerprint, int(quota_s * 1000), spec.dialect]
        arguments += [spec.file or "", FILE.dump_json(file) if file else "", spec.summary or ""]
        told = await self._run("submit", job_id, owner, tenant, *arguments)
        verdict, made, *new = told
        job = placed(_job(dict(zip(new[0][::2], new[0][1::2], strict=True))), new[1], *new[2:3]) if new else None
        return Receipt(Verdict(verdict.decode()), made.decode(), (await self._with_files([job]))[0])

    async def reserve(self, place: str, job_id: str, keep_s: float) -> bool:
        """Keep an idempotency key for a job to be, for a while. False where another request holds it."""
        return bool(await self._run("reserve", place, job_id, int(keep_s * 1000)))

    async def release(self, place: str, job_id: str) -> None:
        """Give it back where that job will not be."""
        await self._run("release", place, job_id)

    async def weigh(self, weights: Mapping[str, float]) -> None:
        """How many turns tenants have for one of the others'; 1 for those that are not named."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(self._key("weights"))
            if weights:
                pipe.hset(self._key("weights"), mapping={tenant: str(weight) for tenant, weight in weights.items()})
            await answer(pipe.execute())

    async def pace_s(self, tenant: str) -> float | None:
        """Seconds from one claim of a tenant's job to the next, lately; None where it was never measured."""
        pace_ms = await answer(self._redis.hget(self._key("pace"), tenant))
        return None if pace_ms is None else float(pace_ms) / 1000

    async def take(self, tenant: str, per_minute: int) -> float:
        """Take one of a tenant's tokens; 0, or the seconds until there is one."""
        return int(await self._run("take", tenant, per_minute)) / 1000

    async def used_s(self, tenant: str) -> float:
        """Seconds of audio that were heard for a tenant this month (UTC)."""
        return int(await self._run("used", tenant)) / 1000

    async def get(self, job_id: str) -> Job | None:
        """The job, None where there is none."""
        return (await self.get_many([job_id]))[0]

    async def get_many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Several at once, in order."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(self._key(f"job:{job_id}"))
            found = await answer(pipe.execute())
        jobs = [_job(fields) if fields else None for fields in found]
        return await self._with_files(await self._with_positions(jobs))

    async def page(self, owner: str, tenant: str, *, limit: int, before: str | None = None) -> tuple[list[Job], str | None]:
        """An owner's jobs, newest first, and the cursor of the next page (None on the last)."""
        top = f"({before}" if before else "+inf"
        index = self._key(f"index:{tenant}/{owner}")
        found: Any = await answer(self._redis.zrevrangebyscore(index, top, "-inf", start=0, num=limit + 1, withscores=True))
        jobs = await self.get_many([job_id.decode() for job_id, _ in found[:limit]])
        cursor = str(int(found[limit - 1][1])) if len(found) > limit else None
        return [job for job in jobs if job], cursor

    async def listed(self, owner: str, tenant: str, dialect: str, wanted: Wanted) -> Listed:
        """An owner's jobs that were made in a dialect."""
        place = f"{tenant}/{owner}/{dialect}" + (f"@{wanted.file}" if wanted.file else "")
        groups = [(state,) for state in wanted.states] if wanted.order is Order.STATE else [wanted.states]
        found: list[bytes] = []
        total, offset = 0, wanted.offset
        for states in groups:
            limit = wanted.limit + 1 - len(found) // 2
            many, *more = await self._run("list", place, *self._asked(wanted, states), max(offset, 0), limit)
            total, offset, found = total + many, offset - many, found + more
        jobs = await self.get_many([job_id.decode() for job_id in found[: 2 * wanted.limit : 2]])
        last = int(found[2 * wanted.limit - 1]) if len(found) > 2 * wanted.limit else None
        return Listed(tuple(job for job in jobs if job), total, last)

    @staticmethod
    def _asked(wanted: Wanted, states: Sequence[State]) -> list[Any]:
        shelves = ",".join(f"{state}{mark}" for state in states for mark in wanted.marks if state.final or not mark)
        order = Order.MADE if wanted.order is Order.STATE else wanted.order
        times = (wanted.made_after, wanted.made_before, wanted.ended_after, wanted.ended_before)
        bounds = ["" if at is None else round(at * 1000) for at in times]
        return [shelves, order, "desc" if wanted.newest_first else "asc", *bounds, _or_blank(wanted.after)]

    async def cancel(self, job_id: str) -> Phase | None:
        """Ask for a cancel; returns the phase it met, None where there is no such job."""
        phase = await self._run("cancel", job_id)
        return Phase(phase.decode()) if phase else None

    async def retry(self, job_id: str) -> bool | None:
        """Queue a failed job again. False where it has not failed or has no attempts left, None where there is none."""
        queued = await self._run("retry", job_id)
        return None if queued is None else bool(queued)

    async def delete(self, job_id: str) -> bool | None:
        """Mark an ended job as deleted. False where it has not ended or is marked, None where there is none."""
        marked = await self._run("delete", job_id)
        return None if marked is None else bool(marked)

    async def purge(self, job_id: str) -> str | bool | None:
        """Remove a finished job. False where it is not finished, None where there is none; its file's id where no other job
        needs that."""
        return _gone(await self._run("purge", job_id))

    async def erase(self, job_id: str) -> bool | None:
        """Have a job go as soon as it has ended, and hide it until then. False where it has, None where there is none."""
        hidden = await self._run("erase", job_id)
        return None if hidden is None else bool(hidden)

    async def shred(self, job_id: str, *, keep_s: float, deleted: bool = False) -> str | bool | None:
        """Remove the results of a finished job, and keep its record for a while. False where it is not finished, was purged
        before, or is not marked as `deleted` though it must be; None and ids as `purge`."""
        return _gone(await self._run("shred", job_id, int(deleted), int(keep_s * 1000)))

    async def set_webhook(self, job_id: str, spec: JobSpec) -> bool | None:
        """Have the end of a job told as `spec` says. False where it has ended, None where there is none."""
        changed = await self._run("hook_set", job_id, SPEC.dump_json(spec), int(spec.webhook is not None))
        return None if changed is None else bool(changed)

    async def due_summaries(self, limit: int, hold_s: float) -> list[str]:
        """Ids of jobs to summarise now, which others are not told of for a while."""
        return (
            [job_id.decode() for job_id in await self._run("summary_take", limit, int(hold_s * 1000))] if limit > 0 else []
        )

    async def note_summary(self, job_id: str, state: SummaryState, why: str = "", wait_s: float = 0.0) -> bool:
        """How a summary has fared; one that is pending is due again after `wait_s`. False where the job is gone."""
        return bool(await self._run("summary_note", job_id, state, why, int(wait_s * 1000)))

    async def files(self, file_ids: Sequence[str]) -> list[File | None]:
        """Files' records, None where there is none."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for file_id in file_ids:
                pipe.hgetall(self._key(f"file:{file_id}"))
            found = await answer(pipe.execute())
        return [
            to_file({name.decode(): value.decode() for name, value in fields.items()}) if fields else None
            for fields in found
        ]

    async def file_stored(self, file_id: str, size: int) -> None:
        """A file that was to be fetched is stored."""
        await self._run("file_stored", file_id, size)

    # The life of a claim, as a runner sees it. A False means that the lease is lost.

    async def claim(self, worker: str, tenant_cap: int = 0) -> Claim | None:
        """Take the next job under a lease; None when none waits."""
        found = await self._run("claim", worker, self._lease_ms, tenant_cap)
        return Claim(found[0].decode(), int(found[1])) if found else None

    async def renew(self, claim: Claim) -> tuple[bool, bool]:
        """Prolong the lease. Returns (still ours, to be cancelled)."""
        answer = await self._run("renew", claim.job_id, claim.token, self._lease_ms)
        return answer != 0, answer == 2

    async def enter(self, claim: Claim, phase: Phase | None = None, **facts: float | str) -> bool:
        """Move on to a phase and note facts (fields of the job's hash)."""
        pairs = [item for pair in facts.items() for item in pair]
        return bool(await self._run("phase", claim.job_id, claim.token, phase or "", *pairs))

    async def respec(self, job_id: str, spec: JobSpec, claim: Claim | None = None) -> bool:
        """Replace what a job was made of, while the lease is held, or with no claim once the job has ended."""
        return bool(await self._run("respec", job_id, claim.token if claim else "", SPEC.dump_json(spec)))

    async def commit(self, claim: Claim, commit: Commit) -> bool:
        """Append a window's segments; one that was committed before is passed over."""
        progress = commit.progress
        arguments = [commit.window, commit.end_s, progress["audio_done_s"], _or_blank(progress["eta_s"])]
        arguments += [commit.language or "", commit.device, orjson.dumps(dict(progress))]
        arguments += [commit.decodes, int(commit.fill * 1000), *commit.segments]
        return bool(await self._run("commit", claim.job_id, claim.token, *arguments))

    async def finish(self, claim: Claim, phase: Phase, error: JobError | None = None, language: str | None = None) -> bool:
        """End the job for good."""
        code, message = (error.code, error.message) if error else ("", "")
        return bool(await self._run("finish", claim.job_id, claim.token, phase, code, message, language or ""))

    async def give_back(
        self, claim: Claim, *, delay_s: float = 0.0, counts: Counts = Counts.NOTHING, model: str = ""
    ) -> bool:
        """Put the job back into the queue, to go on with another `model` if one is named; one that has stalled too often is
        failed instead."""
        arguments = [int(delay_s * 1000), counts, self._leases.max_stalls, self._leases.max_losses, model]
        return bool(await self._run("giveback", claim.job_id, claim.token, *arguments))

    # Upkeep.

    async def figures(self) -> Figures:
        """What is measured, now and since the store was made."""
        tenants: Any = await answer(self._redis.zrange(self._key("tenants"), 0, -1))
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._key("metrics"))
            pipe.zcard(self._key("leases"))
            pipe.zcard(self._key("delayed"))
            pipe.zcard(self._key("webhooks"))
            for tenant in tenants:
                pipe.zcard(self._key(f"wait:{tenant.decode()}"))
            grown, running, delayed, webhooks, *waiting = await answer(pipe.execute())
        figures = {k.decode(): int(v) for k, v in grown.items()}
        return Figures(figures, sum(waiting), running, delayed, webhooks, await self._queue_age_s(tenants))

    async def _queue_age_s(self, tenants: Sequence[bytes]) -> float:
        async with self._redis.pipeline(transaction=False) as pipe:
            for tenant in tenants:
                pipe.zrange(self._key(f"wait:{tenant.decode()}"), 0, 0)
            heads = [ids[0].decode() for ids in await answer(pipe.execute()) if ids]
        made = [job.created_at for job in await self.get_many(heads) if job]
        seconds, micros = await answer(self._redis.time())
        return max((seconds + micros / 1e6 - at for at in made), default=0.0)

    async def reap(self) -> int:
        """Take back jobs whose lease expired; returns how many."""
        return int(await self._run("reap", self._leases.max_stalls, self._leases.max_losses))

    async def expired(self, limit: int = 100) -> list[str]:
        """Ids of jobs whose results have outlived their time."""
        return await self._due("expiry", 0.0, limit)

    async def to_forget(self, grace_s: float, limit: int = 100) -> list[str]:
        """Ids of private jobs that ended `grace_s` ago and are not `forgotten` yet."""
        return await self._due("private", grace_s, limit)

    async def forgotten(self, job_id: str) -> None:
        """Nothing is left of a private job that is to be forgotten."""
        await answer(self._redis.zrem(self._key("private"), job_id))

    async def drop_old_streams(self, grace_s: float, limit: int = 100) -> int:
        """Drop event streams of jobs that ended `grace_s` ago: their transcript tells the same from then on."""
        ids = await self._due("ended", grace_s, limit)
        if ids:
            await answer(self._redis.delete(*(self._key(f"events:{job_id}") for job_id in ids)))
            await answer(self._redis.zrem(self._key("ended"), *ids))
        return len(ids)

    # Streams.

    async def events(self, job_id: str, after: str = "0", limit: int = 500) -> list[Event]:
        """Entries of a job's stream after an event's id, in order."""
        found: Any = await answer(self._redis.xrange(self._key(f"events:{job_id}"), f"({after}", "+", count=limit))
        return [Event(i.decode(), EventKind(f[b"kind"].decode()), f[b"data"].decode()) for i, f in found]

    async def has_events(self, job_id: str) -> bool:
        """Whether the job's stream is (still) there."""
        return bool(await answer(self._redis.exists(self._key(f"events:{job_id}"))))

    @asynccontextmanager
    async def listen(self, *channels: str) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        """(channel, job id) as they are published on `work`, `wake`, `cancel`, over one connection of its own."""
        subscription: Any = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            await subscription.subscribe(*(self._key(channel) for channel in channels))
            yield self._messages(subscription)
        finally:
            await subscription.aclose()

    @staticmethod
    async def _messages(subscription: Any) -> AsyncIterator[tuple[str, str]]:
        while True:
            message = await subscription.get_message(timeout=5.0)
            if message is not None:
                yield message["channel"].decode().removeprefix(PREFIX), message["data"].decode()

    async def _due(self, name: str, grace_s: float, limit: int) -> list[str]:
        seconds, micros = await answer(self._redis.time())
        top = (seconds - grace_s) * 1000 + micros // 1000
        ids: Any = await answer(self._redis.zrangebyscore(self._key(name), "-inf", top, 0, limit))
        return [i.decode() for i in ids]

    async def _with_positions(self, jobs: list[Job | None]) -> list[Job | None]:
        """Tell queued jobs how many of their tenant's stand before them, and when their turn is likely to come."""
        queued = [job for job in jobs if job and job.phase is Phase.QUEUED]
        if not queued:
            return jobs
        async with self._redis.pipeline(transaction=False) as pipe:
            for job in queued:
                pipe.zrank(self._key(f"wait:{job.tenant}"), job.id)
                pipe.hget(self._key("pace"), job.tenant)
            told = await answer(pipe.execute())
        places = {job.id: placed(job, *told[2 * i : 2 * i + 2]) for i, job in enumerate(queued)}
        return [places.get(job.id, job) if job else None for job in jobs]

    async def _with_files(self, jobs: list[Job | None]) -> list[Job | None]:
        wanted = {job.spec.file for job in jobs if job and job.spec.file}
        if not wanted:
            return jobs
        files = dict(zip(wanted, await self.files(list(wanted)), strict=True))
        return [replace(job, file=files[job.spec.file]) if job and job.spec.file else job for job in jobs]

    @property
    def _lease_ms(self) -> int:
        return int(self._leases.lease_s * 1000)

    @staticmethod
    def _key(name: str) -> str:
        return PREFIX + name

    async def _run(self, script: str, *arguments: Any) -> Any:
        return await answer(self._scripts[script](keys=[PREFIX], args=arguments))


def _job(fields: Mapping[bytes, bytes]) -> Job:
    return to_job(_text(fields))


def _text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _gone(told: Any) -> str | bool | None:
    if isinstance(told, bytes):
        return told.decode()
    return None if told is None else bool(told)


def _or_blank(value: Any) -> Any:
    return "" if value is None else value

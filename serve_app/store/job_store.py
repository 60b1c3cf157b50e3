"""Records of jobs and of shared files."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from serve_app.models.file import File
from serve_app.models.job import Job, JobSpec, Phase
from serve_app.models.lease import Claim
from serve_app.models.listing import JobPage, JobQuery
from serve_app.models.submission import IdempotencyRecord, Reservation, RetryOutcome, SubmitOutcome, SubmitResult
from serve_app.store.connection import execute
from serve_app.store.job_list import list_jobs, shelves
from serve_app.store.records import FILE, SPEC, to_file, to_job, with_position
from serve_app.store.scripts import Scripts, key

FileId = str
# None: no such job; False: refused; True: removed; a FileId: removed, and no other job needs that file.
Removed = FileId | bool | None
# Files of a deleted job are left to the sweeper where its caller has not deleted them after this.
FILES_HOLD_MS = 60_000


class JobStore:
    """Methods return None if there is no such job, False if its state forbids it."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._run = scripts.run

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
        reserve_s: float | None = None,  # length of the audio where it is known
        kept_limit: int = 0,
        idempotency: IdempotencyRecord | None = None,
        file: File | None = None,
    ) -> SubmitResult:
        """Record a job, and a new `file`, and queue it. A limit of 0 is none."""
        webhook = int(spec.webhook is not None)
        digest, fingerprint = (idempotency.digest, idempotency.fingerprint) if idempotency else ("", "")
        arguments = [spec.priority.urgency, spec.max_attempts, int(ttl_s * 1000), SPEC.dump_json(spec), queue_limit]
        arguments += [webhook, digest, fingerprint, int(quota_s * 1000), spec.dialect]
        arguments += [spec.file or "", FILE.dump_json(file) if file else "", spec.summary or "", int(spec.private)]
        arguments += ["" if reserve_s is None else math.ceil(reserve_s * 1000), kept_limit]
        outcome, created_id, *new = await self._run("submit", job_id, owner, tenant, *arguments)
        job = _job(dict(zip(new[0][::2], new[0][1::2], strict=True))) if new else None
        job = with_position(job, *new[1:3]) if job else None
        return SubmitResult(SubmitOutcome(outcome.decode()), created_id.decode(), (await self._with_files([job]))[0])

    async def reserve_key(self, digest: str, job_id: str, hold_s: float) -> Reservation:
        """Reserve an idempotency key."""
        return Reservation(await self._run("idempotency_reserve", digest, job_id, int(hold_s * 1000)))

    async def release_key(self, digest: str, job_id: str) -> None:
        await self._run("idempotency_release", digest, job_id)

    async def get(self, job_id: str) -> Job | None:
        return (await self.get_many([job_id]))[0]

    async def get_many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Jobs in the order of their ids."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(key(f"job:{job_id}"))
            records = await execute(pipe.execute())
        jobs = [_job(fields) if fields else None for fields in records]
        return await self._with_files(await self._with_positions(jobs))

    async def page(self, owner: str, tenant: str, *, limit: int, before: str | None = None) -> tuple[list[Job], str | None]:
        """Jobs, newest first, and the next cursor (None on the last page)."""
        top = f"({before}" if before else "+inf"
        index = key(f"index:{tenant}/{owner}")
        ids: Any = await execute(self._redis.zrevrangebyscore(index, top, "-inf", start=0, num=limit + 1, withscores=True))
        jobs = await self._listed(f"{tenant}/{owner}", "", "", [job_id.decode() for job_id, _ in ids[:limit]])
        return jobs, str(int(ids[limit - 1][1])) if len(ids) > limit else None

    async def query(self, owner: str, tenant: str, dialect: str, query: JobQuery) -> JobPage:
        """Raises RequestError where too many jobs lie within both times of the query."""
        index = f"{tenant}/{owner}/{dialect}" + (f"@{query.file}" if query.file else "")
        listed = await list_jobs(self._run, index, query)
        ids, after = listed.page(query.limit)
        jobs = await self._listed(f"{tenant}/{owner}", index, shelves(query, query.states), ids)
        return JobPage(tuple(jobs), listed.total, after)

    async def _listed(self, owner: str, index: str, names: str, ids: Sequence[str]) -> list[Job]:
        # An id without a record leaves the listing.
        jobs = await self.get_many(ids)
        if ghosts := [job_id for job_id, job in zip(ids, jobs, strict=True) if job is None]:
            await self._run("unlist_ghosts", owner, index, names, *ghosts)
        return [job for job in jobs if job]

    async def cancel(self, job_id: str) -> Phase | None:
        """Request a cancel. Returns the phase before it."""
        phase = await self._run("cancel", job_id)
        return Phase(phase.decode()) if phase else None

    async def retry(
        self, job_id: str, phases: Collection[Phase] = (Phase.FAILED,), *, queue_limit: int = 0, quota_s: float = 0.0
    ) -> RetryOutcome | None:
        """Requeue a job that ended in one of `phases`, from its checkpoint."""
        outcome = await self._run("retry", job_id, ",".join(phases), queue_limit, int(quota_s * 1000))
        return RetryOutcome(outcome.decode()) if outcome else None

    async def mark_deleted(self, job_id: str) -> bool | None:
        """Hide an ended job from listings."""
        return _flag(await self._run("mark_deleted", job_id))

    async def delete(self, job_id: str) -> Removed:
        return _removed(await self._run("delete", job_id, FILES_HOLD_MS))

    async def delete_when_ended(self, job_id: str) -> bool | None:
        """Hide a job, and delete it once it ends."""
        return _flag(await self._run("delete_when_ended", job_id))

    # With `deleted`, only a job that is marked as deleted.
    async def purge_results(self, job_id: str, *, keep_s: float, deleted: bool = False) -> Removed:
        """Delete the results; the record stays for `keep_s`."""
        return _removed(await self._run("purge_results", job_id, int(deleted), int(keep_s * 1000), FILES_HOLD_MS))

    async def set_webhook(self, job_id: str, spec: JobSpec) -> bool | None:
        return _flag(await self._run("webhook_set", job_id, SPEC.dump_json(spec), int(spec.webhook is not None)))

    async def replace_spec(self, job_id: str, spec: JobSpec, claim: Claim | None = None) -> bool:
        """Replace the spec of a running job under its claim, or of an ended one."""
        return bool(await self._run("replace_spec", job_id, claim.token if claim else "", SPEC.dump_json(spec)))

    async def files(self, file_ids: Sequence[str]) -> list[File | None]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for file_id in file_ids:
                pipe.hgetall(key(f"file:{file_id}"))
            records = await execute(pipe.execute())
        return [to_file(_text(fields)) if fields else None for fields in records]

    async def file_stored(self, file_id: str, size: int) -> None:
        await self._run("file_stored", file_id, size)

    async def _with_positions(self, jobs: list[Job | None]) -> list[Job | None]:
        queued = [job for job in jobs if job and job.phase is Phase.QUEUED]
        if not queued:
            return jobs
        replies = await self._run("queue_positions", *(item for job in queued for item in (job.tenant, job.id)))
        positions = {job.id: with_position(job, *reply) for job, reply in zip(queued, replies, strict=True)}
        return [positions.get(job.id, job) if job else None for job in jobs]

    async def _with_files(self, jobs: list[Job | None]) -> list[Job | None]:
        ids = {job.spec.file for job in jobs if job and job.spec.file}
        if not ids:
            return jobs
        files = dict(zip(ids, await self.files(list(ids)), strict=True))
        return [replace(job, file=files[job.spec.file]) if job and job.spec.file else job for job in jobs]


def _job(fields: Mapping[bytes, bytes]) -> Job:
    return to_job(_text(fields))


def _text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _flag(reply: Any) -> bool | None:
    return None if reply is None else bool(reply)


def _removed(reply: Any) -> Removed:
    return reply.decode() if isinstance(reply, bytes) else _flag(reply)

"""class Jobs: operations on jobs."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from uuid import uuid4

from batching.types import Transcript
from deployments.ingestion.allow_list import AllowList
from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError, not_found
from serve_app.jobs.admission import Admission
from serve_app.jobs.audit import audit
from serve_app.jobs.event_stream import EventStreams
from serve_app.jobs.model_catalog import ModelCatalog
from serve_app.jobs.quotas import Quotas
from serve_app.jobs.removal import check_audio, delete_audio, delete_job, purge_results
from serve_app.jobs.results import Artifact, Results, TranscriptSoFar
from serve_app.jobs.spec_bounds import check_file_bounds
from serve_app.jobs.spec_rules import SpecRules
from serve_app.jobs.submission import Draft, checked_key
from serve_app.jobs.tenant_slots import Slot, Slotted, TenantSlots
from serve_app.models.event import Event, event_order
from serve_app.models.file import File
from serve_app.models.job import Job, JobSpec, Phase, State
from serve_app.models.listing import JobPage, JobQuery
from serve_app.models.principal import TENANT_READ, Principal
from serve_app.models.submission import RetryOutcome, SubmitOutcome
from serve_app.models.trace import Trace
from serve_app.store.redis_store import Store

CANCEL_WAIT_S = 30.0


class Jobs:
    """Jobs of callers. Raises RequestError: `not_found` for jobs of others, `conflict` for a wrong phase."""

    def __init__(
        self,
        store: Store,
        events: EventStreams,
        artifacts: Artifacts,
        catalog: ModelCatalog,
        *,
        quotas: Quotas,
        allowed: AllowList,
        result_ttl_s: float,
        max_result_ttl_s: float = math.inf,
        queue_limit: int = 0,
        kept_limit: int = 0,  # jobs of a tenant, ended ones included
        open_limit: int = 0,  # event streams of a tenant in this process, and likewise submissions under way
        prompts: Collection[str] = (),  # ids of summary prompts
        results: Results | None = None,
    ) -> None:
        self.catalog = catalog
        self.results = results or Results(artifacts)
        self.max_result_ttl_s = max_result_ttl_s
        self._rules = SpecRules(allowed, prompts, max_result_ttl_s)
        self._quotas = quotas
        self._store = store
        self._events = events
        self._artifacts = artifacts
        self._result_ttl_s = result_ttl_s
        self._admission = Admission(store, quotas, queue_limit, kept_limit)
        self._streams = TenantSlots(open_limit, "event streams")
        self._submissions = TenantSlots(open_limit, "uploads")
        self._dialect = ""  # shows only jobs made through it
        self._id_format = "{.hex}"  # of a UUID

    def for_dialect(self, dialect: str, id_format: str) -> Jobs:
        """Jobs made through one dialect; `id_format` formats a UUID."""
        jobs = copy.copy(self)
        jobs._dialect, jobs._id_format = dialect, id_format
        return jobs

    def resolve(self, principal: Principal, spec: JobSpec) -> JobSpec:
        """Resolve models to ids. Raises RequestError for what this installation cannot do."""
        self._rules.check(spec, principal.tenant)
        return replace(self.catalog.resolve(spec), dialect=self._dialect or spec.dialect)

    def stream_slot(self, principal: Principal) -> Slot:
        """Slot for `follow`. Raises RequestError `rate_limited`."""
        return self._streams.take(principal.tenant)

    @asynccontextmanager
    async def draft(
        self,
        principal: Principal,
        idempotency_key: str | None = None,
        trace: Trace = Trace(),  # noqa: B008 - frozen
        *,
        as_file: bool = False,
    ) -> AsyncIterator[Draft]:
        """Begin a submission; `as_file` makes its source a shared file. Raises RequestError."""
        job_id = self._id_format.format(uuid4())
        key = checked_key(idempotency_key)
        parts = self._store, self._artifacts, principal, key, trace, job_id
        with self._submissions.take(principal.tenant):
            async with Draft(*parts, submit=self._submit, admit=self._admission.check, as_file=as_file) as draft:
                yield draft

    async def _submit(self, draft: Draft, spec: JobSpec, sha256: str, file: File | None) -> Job:
        spec = self.resolve(draft.principal, spec)
        if file is not None:
            check_file_bounds(file)
        ttl_s = self._result_ttl_s if spec.result_ttl_s is None else spec.result_ttl_s
        limits = {"queue_limit": self._admission.queue_limit, "kept_limit": self._admission.kept_limit}
        result = await draft.record(spec, sha256, ttl_s=ttl_s, quota_s=self._quotas.month_s, file=file, **limits)
        if result.outcome is SubmitOutcome.GONE:
            raise RequestError("file_unusable", "The file is deleted.", (("file", "deleted"),))
        await self._admission.check_outcome(result.outcome, draft.principal)
        return result.job or await self._repeated(draft.principal, result.job_id)

    async def _repeated(self, principal: Principal, job_id: str) -> Job:
        try:
            return await self.get(principal, job_id)
        except RequestError as error:
            message = "The job of this Idempotency-Key was deleted meanwhile: send the request again."
            raise RequestError("conflict", message, retry_after_s=1) from error

    async def get(self, principal: Principal, job_id: str) -> Job:
        """A job, marked as deleted or not."""
        job = await self._store.jobs.get(job_id)
        if job is None or not principal.sees(job.owner, job.tenant) or job.erasing:
            raise not_found()
        if self._dialect not in ("", job.spec.dialect):
            raise not_found()
        return job

    async def _own(self, principal: Principal, job_id: str) -> Job:
        """A job that the principal may change. Raises RequestError `forbidden` for one that it only sees."""
        job = await self.get(principal, job_id)
        if not principal.owns(job.owner, job.tenant):
            raise RequestError("forbidden", "The key may read the jobs of its tenant, but change only its own.")
        return job

    async def get_undeleted(self, principal: Principal, job_id: str) -> Job:
        """Raises RequestError `gone` for a job marked as deleted."""
        job = await self.get(principal, job_id)
        if job.deleted_at is not None:
            raise RequestError("gone", "The job was deleted.")
        return job

    async def page(
        self, principal: Principal, *, limit: int, cursor: str | None, owner: str | None = None
    ) -> tuple[list[Job], str | None]:
        """Jobs of an owner, the principal's own without one, newest first, and the next cursor."""
        owner = principal.owner if owner is None else owner
        if not principal.sees(owner, principal.tenant):
            raise RequestError("forbidden", f"Jobs of other owners need the scope {TENANT_READ}.", (("owner", "forbidden"),))
        if cursor is not None and not (cursor.isascii() and cursor.isdecimal()):
            raise RequestError(
                "invalid_request", "Unknown cursor: pass the `next_cursor` of a page.", (("cursor", "unknown"),)
            )
        return await self._store.jobs.page(owner, principal.tenant, limit=limit, before=cursor)

    async def query(self, principal: Principal, query: JobQuery) -> JobPage:
        return await self._store.jobs.query(principal.owner, principal.tenant, self._dialect, query)

    async def follow(
        self, principal: Principal, job_id: str, after: str, slot: Slot | None = None
    ) -> AsyncGenerator[Event, None]:
        """Events after the event id `after`, up to `done`."""
        await self.get_undeleted(principal, job_id)
        audit("job.read", job_id)
        return Slotted(self._events.follow(job_id, after, principal), slot or self.stream_slot(principal))

    async def resume(self, principal: Principal, job_id: str, after: str) -> AsyncGenerator[Event, None] | None:
        """Events after the event id `after`, up to `done`; None where there are no more."""
        job = await self.get_undeleted(principal, job_id)
        if job.done_event is not None and event_order(after) >= event_order(job.done_event):
            return None
        audit("job.read", job_id)
        return Slotted(self._events.follow(job_id, after, principal), self.stream_slot(principal))

    async def cancel(self, principal: Principal, job_id: str) -> Job:
        """Cancel a queued job now, a running one within a window."""
        await self._own(principal, job_id)
        phase_before = await self._store.jobs.cancel(job_id)
        if phase_before in (Phase.COMPLETED, Phase.FAILED):
            raise RequestError("conflict", f"The job has {phase_before}: there is nothing to cancel.")
        audit("job.cancelled", job_id)
        job = await self.get(principal, job_id)
        await delete_audio(self._store, self._artifacts, job)  # a queued job has no Runner that does it
        return job

    async def cancel_and_wait(self, principal: Principal, job_id: str) -> Job:
        """Cancel a job, and wait for its end; one whose worker is lost may still run after that."""
        if (await self._own(principal, job_id)).phase.final:
            raise RequestError("conflict", "The job has ended: there is nothing to cancel.")
        with self.stream_slot(principal):
            await self.cancel(principal, job_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_WAIT_S), aclosing(self._events.follow(job_id, "0")) as events:
                    async for _ in events:
                        pass
        return await self.get(principal, job_id)

    async def retry(self, principal: Principal, job_id: str, phases: Collection[Phase] = (Phase.FAILED,)) -> Job:
        """Requeue a job that ended in one of `phases`, from its checkpoint."""
        await self._own(principal, job_id)
        job = await self.get_undeleted(principal, job_id)
        await check_audio(self._store, job)
        limit, quota_s = self._admission.queue_limit, self._quotas.month_s
        outcome = await self._store.jobs.retry(job_id, phases, queue_limit=limit, quota_s=quota_s)
        await self._admission.check_outcome(outcome, principal)
        if outcome is not RetryOutcome.QUEUED:
            why = f"it has had its {job.spec.max_attempts} attempts" if job.phase in phases else f"it is {job.phase}"
            why = "it is private, and its recording is gone" if job.phase in phases and job.spec.private else why
            raise RequestError("conflict", f"The job cannot be tried again: {why}.")
        return await self.get(principal, job_id)

    async def mark_deleted(self, principal: Principal, job_id: str) -> None:
        """Hide an ended job; its results answer `gone`, until they expire and are deleted."""
        job = await self._own(principal, job_id)
        if not await self._store.jobs.mark_deleted(job_id):
            why = "It is deleted already." if job.phase.final else "The job has not ended: cancel it first."
            raise RequestError("conflict", why)
        audit("job.deleted", job_id)

    async def delete(self, principal: Principal, job_id: str) -> None:
        await self._own(principal, job_id)
        await delete_job(self._store, self._artifacts, job_id)
        audit("job.deleted", job_id)

    async def delete_when_ended(self, principal: Principal, job_id: str) -> None:
        """Hide a job, cancel it, and delete it for good once it has ended."""
        await self._own(principal, job_id)
        if await self._store.jobs.delete_when_ended(job_id):
            await self._store.jobs.cancel(job_id)
        else:
            await delete_job(self._store, self._artifacts, job_id)
        audit("job.deleted", job_id)

    async def purge_results(self, principal: Principal, job_id: str, *, deleted: bool) -> None:
        """Delete the results of an ended job; with `deleted`, it must be marked as deleted."""
        job = await self._own(principal, job_id)
        if not await purge_results(self._store, self._artifacts, job, deleted=deleted):
            unmarked = "it is purged already" if job.purged_at else "delete it first"
            why = unmarked if job.phase.final else "it has not ended"
            raise RequestError("conflict", f"The job cannot be purged: {why}.")
        audit("job.deleted", job_id)

    async def set_webhook(self, principal: Principal, job_id: str, spec: JobSpec) -> Job:
        """Replace the webhook of a job that has not ended."""
        await self._own(principal, job_id)
        if spec.webhook is not None:
            self._rules.check_webhook(spec)
        if not await self._store.jobs.set_webhook(job_id, spec):
            raise RequestError("conflict", "The job has ended: its webhook cannot be changed any more.")
        return await self.get(principal, job_id)

    async def file(self, principal: Principal, file_id: str) -> File:
        (file,) = await self._store.jobs.files([file_id])
        if file is None or (file.owner, file.tenant) != (principal.owner, principal.tenant):
            raise RequestError("not_found", "There is no such file.")
        return file

    async def transcript(self, principal: Principal, job_id: str) -> Transcript:
        return await self.results.transcript(await self.get_undeleted(principal, job_id))

    async def transcript_so_far(self, principal: Principal, job_id: str) -> TranscriptSoFar:
        """Transcript of a job, also of one that runs or has failed. Raises RequestError `conflict` if there is no text."""
        job = await self.get_undeleted(principal, job_id)
        if job.transcript is not None:
            return TranscriptSoFar(await self.results.stored_transcript(job), job.partial, final=True)
        transcript = await self._events.transcript_so_far(job)
        if not transcript.segments and job.phase.state is not State.RUNNING:
            await self.results.transcript(job)
        return TranscriptSoFar(transcript, partial=True, final=job.phase.final)

    async def artifact(self, principal: Principal, job_id: str, name: str) -> Artifact:
        return await self.results.file(await self.get_undeleted(principal, job_id), name)

"""class Jobs: the only door to the core that the dialects use."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from copy import copy
from dataclasses import replace
from types import MappingProxyType
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

from batching.types import Transcript
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import parse_s3_url
from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError, not_found
from serve_app.jobs.event_stream import EventStreams
from serve_app.jobs.model_catalog import Model
from serve_app.jobs.quotas import Quotas
from serve_app.jobs.removal import delete_audio, delete_job, purge_results
from serve_app.jobs.results import Artifact, Results
from serve_app.jobs.submission import Draft, check_key
from serve_app.models.event import Event, event_order
from serve_app.models.file import File
from serve_app.models.job import Job, JobSpec, Phase
from serve_app.models.listing import JobPage, JobQuery
from serve_app.models.principal import Principal
from serve_app.models.submission import SubmitOutcome
from serve_app.models.trace import Trace
from serve_app.store.redis_store import Store

FEATURES = {
    "diarize": "speaker diarization",
    "redact": "redaction",
    "label_audio": "audio labels",
}
"""Options that need a part which this installation does not have."""


STOP_S = 30.0
"""How long a request waits for a cancel to take effect."""
UNKNOWN_PACE_S = 5
"""When to come back to a full queue that nothing was taken from yet."""


class Jobs:
    """What may be done with jobs, and by whom."""

    def __init__(
        self,
        store: Store,
        events: EventStreams,
        artifacts: Artifacts,
        models: tuple[Model, ...],
        *,
        limits: Quotas,
        allowed: AllowList,
        aliases: Mapping[str, str] = MappingProxyType({}),
        result_ttl_s: float,
        queue_limit: int = 0,
        prompts: Collection[str] = (),
    ) -> None:
        self.results = Results(artifacts)
        self._limits = limits
        self._allowed = allowed
        self._aliases = aliases
        self._store = store
        self._events = events
        self._artifacts = artifacts
        self._models = {model.id: model for model in models}
        self._result_ttl_s = result_ttl_s
        self._queue_limit = queue_limit
        self._prompts = prompts
        self._dialect = ""
        self._ids = "{.hex}"

    def speaking(self, dialect: str, ids: str) -> Jobs:
        """The same door for a dialect that knows only the jobs made in it, whose ids are UUIDs in the form `ids`."""
        jobs = copy(self)
        jobs._dialect, jobs._ids = dialect, ids
        return jobs

    @property
    def models(self) -> tuple[Model, ...]:
        """The models on offer; the first is the default."""
        return tuple(self._models.values())

    def model_of(self, name: str) -> str:
        """The model that a name or an alias stands for, which may have its provider before it; one that stands for nothing
        else means the default."""
        for candidate in (name, name.partition("/")[2] or name):
            meant = self._aliases.get(candidate, candidate)
            if not meant or meant in self._models:
                return meant or self.models[0].id
        return name

    def resolve(self, spec: JobSpec) -> JobSpec:
        """The same with those of its models that can do it. EdgeError says what cannot be done, and why the first model is
        none that can where no other is."""
        self._check(spec)
        able: list[str] = []
        problem: RequestError | None = None
        for name in (spec.model, *spec.fallbacks):
            model = self.model_of(name)
            try:
                self._check_model(replace(spec, model=model))
                able.append(model)
            except RequestError as error:
                problem = problem or error
        if problem and not able:
            raise problem
        first, *others = dict.fromkeys(able)
        dialect = self._dialect or spec.dialect
        return replace(spec, model=first, fallbacks=tuple(others), requested_model=spec.model, dialect=dialect)

    def _check_model(self, spec: JobSpec) -> None:
        model = self._models.get(spec.model)
        if model is None:
            raise RequestError("model_unavailable", f"There is no model {spec.model!r} here: use {', '.join(self._models)}.")
        if spec.language and spec.language not in model.languages:
            known = "only English" if model.languages == ("en",) else "codes such as en, de or zh"
            raise RequestError(
                "language_unsupported", f"{spec.model} does not know the language {spec.language!r}: {known}."
            )
        if spec.task == "translate" and model.languages == ("en",):
            raise RequestError("feature_unavailable", f"{spec.model} cannot translate: choose a multilingual model.")

    def _check(self, spec: JobSpec) -> None:
        if spec.summary is not None and spec.summary not in self._prompts:
            why = f"there is no prompt template {spec.summary!r}" if self._prompts else "no model for it is configured"
            message = f"The option summary is refused: {why}."
            raise RequestError("feature_unavailable", message, (("summary", "unavailable"),))
        for option, name in FEATURES.items():
            if getattr(spec, option):
                raise RequestError("feature_unavailable", f"The option {option} is refused: {name} are not installed here.")
        if spec.url is not None and not spec.drive:
            _check_source(spec.url)
        if spec.webhook_secret is not None and spec.webhook is None:
            raise RequestError(
                "invalid_request", "webhook_secret needs a webhook.", (("webhook_secret", "needs a webhook"),)
            )
        if spec.webhook is not None:
            self._check_webhook(spec.webhook)

    @asynccontextmanager
    async def draft(
        self,
        principal: Principal,
        idempotency_key: str | None = None,
        trace: Trace = Trace(),  # noqa: B008 - frozen
        *,
        as_file: bool = False,
    ) -> AsyncIterator[Draft]:
        """A job to be, with its source as a file `apart` or not: `async with jobs.draft(...) as draft`, store what is
        uploaded, then `submit` it. EdgeError `quota_exceeded`."""
        if idempotency_key is None:  # else the job that it stands for may be there, whatever was used since
            await self._limits.minutes(principal)
        job_id = self._ids.format(uuid4())
        key = check_key(idempotency_key)
        parts = self._store, self._artifacts, principal, key, trace, job_id
        async with Draft(*parts, submit=self._submit, as_file=as_file) as draft:
            yield draft

    async def _submit(self, draft: Draft, spec: JobSpec, sha256: str, file: File | None) -> Job:
        spec = self.resolve(spec)
        ttl_s = self._result_ttl_s if spec.result_ttl_s is None else spec.result_ttl_s
        most, month_s = self._queue_limit, self._limits.month_s
        receipt = await draft.record(spec, sha256, ttl_s=ttl_s, queue_limit=most, quota_s=month_s, file=file)
        if receipt.outcome is SubmitOutcome.GONE:
            raise RequestError("file_unusable", "The file is deleted.", (("file", "deleted"),))
        if receipt.outcome is SubmitOutcome.FULL:
            raise await self._queue_full(draft.principal.tenant)
        if receipt.outcome is SubmitOutcome.SPENT:
            raise self._limits.spent()
        return receipt.job or await self.get(draft.principal, receipt.job_id)

    def _check_webhook(self, url: str) -> None:
        parts = _check_address(url, "webhook")
        if parts.scheme != "https" and not self._allowed.has_host(parts.hostname or "", parts.port or 80):
            message = "A webhook's URL must be https, unless MURMUR_FETCH_ALLOW names its host."
            raise RequestError("source_forbidden", message, (("webhook", "scheme"),))

    async def _queue_full(self, tenant: str) -> RequestError:
        """There is room again when the next job of the tenant is taken."""
        pace_s = await self._store.usage.pace_s(tenant)
        wait_s = math.ceil(pace_s or UNKNOWN_PACE_S)
        told = f"{self._queue_limit} jobs are waiting, and no more may: try again in {wait_s} s."
        return RequestError("rate_limited", told, retry_after_s=wait_s)

    async def get(self, principal: Principal, job_id: str) -> Job:
        """The job, if it is the caller's."""
        job = await self._store.jobs.get(job_id)
        if job is None or (job.owner, job.tenant) != (principal.owner, principal.tenant) or job.erasing:
            raise not_found()
        if self._dialect not in ("", job.spec.dialect):
            raise not_found()
        return job

    async def kept(self, principal: Principal, job_id: str) -> Job:
        """The same, unless it was deleted: EdgeError `gone`."""
        job = await self.get(principal, job_id)
        if job.deleted_at is not None:
            raise RequestError("gone", "The job was deleted.")
        return job

    async def page(self, principal: Principal, *, limit: int, cursor: str | None) -> tuple[list[Job], str | None]:
        """The caller's jobs, newest first, and the next page's cursor."""
        if cursor is not None and not (cursor.isascii() and cursor.isdecimal()):
            raise RequestError("invalid_request", "The cursor is not one that a list gave.", (("cursor", "unknown"),))
        return await self._store.jobs.page(principal.owner, principal.tenant, limit=limit, before=cursor)

    async def query(self, principal: Principal, query: JobQuery) -> JobPage:
        """The caller's jobs that were made in the dialect spoken."""
        return await self._store.jobs.query(principal.owner, principal.tenant, self._dialect, query)

    async def follow(self, principal: Principal, job_id: str, after: str) -> AsyncGenerator[Event, None]:
        """The job's events after `after`, as they come, up to `done`."""
        await self.kept(principal, job_id)
        return self._events.follow(job_id, after)

    async def has_more(self, principal: Principal, job_id: str, after: str) -> bool:
        """Whether the job has, or will have, events after `after`."""
        job = await self.kept(principal, job_id)
        return job.done_event is None or event_order(after) < event_order(job.done_event)

    async def cancel(self, principal: Principal, job_id: str) -> Job:
        """Cancel a job: at once if it waits, within a window if it runs. 409 when it has ended otherwise."""
        await self.get(principal, job_id)
        met = await self._store.jobs.cancel(job_id)
        if met in (Phase.COMPLETED, Phase.FAILED):
            raise RequestError("conflict", f"The job has {met}: there is nothing to cancel.")
        job = await self.get(principal, job_id)
        await delete_audio(self._store, self._artifacts, job)  # one that waited has had no runner to see to it
        return job

    async def retry(self, principal: Principal, job_id: str) -> Job:
        """Queue a failed job again, from where it stopped. 409 when it has not failed, or has no attempts left."""
        job = await self.kept(principal, job_id)
        await self._limits.minutes(principal)
        if not await self._store.jobs.retry(job_id):
            why = f"it has had its {job.attempts} attempts" if job.phase is Phase.FAILED else f"it is {job.phase}"
            why = "it is private, and its recording is gone" if job.phase is Phase.FAILED and job.spec.private else why
            raise RequestError("conflict", f"The job cannot be tried again: {why}.")
        return await self.get(principal, job_id)

    async def mark_deleted(self, principal: Principal, job_id: str) -> None:
        """Mark an ended job as deleted: no list shows it, its results answer `gone`, and when its time is up it is purged.
        409 while it has not ended, or if it is deleted already."""
        job = await self.get(principal, job_id)
        if not await self._store.jobs.mark_deleted(job_id):
            why = "It is deleted already." if job.phase.final else "The job has not ended: cancel it first."
            raise RequestError("conflict", why)

    async def stop(self, principal: Principal, job_id: str) -> Job:
        """Cancel a job, and wait until that has taken effect. 409 when it has ended."""
        if (await self.get(principal, job_id)).phase.final:
            raise RequestError("conflict", "The job has ended: there is nothing to cancel.")
        await self.cancel(principal, job_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S), aclosing(self._events.follow(job_id, "0")) as events:
                async for _ in events:
                    pass
        return await self.get(principal, job_id)

    async def delete_when_ended(self, principal: Principal, job_id: str) -> None:
        """Remove a job with everything of it, for good, whatever its state: one that has not ended is cancelled, and goes as
        soon as that has taken effect. Nobody sees it from now on."""
        await self.get(principal, job_id)
        if await self._store.jobs.delete_when_ended(job_id):
            await self._store.jobs.cancel(job_id)
        else:
            await delete_job(self._store, self._artifacts, job_id)

    async def delete(self, principal: Principal, job_id: str) -> None:
        """Remove an ended job with everything of it, for good. 409 while it has not ended."""
        await self.get(principal, job_id)
        await delete_job(self._store, self._artifacts, job_id)

    async def purge_results(self, principal: Principal, job_id: str, *, deleted: bool) -> None:
        """Remove the results of an ended job for good, and keep its record. 409 while it has not ended, where that was done
        before, and where it must be `deleted` before and is not."""
        job = await self.get(principal, job_id)
        if not await purge_results(self._store, self._artifacts, job, deleted=deleted):
            why = (
                "it has not ended" if not job.phase.final else "it is purged already" if job.purged_at else "delete it first"
            )
            raise RequestError("conflict", f"The job cannot be purged: {why}.")

    async def set_webhook(self, principal: Principal, job_id: str, spec: JobSpec) -> Job:
        """Have the end of a job told as `spec` says. 409 where it has ended."""
        await self.get(principal, job_id)
        if spec.webhook is not None:
            self._check_webhook(spec.webhook)
        if not await self._store.jobs.set_webhook(job_id, spec):
            raise RequestError("conflict", "The job has ended: its webhook cannot be changed any more.")
        return await self.get(principal, job_id)

    async def file(self, principal: Principal, file_id: str) -> File:
        """A file, if it is the caller's; its `size` is known once it is stored."""
        (file,) = await self._store.jobs.files([file_id])
        if file is None or (file.owner, file.tenant) != (principal.owner, principal.tenant):
            raise RequestError("not_found", "There is no such file.")
        return file

    async def transcript(self, principal: Principal, job_id: str) -> Transcript:
        """The transcript of a completed job; 409 for any other."""
        return await self.results.transcript(await self.kept(principal, job_id))

    async def artifact(self, principal: Principal, job_id: str, name: str) -> Artifact:
        """A file of the job, by name."""
        return await self.results.file(await self.kept(principal, job_id), name)


def _check_source(url: str) -> None:
    if url.startswith("s3://"):
        parse_s3_url(url)
        return
    _check_address(url, "url")


def _check_address(url: str, name: str) -> SplitResult:
    """EdgeError for what is no http or https URL, or carries a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise RequestError("source_forbidden", "The URL is not a valid one.", ((name, "invalid"),)) from None
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        raise RequestError("source_forbidden", "The URL must not hold blanks or control characters.", ((name, "blanks"),))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError("source_forbidden", "The URL must be http or https with a host.", ((name, "scheme"),))
    if parts.username or parts.password:
        raise RequestError("source_forbidden", "The URL must not carry credentials.", ((name, "credentials"),))
    return parts

"""class Jobs: the only door to the core that the dialects use."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from types import MappingProxyType
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

from batching.types import Transcript
from deployments.artifacts import Artifacts
from deployments.buckets import object_of
from deployments.safe_http import Allowed
from serve_app.errors import EdgeError, not_found
from serve_app.jobs.drafts import Draft, check_key
from serve_app.jobs.events import Events
from serve_app.jobs.models import Event, File, Job, JobSpec, Phase, Principal
from serve_app.jobs.places import file_folder, job_folder
from serve_app.jobs.private import forget
from serve_app.jobs.results import Artifact, Results
from serve_app.jobs.store import Store
from serve_app.jobs.terms import Listed, Verdict, Wanted
from serve_app.jobs.transcripts import order
from serve_app.limits import Limits
from serve_app.trace import Trace

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


@dataclass(frozen=True, slots=True)
class Model:
    """A model that jobs may name, and the languages it knows."""

    id: str
    languages: tuple[str, ...]


class Jobs:
    """What may be done with jobs, and by whom."""

    def __init__(
        self,
        store: Store,
        events: Events,
        artifacts: Artifacts,
        models: tuple[Model, ...],
        *,
        limits: Limits,
        allowed: Allowed,
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
        problem: EdgeError | None = None
        for name in (spec.model, *spec.fallbacks):
            model = self.model_of(name)
            try:
                self._check_model(replace(spec, model=model))
                able.append(model)
            except EdgeError as error:
                problem = problem or error
        if problem and not able:
            raise problem
        first, *others = dict.fromkeys(able)
        dialect = self._dialect or spec.dialect
        return replace(spec, model=first, fallbacks=tuple(others), asked_model=spec.model, dialect=dialect)

    def _check_model(self, spec: JobSpec) -> None:
        model = self._models.get(spec.model)
        if model is None:
            raise EdgeError("model_unavailable", f"There is no model {spec.model!r} here: use {', '.join(self._models)}.")
        if spec.language and spec.language not in model.languages:
            known = "only English" if model.languages == ("en",) else "codes such as en, de or zh"
            raise EdgeError("language_unsupported", f"{spec.model} does not know the language {spec.language!r}: {known}.")
        if spec.task == "translate" and model.languages == ("en",):
            raise EdgeError("feature_unavailable", f"{spec.model} cannot translate: choose a multilingual model.")

    def _check(self, spec: JobSpec) -> None:
        if spec.summary is not None and spec.summary not in self._prompts:
            why = f"there is no prompt template {spec.summary!r}" if self._prompts else "no model for it is configured"
            message = f"The option summary is refused: {why}."
            raise EdgeError("feature_unavailable", message, (("summary", "unavailable"),))
        for option, name in FEATURES.items():
            if getattr(spec, option):
                raise EdgeError("feature_unavailable", f"The option {option} is refused: {name} are not installed here.")
        if spec.url is not None and not spec.drive:
            _check_source(spec.url)
        if spec.webhook_secret is not None and spec.webhook is None:
            raise EdgeError("invalid_request", "webhook_secret needs a webhook.", (("webhook_secret", "needs a webhook"),))
        if spec.webhook is not None:
            self._check_webhook(spec.webhook)

    @asynccontextmanager
    async def draft(
        self,
        principal: Principal,
        idempotency_key: str | None = None,
        trace: Trace = Trace(),  # noqa: B008 - frozen
        *,
        apart: bool = False,
    ) -> AsyncIterator[Draft]:
        """A job to be, with its source as a file `apart` or not: `async with jobs.draft(...) as draft`, store what is
        uploaded, then `submit` it. EdgeError `quota_exceeded`."""
        if idempotency_key is None:  # else the job that it stands for may be there, whatever was used since
            await self._limits.minutes(principal)
        job_id = self._ids.format(uuid4())
        key = check_key(idempotency_key)
        async with Draft(self._store, self._artifacts, principal, key, trace, job_id, apart=apart) as draft:
            yield draft

    async def submit(
        self, principal: Principal, spec: JobSpec, draft: Draft, sha256: str = "", file: File | None = None
    ) -> Job:
        """Make a job, and with it the `file` that is new; it is durable when this returns. Where the draft's idempotency key
        stands for an equal request's job, that is the answer. `sha256` is of what was uploaded."""
        spec = self.resolve(spec)
        ttl_s = self._result_ttl_s if spec.result_ttl_s is None else spec.result_ttl_s
        most, month_s = self._queue_limit, self._limits.month_s
        receipt = await draft.submit(spec, sha256, ttl_s=ttl_s, queue_limit=most, quota_s=month_s, file=file)
        if receipt.verdict is Verdict.GONE:
            raise EdgeError("file_unusable", "The file is deleted.", (("file", "deleted"),))
        if receipt.verdict is Verdict.FULL:
            raise await self._queue_full(principal.tenant)
        if receipt.verdict is Verdict.SPENT:
            raise self._limits.spent()
        return receipt.job or await self.get(principal, receipt.job_id)

    def _check_webhook(self, url: str) -> None:
        parts = _check_address(url, "webhook")
        if parts.scheme != "https" and not self._allowed.names(parts.hostname or "", parts.port or 80):
            message = "A webhook's URL must be https, unless MURMUR_FETCH_ALLOW names its host."
            raise EdgeError("source_forbidden", message, (("webhook", "scheme"),))

    async def _queue_full(self, tenant: str) -> EdgeError:
        """There is room again when the next job of the tenant is taken."""
        pace_s = await self._store.pace_s(tenant)
        wait_s = math.ceil(pace_s or UNKNOWN_PACE_S)
        told = f"{self._queue_limit} jobs are waiting, and no more may: try again in {wait_s} s."
        return EdgeError("rate_limited", told, retry_after_s=wait_s)

    async def get(self, principal: Principal, job_id: str) -> Job:
        """The job, if it is the caller's."""
        job = await self._store.get(job_id)
        if job is None or (job.owner, job.tenant) != (principal.owner, principal.tenant) or job.erasing:
            raise not_found()
        if self._dialect not in ("", job.spec.dialect):
            raise not_found()
        return job

    async def kept(self, principal: Principal, job_id: str) -> Job:
        """The same, unless it was deleted: EdgeError `gone`."""
        job = await self.get(principal, job_id)
        if job.deleted_at is not None:
            raise EdgeError("gone", "The job was deleted.")
        return job

    async def page(self, principal: Principal, *, limit: int, cursor: str | None) -> tuple[list[Job], str | None]:
        """The caller's jobs, newest first, and the next page's cursor."""
        if cursor is not None and not (cursor.isascii() and cursor.isdecimal()):
            raise EdgeError("invalid_request", "The cursor is not one that a list gave.", (("cursor", "unknown"),))
        return await self._store.page(principal.owner, principal.tenant, limit=limit, before=cursor)

    async def listed(self, principal: Principal, wanted: Wanted) -> Listed:
        """The caller's jobs that were made in the dialect spoken."""
        return await self._store.listed(principal.owner, principal.tenant, self._dialect, wanted)

    async def follow(self, principal: Principal, job_id: str, after: str) -> AsyncGenerator[Event, None]:
        """The job's events after `after`, as they come, up to `done`."""
        await self.kept(principal, job_id)
        return self._events.follow(job_id, after)

    async def has_more(self, principal: Principal, job_id: str, after: str) -> bool:
        """Whether the job has, or will have, events after `after`."""
        job = await self.kept(principal, job_id)
        return job.done_event is None or order(after) < order(job.done_event)

    async def cancel(self, principal: Principal, job_id: str) -> Job:
        """Cancel a job: at once if it waits, within a window if it runs. 409 when it has ended otherwise."""
        await self.get(principal, job_id)
        met = await self._store.cancel(job_id)
        if met in (Phase.COMPLETED, Phase.FAILED):
            raise EdgeError("conflict", f"The job has {met}: there is nothing to cancel.")
        job = await self.get(principal, job_id)
        await forget(self._store, self._artifacts, job)  # one that waited has had no runner to see to it
        return job

    async def retry(self, principal: Principal, job_id: str) -> Job:
        """Queue a failed job again, from where it stopped. 409 when it has not failed, or has no attempts left."""
        job = await self.kept(principal, job_id)
        await self._limits.minutes(principal)
        if not await self._store.retry(job_id):
            why = f"it has had its {job.attempts} attempts" if job.phase is Phase.FAILED else f"it is {job.phase}"
            why = "it is private, and its recording is gone" if job.phase is Phase.FAILED and job.spec.private else why
            raise EdgeError("conflict", f"The job cannot be tried again: {why}.")
        return await self.get(principal, job_id)

    async def delete(self, principal: Principal, job_id: str) -> None:
        """Mark an ended job as deleted: no list shows it, its results answer `gone`, and when its time is up it is purged.
        409 while it has not ended, or if it is deleted already."""
        job = await self.get(principal, job_id)
        if not await self._store.delete(job_id):
            why = "It is deleted already." if job.phase.final else "The job has not ended: cancel it first."
            raise EdgeError("conflict", why)

    async def stop(self, principal: Principal, job_id: str) -> Job:
        """Cancel a job, and wait until that has taken effect. 409 when it has ended."""
        if (await self.get(principal, job_id)).phase.final:
            raise EdgeError("conflict", "The job has ended: there is nothing to cancel.")
        await self.cancel(principal, job_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S), aclosing(self._events.follow(job_id, "0")) as events:
                async for _ in events:
                    pass
        return await self.get(principal, job_id)

    async def erase(self, principal: Principal, job_id: str) -> None:
        """Remove a job with everything of it, for good, whatever its state: one that has not ended is cancelled, and goes as
        soon as that has taken effect. Nobody sees it from now on."""
        await self.get(principal, job_id)
        if await self._store.erase(job_id):
            await self._store.cancel(job_id)
        else:
            await purge(self._store, self._artifacts, job_id)

    async def purge(self, principal: Principal, job_id: str) -> None:
        """Remove an ended job with everything of it, for good. 409 while it has not ended."""
        await self.get(principal, job_id)
        await purge(self._store, self._artifacts, job_id)

    async def shred(self, principal: Principal, job_id: str, *, deleted: bool) -> None:
        """Remove the results of an ended job for good, and keep its record. 409 while it has not ended, where that was done
        before, and where it must be `deleted` before and is not."""
        job = await self.get(principal, job_id)
        if not await shred(self._store, self._artifacts, job, deleted=deleted):
            why = (
                "it has not ended" if not job.phase.final else "it is purged already" if job.purged_at else "delete it first"
            )
            raise EdgeError("conflict", f"The job cannot be purged: {why}.")

    async def set_webhook(self, principal: Principal, job_id: str, spec: JobSpec) -> Job:
        """Have the end of a job told as `spec` says. 409 where it has ended."""
        await self.get(principal, job_id)
        if spec.webhook is not None:
            self._check_webhook(spec.webhook)
        if not await self._store.set_webhook(job_id, spec):
            raise EdgeError("conflict", "The job has ended: its webhook cannot be changed any more.")
        return await self.get(principal, job_id)

    async def file(self, principal: Principal, file_id: str) -> File:
        """A file, if it is the caller's; its `size` is known once it is stored."""
        (file,) = await self._store.files([file_id])
        if file is None or (file.owner, file.tenant) != (principal.owner, principal.tenant):
            raise EdgeError("not_found", "There is no such file.")
        return file

    async def transcript(self, principal: Principal, job_id: str) -> Transcript:
        """The transcript of a completed job; 409 for any other."""
        return await self.results.transcript(await self.kept(principal, job_id))

    async def artifact(self, principal: Principal, job_id: str, name: str) -> Artifact:
        """A file of the job, by name."""
        return await self.results.file(await self.kept(principal, job_id), name)


async def purge(store: Store, artifacts: Artifacts, job_id: str) -> None:
    """Remove an ended job: the record first, so that nobody finds a job whose files are going."""
    gone = await store.purge(job_id)
    if gone is None:
        return
    if not gone:
        raise EdgeError("conflict", "The job has not ended: cancel it first.")
    await _remove(artifacts, job_id, gone)


async def shred(store: Store, artifacts: Artifacts, job: Job, *, deleted: bool = False) -> bool:
    """The same of its results alone. False where it may not be."""
    gone = await store.shred(job.id, keep_s=job.spec.record_ttl_s or 0, deleted=deleted)
    if gone:
        await _remove(artifacts, job.id, gone)
    return bool(gone)


async def _remove(artifacts: Artifacts, job_id: str, gone: str | bool) -> None:
    await asyncio.to_thread(artifacts.delete, job_folder(job_id))
    if isinstance(gone, str):
        await asyncio.to_thread(artifacts.delete, file_folder(gone))


def _check_source(url: str) -> None:
    if url.startswith("s3://"):
        object_of(url)
        return
    _check_address(url, "url")


def _check_address(url: str, name: str) -> SplitResult:
    """EdgeError for what is no http or https URL, or carries a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise EdgeError("source_forbidden", "The URL is not a valid one.", ((name, "invalid"),)) from None
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        raise EdgeError("source_forbidden", "The URL must not hold blanks or control characters.", ((name, "blanks"),))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EdgeError("source_forbidden", "The URL must be http or https with a host.", ((name, "scheme"),))
    if parts.username or parts.password:
        raise EdgeError("source_forbidden", "The URL must not carry credentials.", ((name, "credentials"),))
    return parts

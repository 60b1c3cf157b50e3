"""class Draft: a job to be. What is sent for it, and the idempotency key that it was sent with, stay until there is a job;
where there will be none, nothing of them does."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.models.file import File
from serve_app.models.job import Job, JobSpec
from serve_app.models.principal import Principal
from serve_app.models.storage_paths import file_folder, file_key, job_folder, source_key
from serve_app.models.submission import IdempotencyRecord, SubmitOutcome, SubmitResult
from serve_app.models.trace import Trace
from serve_app.store.records import FILE, SPEC
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")
Submit = Callable[["Draft", JobSpec, str, File | None], Awaitable[Job]]
KEY_BYTES = 255
KEPT_S = 10.0
"""How long a key is kept for a request that has died with its process."""


class Draft:
    """Submission in progress, used in an `async with`: store an upload under `source`, then `submit`. With `as_file` the
    source becomes a file that other jobs can share, whose id is `file`. Without a submit, nothing of it stays."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        principal: Principal,
        key: str | None,
        trace: Trace = Trace(),  # noqa: B008
        job_id: str | None = None,
        *,
        submit: Submit,
        as_file: bool = False,
    ) -> None:
        self.id = job_id or uuid4().hex
        self.file = str(uuid4()) if as_file else None
        self.principal = principal
        self._submit = submit
        self._trace = trace
        self._store = store
        self._artifacts = artifacts
        self._place = None if key is None else _place(principal, key)
        self._keeping: asyncio.Task[None] | None = None
        self._made = False

    @property
    def source(self) -> str:
        """Where an upload goes."""
        return source_key(self.id) if self.file is None else file_key(self.file)

    async def __aenter__(self) -> Draft:
        """Keep the idempotency key. EdgeError `conflict` where a request with it is under way."""
        if self._place is not None:
            try:
                kept = await _to_its_end(self._store.jobs.reserve_key(self._place, self.id, KEPT_S))
            except (StoreUnavailable, asyncio.CancelledError):
                # It may be kept all the same, and nobody would give it back.
                await asyncio.shield(self._discard())
                raise
            if not kept:
                raise _busy()
            self._keeping = asyncio.create_task(self._keep(self._place))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeping:
            self._keeping.cancel()
        if not self._made:
            await asyncio.shield(self._discard())

    async def submit(self, spec: JobSpec, sha256: str = "", file: File | None = None) -> Job:
        """Make the job, durably, and `file` with it where the source is one. `sha256` is the digest of the upload. With an
        idempotency key, an equal request returns the job that exists. RequestError."""
        return await self._submit(self, spec, sha256, file)

    async def record(
        self,
        spec: JobSpec,
        sha256: str,
        *,
        ttl_s: float,
        queue_limit: int,
        quota_s: float = 0.0,
        file: File | None = None,
    ) -> SubmitResult:
        """Write the job to the store. RequestError for an idempotency key that was used for another request, or whose
        request is in progress; other refusals are in the outcome."""
        # A new file has another id each time, and is the same if all else is.
        alike = replace(spec, file=None) if file else spec
        # What a later version knows of more than this one is at its default, and changes no fingerprint.
        told = SPEC.dump_json(alike, exclude_defaults=True)
        if file:
            told += FILE.dump_json(replace(file, id=""), exclude_defaults=True)
        once = self._place and IdempotencyRecord(self._place, hashlib.sha256(told + sha256.encode()).hexdigest())
        who = self.principal
        traced = replace(spec, request_id=self._trace.request_id or None, traceparent=self._trace.traceparent)
        asked = self._store.jobs.submit(
            self.id,
            who.owner,
            who.tenant,
            traced,
            ttl_s=ttl_s,
            queue_limit=queue_limit,
            quota_s=quota_s,
            idempotency=once or None,
            file=file,
        )
        try:
            receipt = await _to_its_end(asked)
        except (StoreUnavailable, asyncio.CancelledError):
            # It may have arrived all the same: only what is certainly no job's is removed.
            self._made = True
            with suppress(StoreUnavailable):
                self._made = await self._store.jobs.get(self.id) is not None
            raise
        if receipt.outcome is SubmitOutcome.OTHER:
            message = "This Idempotency-Key was used for another request: use a new one for each."
            raise RequestError("key_reused", message, (("Idempotency-Key", "used"),))
        if receipt.outcome is SubmitOutcome.BUSY:
            raise _busy()
        self._made = receipt.outcome is SubmitOutcome.NEW
        log.info("job_id=%s request_id=%s %s", receipt.job_id, self._trace.request_id, receipt.outcome)
        return receipt

    async def _keep(self, place: str) -> None:
        while True:
            await asyncio.sleep(KEPT_S / 3)
            with suppress(StoreUnavailable):
                await self._store.jobs.reserve_key(place, self.id, KEPT_S)

    async def _discard(self) -> None:
        await asyncio.to_thread(self._artifacts.delete, job_folder(self.id))
        if self.file is not None:
            await asyncio.to_thread(self._artifacts.delete, file_folder(self.file))
        if self._place is not None:
            with suppress(StoreUnavailable):  # it lets go of itself in a while
                await self._store.jobs.release_key(self._place, self.id)


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of what must not be left half done: a cancel meanwhile is raised after it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def check_key(key: str | None) -> str | None:
    """An Idempotency-Key as it was sent. EdgeError for one that is none."""
    if key is not None and not (0 < len(key) <= KEY_BYTES and key.isprintable()):
        raise RequestError("malformed", f"The Idempotency-Key must have 1 to {KEY_BYTES} printable characters.")
    return key


def _place(principal: Principal, key: str) -> str:
    return hashlib.sha256("\0".join((principal.tenant, principal.owner, key)).encode()).hexdigest()


def _busy() -> RequestError:
    message = "A request with this Idempotency-Key is still under way: send it again in a moment."
    return RequestError("conflict", message, retry_after_s=1)

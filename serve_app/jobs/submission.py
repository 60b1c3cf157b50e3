"""class Draft: idempotent submission of a job with an upload."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from deployments.errors import StorageUnavailable
from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.jobs.audit import audit
from serve_app.models.file import File
from serve_app.models.job import Job, JobSpec
from serve_app.models.principal import Principal
from serve_app.models.storage_paths import file_folder, file_key, job_folder, source_key
from serve_app.models.submission import IdempotencyRecord, Reservation, SubmitOutcome, SubmitResult
from serve_app.models.trace import Trace
from serve_app.store.records import FILE, SPEC
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")
Submit = Callable[["Draft", JobSpec, str, File | None], Awaitable[Job]]
Admit = Callable[["Draft"], Awaitable[None]]
REQUEST_ID_LENGTH = 128
KEY_LENGTH = 255
RESERVED_S = 10.0  # how long a key stays reserved for a request whose process died


class Draft:
    """Submission in progress: store an upload under `source`, then `submit`; else it is discarded."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        principal: Principal,
        idempotency_key: str | None,
        trace: Trace,
        job_id: str,
        *,
        submit: Submit,
        admit: Admit,
        as_file: bool,
    ) -> None:
        self.id = job_id
        self.file = str(uuid4()) if as_file else None  # id of the shared file that the source becomes
        self.principal = principal
        self.repeated = False  # whether a job was made under the idempotency key
        self._submit = submit
        self._admit = admit
        self._trace = trace
        self._store = store
        self._artifacts = artifacts
        self._key_digest = None if idempotency_key is None else _digest(principal, idempotency_key)
        self._renewing: asyncio.Task[None] | None = None
        self._submitted = False

    @property
    def source(self) -> str:
        return source_key(self.id) if self.file is None else file_key(self.file)

    async def __aenter__(self) -> Draft:
        """Reserve the idempotency key. Raises RequestError `conflict`."""
        if self._key_digest is not None:
            try:
                reservation = await _uninterrupted(self._store.jobs.reserve_key(self._key_digest, self.id, RESERVED_S))
            except (StoreUnavailable, asyncio.CancelledError):
                # The reservation may have been made.
                await asyncio.shield(self._discard())
                raise
            if reservation is Reservation.BUSY:
                raise _in_progress()
            self.repeated = reservation is Reservation.USED
            self._renewing = asyncio.create_task(self._renew(self._key_digest))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._renewing:
            self._renewing.cancel()
        if not self._submitted:
            await asyncio.shield(self._discard())

    async def admit(self) -> None:
        """Check quota and queue before a body is read. Raises RequestError."""
        await self._admit(self)

    async def submit(self, spec: JobSpec, sha256: str = "", file: File | None = None) -> Job:
        """Create the job, or return that of an equal request. Raises RequestError."""
        # `sha256` is the digest of the upload; `file` describes the source of an `as_file` draft.
        return await self._submit(self, spec, sha256, file)

    async def record(
        self,
        spec: JobSpec,
        sha256: str,
        *,
        ttl_s: float,
        queue_limit: int,
        kept_limit: int,
        quota_s: float,
        file: File | None,
    ) -> SubmitResult:
        """Write the job to the store. Raises RequestError for a key in use."""
        principal = self.principal
        request_id = self._trace.request_id[:REQUEST_ID_LENGTH] or None
        traced = replace(spec, request_id=request_id, traceparent=self._trace.traceparent)
        submitting = self._store.jobs.submit(
            self.id,
            principal.owner,
            principal.tenant,
            traced,
            ttl_s=ttl_s,
            queue_limit=queue_limit,
            kept_limit=kept_limit,
            quota_s=quota_s,
            idempotency=self._idempotency(spec, sha256, file),
            file=file,
        )
        try:
            result = await _uninterrupted(submitting)
        except (StoreUnavailable, asyncio.CancelledError):
            # The job may have been created all the same: discard nothing unless it certainly was not.
            self._submitted = True
            with suppress(StoreUnavailable):
                self._submitted = await self._store.jobs.get(self.id) is not None
            raise
        if result.outcome is SubmitOutcome.OTHER:
            message = "This Idempotency-Key was used for another request: use a new one for each."
            raise RequestError("key_reused", message, (("Idempotency-Key", "used"),))
        if result.outcome is SubmitOutcome.BUSY:
            raise _in_progress()
        self._submitted = result.outcome is SubmitOutcome.NEW
        if self._submitted:
            audit("job.created", result.job_id)
        log.info("job_id=%s request_id=%s %s", result.job_id, self._trace.request_id, result.outcome)
        return result

    def _idempotency(self, spec: JobSpec, sha256: str, file: File | None) -> IdempotencyRecord | None:
        if self._key_digest is None:
            return None
        # Without the id of a new file, which differs at each request; without defaults, so that fields added by a later
        # version change no fingerprint.
        content = SPEC.dump_json(replace(spec, file=None) if file else spec, exclude_defaults=True)
        if file:
            content += FILE.dump_json(replace(file, id=""), exclude_defaults=True)
        return IdempotencyRecord(self._key_digest, hashlib.sha256(content + sha256.encode()).hexdigest())

    async def _renew(self, key_digest: str) -> None:
        while True:
            await asyncio.sleep(RESERVED_S / 3)
            with suppress(StoreUnavailable):
                await self._store.jobs.reserve_key(key_digest, self.id, RESERVED_S)

    async def _discard(self) -> None:
        with suppress(StorageUnavailable):  # the sweep deletes files that belong to no job
            await self._artifacts.threads.run(self._artifacts.delete, job_folder(self.id))
            if self.file is not None:
                await self._artifacts.threads.run(self._artifacts.delete, file_folder(self.file))
        if self._key_digest is not None:
            with suppress(StoreUnavailable):  # the reservation expires
                await self._store.jobs.release_key(self._key_digest, self.id)


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    # A cancel that arrives meanwhile is raised after `work` is done.
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def checked_key(key: str | None) -> str | None:
    """Raises RequestError `malformed`."""
    if key is not None and not (0 < len(key) <= KEY_LENGTH and key.isprintable()):
        raise RequestError("malformed", f"The Idempotency-Key must have 1 to {KEY_LENGTH} printable characters.")
    return key


def _digest(principal: Principal, key: str) -> str:
    return hashlib.sha256("\0".join((principal.tenant, principal.owner, key)).encode()).hexdigest()


def _in_progress() -> RequestError:
    message = "A request with this Idempotency-Key is still under way: send it again in a moment."
    return RequestError("conflict", message, retry_after_s=1)

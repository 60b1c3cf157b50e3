"""class Draft: a job to be. What is sent for it, and the idempotency key that it was sent with, stay until there is a job;
where there will be none, nothing of them does."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from deployments.artifacts import Artifacts
from serve_app.errors import EdgeError
from serve_app.jobs.connection import OUTAGES
from serve_app.jobs.models import File, JobSpec, Principal
from serve_app.jobs.places import file_folder, file_key, job_folder, source_key
from serve_app.jobs.record import FILE, SPEC
from serve_app.jobs.store import Store
from serve_app.jobs.terms import Once, Receipt, Verdict
from serve_app.trace import Trace

log = logging.getLogger(__name__)

T = TypeVar("T")
KEY_BYTES = 255
KEPT_S = 10.0
"""How long a key is kept for a request that has died with its process."""


class Draft:
    """Use it in an `async with`. An upload is stored under `source`, then `submit` makes the job. `apart` says that the
    source is to be a file of its own, whose id is `file`."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        principal: Principal,
        key: str | None,
        trace: Trace = Trace(),  # noqa: B008
        job_id: str | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self.id = job_id or uuid4().hex
        self.file = str(uuid4()) if apart else None
        self._trace = trace
        self._store = store
        self._artifacts = artifacts
        self._principal = principal
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
                kept = await _to_its_end(self._store.reserve(self._place, self.id, KEPT_S))
            except (*OUTAGES, asyncio.CancelledError):
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

    async def submit(
        self,
        spec: JobSpec,
        sha256: str,
        *,
        ttl_s: float,
        queue_limit: int,
        quota_s: float = 0.0,
        file: File | None = None,
    ) -> Receipt:
        """Make the job, and with it the `file` that is new: it is durable when this returns. `sha256` is of what was
        uploaded, '' where nothing was. Returns NEW, SAME with the id of the job that an equal request made before, FULL,
        SPENT or GONE."""
        # A new file has another id each time, and is the same if all else is.
        alike = replace(spec, file=None) if file else spec
        # What a later version knows of more than this one is at its default, and changes no fingerprint.
        told = SPEC.dump_json(alike, exclude_defaults=True)
        if file:
            told += FILE.dump_json(replace(file, id=""), exclude_defaults=True)
        once = self._place and Once(self._place, hashlib.sha256(told + sha256.encode()).hexdigest())
        who = self._principal
        traced = replace(spec, request_id=self._trace.request_id or None, traceparent=self._trace.traceparent)
        asked = self._store.submit(
            self.id,
            who.owner,
            who.tenant,
            traced,
            ttl_s=ttl_s,
            queue_limit=queue_limit,
            quota_s=quota_s,
            once=once or None,
            file=file,
        )
        try:
            receipt = await _to_its_end(asked)
        except (*OUTAGES, asyncio.CancelledError):
            # It may have arrived all the same: only what is certainly no job's is removed.
            self._made = True
            with suppress(*OUTAGES):
                self._made = await self._store.get(self.id) is not None
            raise
        if receipt.verdict is Verdict.OTHER:
            message = "This Idempotency-Key was used for another request: use a new one for each."
            raise EdgeError("key_reused", message, (("Idempotency-Key", "used"),))
        if receipt.verdict is Verdict.BUSY:
            raise _busy()
        self._made = receipt.verdict is Verdict.NEW
        log.info("job_id=%s request_id=%s %s", receipt.job_id, self._trace.request_id, receipt.verdict)
        return receipt

    async def _keep(self, place: str) -> None:
        while True:
            await asyncio.sleep(KEPT_S / 3)
            with suppress(*OUTAGES):
                await self._store.reserve(place, self.id, KEPT_S)

    async def _discard(self) -> None:
        await asyncio.to_thread(self._artifacts.delete, job_folder(self.id))
        if self.file is not None:
            await asyncio.to_thread(self._artifacts.delete, file_folder(self.file))
        if self._place is not None:
            with suppress(*OUTAGES):  # it lets go of itself in a while
                await self._store.release(self._place, self.id)


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
        raise EdgeError("malformed", f"The Idempotency-Key must have 1 to {KEY_BYTES} printable characters.")
    return key


def _place(principal: Principal, key: str) -> str:
    return hashlib.sha256("\0".join((principal.tenant, principal.owner, key)).encode()).hexdigest()


def _busy() -> EdgeError:
    message = "A request with this Idempotency-Key is still under way: send it again in a moment."
    return EdgeError("conflict", message, retry_after_s=1)

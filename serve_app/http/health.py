"""Routes of health: liveness and readiness."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from deployments.errors import WorkError
from deployments.storage.artifacts import Artifacts
from serve_app.errors import RETRY_AFTER_S, StoreUnavailable
from serve_app.http.openapi import Responses
from serve_app.store.redis_store import Store

OK = "ok"
REDIS_TTL_S, RUNNER_TTL_S, STORAGE_TTL_S = 1.0, 1.0, 5.0  # for which a result is kept: probes of many load nothing
PATIENCE_S = 5.0  # before a probe that has not ended is a failure
Probe = Callable[[], Coroutine[None, None, str]]
State = Annotated[str, Field(description="`ok`, or what is wrong.")]


class Health(BaseModel):
    """Liveness of the process."""

    status: Literal["ok"] = "ok"
    version: str
    devices: dict[str, str] = Field(description="Device and compute type of each model, as far as known.")


class Readiness(BaseModel):
    """Readiness to accept jobs and to do them, part by part."""

    status: Literal["ready", "unready"]
    redis: State
    storage: State
    disk: State
    runner: State
    model: State


class CachedProbe:
    """Result of a probe, kept for `ttl_s`; at most one runs."""

    def __init__(self, probe: Probe, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._probe = probe
        self._ttl_s = ttl_s
        self._clock = clock
        self._running: asyncio.Task[str] | None = None
        self._state = ""
        self._until = float("-inf")

    async def state(self) -> str:
        if self._clock() < self._until:
            return self._state
        if self._running is None:
            self._running = asyncio.create_task(self._probe())
        running = self._running
        await asyncio.wait([running], timeout=PATIENCE_S)
        if running.done():
            if self._running is running:
                self._running = None
                self._state, self._until = running.result(), self._clock() + self._ttl_s
            return running.result()
        return f"no answer in {PATIENCE_S:g} s"  # and it goes on: a disk that hangs costs one thread, not one a request


class Readings:
    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        devices: Mapping[str, str],
        min_free_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._devices = devices
        self._min_free = min_free_bytes
        self._probes = {
            "redis": CachedProbe(self._redis, REDIS_TTL_S, clock),
            "storage": CachedProbe(self._storage, STORAGE_TTL_S, clock),
            "disk": CachedProbe(self._disk, STORAGE_TTL_S, clock),
            "runner": CachedProbe(self._runner, RUNNER_TTL_S, clock),
            "model": CachedProbe(self._model, 0.0, clock),
        }

    async def read(self) -> Readiness:
        states = dict(zip(self._probes, await asyncio.gather(*(p.state() for p in self._probes.values())), strict=True))
        ready = all(state == OK for state in states.values())
        return Readiness(status="ready" if ready else "unready", **states)

    async def _redis(self) -> str:
        try:
            await self._store.heartbeats.probe()
        except StoreUnavailable as outage:
            return outage.summary
        return OK

    async def _runner(self) -> str:
        try:
            alive = await self._store.heartbeats.runners_alive()
        except StoreUnavailable as outage:
            return f"unknown: {outage.summary}"
        return OK if alive else "no Runner is alive: jobs wait"

    async def _storage(self) -> str:
        try:
            await asyncio.to_thread(self._artifacts.probe)
        except (WorkError, OSError, ValueError) as error:
            return f"cannot be reached ({type(error).__name__})"
        return OK

    async def _disk(self) -> str:
        try:
            free = await asyncio.to_thread(free_bytes, self._artifacts.uri)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        low = free is not None and free < self._min_free
        return f"{(free or 0) >> 20} MiB are free, less than MURMUR_MIN_FREE_BYTES: make room" if low else OK

    async def _model(self) -> str:
        return OK if self._devices else "no Transcriber has answered yet"


def free_bytes(uri: str) -> int | None:
    """Free disk space of a local storage, else None."""
    if not uri.startswith("file://"):
        return None
    folder = Path(unquote(urlsplit(uri).path))
    while not folder.exists():  # it is made with the first artifact
        folder = folder.parent
    return shutil.disk_usage(folder).free


def add_health(api: FastAPI, readings: Readings, version: str, devices: Mapping[str, str], tag: str) -> None:
    @api.get("/healthz", tags=[tag], summary="Check liveness", response_description="The process runs.")
    async def healthz() -> Health:
        """Answer while the process runs, with the device and compute type of each model as far as known."""
        return Health(version=version, devices=dict(devices))

    unready: Responses = {503: {"model": Readiness, "description": "A part is not ready; the others are named too."}}

    @api.get(
        "/readyz",
        tags=[tag],
        summary="Check readiness",
        response_model=Readiness,
        responses=unready,
        response_description="Jobs can be accepted and done.",
    )
    async def readyz() -> Response:
        """Answer 200 while jobs can be accepted and done: Redis takes a write, the storage can be reached and has room, a
        Runner lives and a model is loaded."""
        readiness = await readings.read()
        status = 200 if readiness.status == "ready" else 503
        wait = {} if status == 200 else {"Retry-After": str(RETRY_AFTER_S[status])}
        return JSONResponse(readiness.model_dump(), status, wait)

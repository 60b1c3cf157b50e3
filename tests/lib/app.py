"""The core without Ray: a runner, plain stages with the fake engine, and the jobs in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from batching.types import Segment, Word
from deployments.errors import EngineFailed
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import Buckets
from deployments.ingestion.safe_http import SafeHttp
from deployments.ingestion.stage import Ingestion
from deployments.messages import (
    FetchRequest,
    StoredSource,
    TranscodeProgress,
    TranscodeRequest,
    TranscribeRequest,
    WindowResult,
)
from deployments.storage.artifacts import Artifacts
from deployments.transcoding.stage import Transcoder
from deployments.transcription.engines.base import EngineConfig
from deployments.transcription.engines.fake import FakeEngine
from deployments.transcription.stage import Transcriber
from serve_app.jobs.event_stream import EventStreams
from serve_app.jobs.model_catalog import Model, ModelCatalog
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.jobs.service import Jobs
from serve_app.models.event import Event, EventKind
from serve_app.models.job import Job, JobSpec, Phase
from serve_app.models.principal import Principal
from serve_app.runner.deadlines import DeadlineRules
from serve_app.runner.limits import RunnerLimits
from serve_app.runner.runner import Runner
from serve_app.runner.stages import ignore_start
from serve_app.runner.sweeper import Sweeper
from serve_app.store.redis_store import Store
from tests.lib.memoized_vad import memoized_vad

ME = Principal("me", "t")
QUEUE_LIMIT = 20
MODELS = (Model("fake", ("de", "en", "fr")), Model("second", ("en",)))


class PlainStages:
    """Stages as plain objects, with a gate before each decode."""

    def __init__(self, artifacts: Artifacts, ffmpeg: str, allow: tuple[str, ...] = (), engine: str = "fake") -> None:
        allowed = AllowList.parse(allow)
        self._ingestion = Ingestion(artifacts, SafeHttp(allowed), Buckets(allowed))
        self._transcoder = Transcoder(artifacts, ffmpeg)
        self._transcriber = Transcriber(artifacts, FakeEngine(EngineConfig("fake", engine, "")))
        self.gate = asyncio.Semaphore(10_000)
        self.decoded: list[int] = []
        self.broken: set[str] = set()
        self.used: list[str] = []
        self.trouble: Callable[[TranscribeRequest], Exception | None] = lambda _: None

    async def fetch(self, request: FetchRequest) -> StoredSource:
        return await self._ingestion.fetch(request)

    async def windows(self, request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        async with aclosing(self._transcoder.windows(request)) as plans:
            async for planned in plans:
                yield planned

    def decoding_to(self, words: Sequence[str]) -> Callable[..., Awaitable[WindowResult]]:
        """A `transcribe` that always returns these words."""

        async def decode(_: str, request: TranscribeRequest, on_start: object = None) -> WindowResult:
            timed = tuple(Word(f" {word}", 0.1 * i, 0.1 * i + 0.1, 0.9) for i, word in enumerate(words))
            segment = Segment(0, 0.0, 0.1 * len(words), " ".join(words), 0.9, "en", timed)
            return WindowResult(request.window.index, (segment,), "en", "cpu")

        return decode

    async def transcribe(
        self, model: str, request: TranscribeRequest, on_start: Callable[[], None] = ignore_start
    ) -> WindowResult:
        await self.gate.acquire()
        on_start()
        self.used.append(model)
        if model in self.broken:
            raise EngineFailed("The model stumbled.")
        if error := self.trouble(request):
            raise error
        self.decoded.append(request.window.index)
        return await self._transcriber.transcribe(request)


@dataclass(frozen=True, slots=True)
class App:
    """All parts, with a started Runner."""

    jobs: Jobs
    store: Store
    events: EventStreams
    artifacts: Artifacts
    stages: PlainStages
    runner: Runner

    async def submit(self, audio: Path | bytes, spec: JobSpec | None = None) -> str:
        """Upload a recording, as a route does, and submit it."""
        content = audio if isinstance(audio, bytes) else await asyncio.to_thread(audio.read_bytes)
        async with self.jobs.draft(ME) as draft:
            self.artifacts.put(draft.source, content)
            return (await draft.submit(spec or JobSpec("fake"))).id

    async def submit_without_upload(self, spec: JobSpec) -> str:
        """Submit a job without an upload."""
        async with self.jobs.draft(ME) as draft:
            return (await draft.submit(spec)).id

    async def follow(self, job_id: str, after: str = "0") -> list[Event]:
        """Events up to the end."""
        return [event async for event in await self.jobs.follow(ME, job_id, after)]

    async def ended(self, job_id: str) -> Job:
        """The job once it has ended."""
        await self.follow(job_id)
        return await self.jobs.get(ME, job_id)

    async def until(self, job_id: str, kind: EventKind, count: int = 1) -> list[Event]:
        """Events up to the `count`th of a kind."""
        seen: list[Event] = []
        async for event in await self.jobs.follow(ME, job_id, "0"):
            seen.append(event)
            if sum(e.kind is kind for e in seen) == count:
                break
        return seen

    async def until_phase(self, job_id: str, phase: Phase) -> None:
        """Wait until the job has entered a phase."""
        async for event in await self.jobs.follow(ME, job_id, "0"):
            if event.kind is EventKind.PHASE and f'"{phase}"' in event.data:
                return


@asynccontextmanager
async def open_app(
    store: Store,
    artifacts: Artifacts,
    ffmpeg: str,
    *,
    allow: tuple[str, ...] = (),
    limits: RunnerLimits | None = None,
    deadlines: DeadlineRules | None = None,
) -> AsyncIterator[App]:
    """The core with a started Runner."""
    events = EventStreams(store, artifacts)
    stages = PlainStages(artifacts, ffmpeg, allow)
    sweeper = Sweeper(store, artifacts, period_s=0.2, stream_grace_s=3600)
    runner = Runner("runner", store, stages, artifacts, sweeper, limits or RunnerLimits(), deadlines)
    jobs = Jobs(
        store,
        events,
        artifacts,
        ModelCatalog(MODELS, {"whisper-1": "", "other": "second", "broken": "nothing"}),
        quotas=Quotas(store, TenantLimits()),
        allowed=AllowList.parse(allow),
        result_ttl_s=3600,
        queue_limit=QUEUE_LIMIT,
        prompts=("brief", "gone"),
    )
    await events.start()
    await runner.start()
    try:
        with memoized_vad():
            yield App(jobs, store, events, artifacts, stages, runner)
    finally:
        await runner.stop()
        await events.stop()

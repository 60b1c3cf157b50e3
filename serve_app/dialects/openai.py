"""OpenAI's audio API: answers that wait for their job, or stream it. Whoever hangs up cancels the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext, suppress
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, flat, request_body, validated
from serve_app.dialects.openai_format import ResponseFormat, complaint, shaped, status_of
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.formats import FORMATS
from serve_app.http.auth import CanWrite
from serve_app.http.request_ids import Traced
from serve_app.http.sse import HEADERS, PING_S
from serve_app.http.uploads import Form
from serve_app.jobs.results import Results
from serve_app.jobs.service import Jobs
from serve_app.models.event import Event, EventKind
from serve_app.models.job import Job, JobSpec, Phase
from serve_app.models.principal import Principal
from serve_app.models.trace import Trace

# Wire models.

Task = Literal["transcribe", "translate"]
LISTS = ("timestamp_granularities", "include")
"""What may come several times in a form."""
IGNORED = ("chunking_strategy",)
"""Fields of OpenAI's that change nothing here: windows are always cut in silence."""


class Asked(BaseModel):
    """The fields of a form."""

    model_config = ConfigDict(extra="forbid")

    model: str
    language: str | None = None
    prompt: Annotated[str | None, Field(max_length=2000)] = None
    response_format: ResponseFormat = "json"
    temperature: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    timestamp_granularities: frozenset[Literal["segment", "word"]] = frozenset()
    stream: bool = False
    include: tuple[str, ...] = ()


# To the core.


def asked_of(form: Form) -> Asked:
    """What a form asks for. EdgeError names what is wrong."""
    fields = flat(form.fields, LISTS, IGNORED)
    asked = validated(Asked, {name: value for name, value in fields.items() if value})
    if asked.include:
        raise RequestError("feature_unavailable", "include is not supported here.", (("include", "unsupported"),))
    if asked.stream and asked.response_format not in ("json", "text"):
        raise RequestError("malformed", "A stream has the format json or text.", (("response_format", "streamed"),))
    if asked.timestamp_granularities and asked.response_format != "verbose_json":
        message = "timestamp_granularities needs response_format=verbose_json."
        raise RequestError("malformed", message, (("timestamp_granularities", "needs verbose_json"),))
    return asked


def to_spec(asked: Asked, task: Task, filename: str | None) -> JobSpec:
    """The same in the core's words."""
    return JobSpec(
        model=asked.model,
        filename=filename,
        language=asked.language if task == "transcribe" else None,
        task=task,
        prompt=asked.prompt,
        temperature=asked.temperature,
        word_timestamps="word" in asked.timestamp_granularities,
    )


# From the core.


async def from_job(job: Job, results: Results, asked: Asked) -> Response:
    """The answer to a job that is completed."""
    told = shaped(
        await results.transcript(job),
        asked.response_format,
        task=job.spec.task,
        temperature=asked.temperature,
        granularities=frozenset(asked.timestamp_granularities),
    )
    headers = {"X-Job-Id": job.id}
    if isinstance(told, dict):
        return JSONResponse(told, headers=headers)
    if asked.response_format == "text":
        return PlainTextResponse(told + "\n", headers=headers)
    return Response(told, headers=headers, media_type=FORMATS[asked.response_format].content_type)


class Deltas:
    """A job's events as frames: what each segment adds, and at the end the whole text."""

    def __init__(self) -> None:
        self._text = ""

    def from_event(self, event: Event) -> ServerSentEvent | None:
        """The frame of an event, if it has one."""
        told = orjson.loads(event.data)
        if event.kind is EventKind.SEGMENT:
            words = " ".join(told["text"].split())
            delta = f" {words}" if self._text and words else words
            self._text += delta
            return _frame({"type": "transcript.text.delta", "delta": delta})
        if event.kind is not EventKind.DONE:
            return None
        if told["phase"] == Phase.COMPLETED:
            return _frame({"type": "transcript.text.done", "text": self._text})
        failure = told.get("error") or {"code": "internal", "message": "The job was not completed."}
        return _frame({"type": "error", "error": complaint(RequestError(failure["code"], failure["message"]))})


def _frame(told: Mapping[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(data=orjson.dumps(told).decode())


def error(problem: RequestError) -> Response:
    """An error as OpenAI writes it."""
    return JSONResponse({"error": complaint(problem)}, status_of(problem), problem.headers)


# Routes.

BODY = request_body(form=Asked, file="file")
ERROR = {"content": {"application/json": {"schema": {"type": "object", "required": ["error"]}}}}
KINDS = ("application/json", "text/plain", "text/vtt", "application/x-subrip", "text/event-stream")
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The transcript, in the format asked for.", "content": {kind: {} for kind in KINDS}},
    **{status: {"description": "Why not.", **ERROR} for status in (400, 401, 403, 404, 409, 413, 429)},
}


class Routes:
    """What the paths do."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("openai", "{.hex}")

    async def transcribe(self, request: Request, who: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Transcribe a file and wait for the text, or with `stream=true` get it as it is heard."""
        return await self._hear(request, who, "transcribe", trace, key)

    async def translate(self, request: Request, who: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """The same, into English."""
        return await self._hear(request, who, "translate", trace, key)

    async def _hear(self, request: Request, who: Principal, task: Task, trace: Trace, key: str | None) -> Response:
        job_id, asked = await self._made(request, who, task, trace, key)
        # Whoever sends a key means to come back for the same job.
        waiting = cancelled_unless_ended(self._jobs, who, job_id) if key is None else nullcontext()
        if asked.stream:
            frames = self._frames(who, job_id, waiting)
            return EventSourceResponse(frames, ping=PING_S, headers=HEADERS | {"X-Job-Id": job_id})
        async with waiting:
            await _first(self._end(who, job_id), _hung_up(request))
            job = await self._jobs.get(who, job_id)
            if job.error:
                raise RequestError(job.error.code, job.error.message)
            return await from_job(job, self._jobs.results, asked)

    async def _made(self, request: Request, who: Principal, task: Task, trace: Trace, key: str | None) -> tuple[str, Asked]:
        kind = request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise RequestError("malformed", "Send multipart/form-data with a file and a model.")
        async with self._jobs.draft(who, key, trace) as draft:
            form = await self._context.receive_form(request, draft, "file")
            asked = asked_of(form)
            if task == "translate" and asked.language:
                raise RequestError("malformed", "A translation takes no language: it is heard.", (("language", "unknown"),))
            job = await draft.submit(to_spec(asked, task, form.filename), form.sha256)
        return job.id, asked

    async def _end(self, who: Principal, job_id: str) -> None:
        async with aclosing(await self._jobs.follow(who, job_id, "0")) as events:
            async for _ in events:
                pass

    async def _frames(
        self, who: Principal, job_id: str, waiting: AbstractAsyncContextManager[None]
    ) -> AsyncIterator[ServerSentEvent]:
        deltas = Deltas()
        async with waiting:
            events: AsyncGenerator[Event, None] = await self._jobs.follow(who, job_id, "0")
            async with aclosing(events):
                async for event in events:
                    if frame := deltas.from_event(event):
                        yield frame


@asynccontextmanager
async def cancelled_unless_ended(jobs: Jobs, who: Principal, job_id: str) -> AsyncIterator[None]:
    """Cancel a job if it has not ended at the end of this: nobody waits for it any more."""
    try:
        yield
    finally:
        with suppress(RequestError, StoreUnavailable):  # it has ended, as it should
            await asyncio.shield(jobs.cancel(who, job_id))


async def _first(work: Any, other: Any) -> None:
    """Wait for one of two, and end the other."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(other)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def routes(context: ApiContext) -> APIRouter:
    """The routes under /v1/audio."""
    openai = Routes(context)
    router = APIRouter(prefix="/v1/audio", responses=RESPONSES)
    router.post("/transcriptions", openapi_extra=BODY, response_class=JSONResponse)(openai.transcribe)
    router.post("/translations", openapi_extra=BODY, response_class=JSONResponse)(openai.translate)
    return router


OPENAI = Dialect("openai", "/v1/audio", routes, error)

"""OpenAI's audio API: responses that wait for their job, or stream it. A client that disconnects cancels the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext, suppress
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, flat, request_body, validated, validated_so_far
from serve_app.dialects.openai_format import (
    OpenAIError,
    OpenAIErrorBody,
    OpenAITranscription,
    OpenAIVerboseTranscription,
    ResponseFormat,
    error_body,
    from_transcript,
    status_of,
)
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.formats import FORMATS
from serve_app.http.auth import CanWrite
from serve_app.http.disconnects import unless_disconnected
from serve_app.http.json_response import json_response
from serve_app.http.openapi import UPLOAD, Responses, content, errors, event_stream, header, operation_id
from serve_app.http.request_ids import Traced
from serve_app.http.sse import HEADERS, PING_S
from serve_app.http.uploads import Form
from serve_app.jobs.results import Results
from serve_app.jobs.service import Jobs
from serve_app.jobs.tenant_slots import Slot
from serve_app.models.event import Event, EventKind
from serve_app.models.job import Job, JobSpec, Phase
from serve_app.models.principal import Principal
from serve_app.models.trace import Trace

# Wire models.

Task = Literal["transcribe", "translate"]
LISTS = ("timestamp_granularities", "include")  # form fields that may be repeated
IGNORED = ("chunking_strategy",)  # form fields without an effect: windows are always cut in silence


class OpenAIForm(BaseModel):
    """Fields of a form, beside its file."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"model": "whisper-1", "language": "en"}]})

    model: str = Field(description="A model of GET /v1/models, or an alias such as `whisper-1`.")
    language: str | None = Field(None, description="ISO 639-1 code; detected when left out. Not for translations.")
    prompt: str | None = Field(None, max_length=2000, description="Text that the audio might follow on from.")
    response_format: ResponseFormat = Field("json", description="Format of the transcript.")
    temperature: float = Field(0.0, ge=0.0, le=1.0, description="Sampling temperature; 0 is deterministic.")
    timestamp_granularities: frozenset[Literal["segment", "word"]] = Field(
        frozenset(), description="With `verbose_json`: segments (the default), words, or both."
    )
    stream: bool = Field(False, description="Stream deltas as Server-Sent Events; with the formats `json` and `text`.")
    include: tuple[str, ...] = Field((), description="Not supported.")


class OpenAITextDelta(BaseModel):
    """Stream event: text that a segment adds."""

    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str = Field(description="Text to append.")


class OpenAITextDone(BaseModel):
    """Stream event: the whole text, at the end."""

    type: Literal["transcript.text.done"] = "transcript.text.done"
    text: str = Field(description="Text of the whole recording.")


class OpenAIStreamError(BaseModel):
    """Stream event: the job was not completed."""

    type: Literal["error"] = "error"
    error: OpenAIErrorBody


# To the core.


def form_fields(form: Form) -> dict[str, Any]:
    """Fields of a form that are set. Raises RequestError."""
    return {name: value for name, value in flat(form.fields, LISTS, IGNORED).items() if value}


def _check_fields(fields: OpenAIForm, task: Task) -> None:
    """Raise RequestError for fields that do not go together."""
    if task == "translate" and fields.language:
        message = "A translation takes no language: it is detected."
        raise RequestError("malformed", message, (("language", "unknown"),))
    if fields.include:
        raise RequestError("feature_unavailable", "include is not supported here.", (("include", "unsupported"),))
    if fields.stream and fields.response_format not in ("json", "text"):
        raise RequestError("malformed", "A stream has the format json or text.", (("response_format", "streamed"),))
    if fields.timestamp_granularities and fields.response_format != "verbose_json":
        message = "timestamp_granularities needs response_format=verbose_json."
        raise RequestError("malformed", message, (("timestamp_granularities", "needs verbose_json"),))


def to_spec(fields: OpenAIForm, task: Task, filename: str | None) -> JobSpec:
    """Form fields as a JobSpec."""
    return JobSpec(
        model=fields.model,
        filename=filename,
        language=fields.language if task == "transcribe" else None,
        task=task,
        prompt=fields.prompt,
        temperature=fields.temperature,
        word_timestamps="word" in fields.timestamp_granularities,
    )


# From the core.


async def from_job(job: Job, results: Results, fields: OpenAIForm) -> Response:
    """Response of a completed job."""
    body = await asyncio.to_thread(
        from_transcript,
        await results.transcript(job),
        fields.response_format,
        task=job.spec.task,
        temperature=fields.temperature,
        granularities=frozenset(fields.timestamp_granularities),
    )
    headers = {"X-Job-Id": job.id}
    if isinstance(body, dict):
        return await json_response(lambda: body, headers=headers)
    if fields.response_format == "text":
        return PlainTextResponse(body + "\n", headers=headers)
    return Response(body, headers=headers, media_type=FORMATS[fields.response_format].content_type)


class Deltas:
    """Renders a job's events as frames: the text that each segment adds, and at the end all of it."""

    def __init__(self) -> None:
        self._text = ""

    def from_event(self, event: Event) -> ServerSentEvent | None:
        """The frame of an event, if it has one."""
        data = orjson.loads(event.data)
        if event.kind is EventKind.SEGMENT:
            words = " ".join(data["text"].split())
            delta = f" {words}" if self._text and words else words
            self._text += delta
            return _frame({"type": "transcript.text.delta", "delta": delta})
        if event.kind is not EventKind.DONE:
            return None
        if data["phase"] == Phase.COMPLETED:
            return _frame({"type": "transcript.text.done", "text": self._text})
        failure = data.get("error") or {"code": "internal", "message": "The job was not completed."}
        return _frame({"type": "error", "error": error_body(RequestError(failure["code"], failure["message"]))})


def _frame(data: Mapping[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(data=orjson.dumps(data).decode())


def error(problem: RequestError) -> Response:
    """An error as OpenAI writes it."""
    return JSONResponse({"error": error_body(problem)}, status_of(problem), problem.headers)


# Routes.


class Routes:
    """Route handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("openai", "{.hex}")

    async def transcribe(self, request: Request, principal: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Transcribe a file and wait for the text, or with `stream=true` get it while it is transcribed. Without an
        Idempotency-Key, a client that disconnects cancels the job."""
        return await self._respond(request, principal, "transcribe", trace, key)

    async def translate(self, request: Request, principal: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Translate a file into English; otherwise like a transcription, but without `language`."""
        return await self._respond(request, principal, "translate", trace, key)

    async def _respond(self, request: Request, principal: Principal, task: Task, trace: Trace, key: str | None) -> Response:
        slot = self._jobs.stream_slot(principal)
        with slot.kept():
            job_id, fields = await self._submit(request, principal, task, trace, key)
        # A client that sends a key may come back for the same job.
        waiting = cancelled_unless_ended(self._jobs, principal, job_id) if key is None else nullcontext()
        if fields.stream:
            frames = self._frames(principal, job_id, waiting, slot)
            return EventSourceResponse(frames, ping=PING_S, headers=HEADERS | {"X-Job-Id": job_id})
        async with waiting:
            with slot:
                await unless_disconnected(request, self._end(principal, job_id, slot))
            job = await self._jobs.get(principal, job_id)
            if job.error:
                raise RequestError(job.error.code, job.error.message)
            return await from_job(job, self._jobs.results, fields)

    async def _submit(
        self, request: Request, principal: Principal, task: Task, trace: Trace, key: str | None
    ) -> tuple[str, OpenAIForm]:
        """Id of the job, and the fields of the form."""
        kind = request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise RequestError("malformed", "Send multipart/form-data with a file and a model.")
        async with self._jobs.draft(principal, key, trace) as draft:

            def check(form: Form) -> None:
                if fields := validated_so_far(OpenAIForm, form_fields(form)):
                    _check_fields(fields, task)
                    self._jobs.resolve(principal, to_spec(fields, task, form.filename))

            form = await self._context.receive_form(request, draft, "file", check=check)
            fields = validated(OpenAIForm, form_fields(form))
            _check_fields(fields, task)
            job = await draft.submit(to_spec(fields, task, form.filename), form.sha256)
        return job.id, fields

    async def _end(self, principal: Principal, job_id: str, slot: Slot) -> None:
        async with aclosing(await self._jobs.follow(principal, job_id, "0", slot)) as events:
            async for _ in events:
                pass

    async def _frames(
        self, principal: Principal, job_id: str, waiting: AbstractAsyncContextManager[None], slot: Slot
    ) -> AsyncIterator[ServerSentEvent]:
        deltas = Deltas()
        async with waiting:
            events: AsyncGenerator[Event, None] = await self._jobs.follow(principal, job_id, "0", slot)
            async with aclosing(events):
                try:
                    async for event in events:
                        if frame := deltas.from_event(event):
                            yield frame
                except RequestError as problem:  # the key was revoked or has expired
                    yield _frame({"type": "error", "error": error_body(problem)})


@asynccontextmanager
async def cancelled_unless_ended(jobs: Jobs, principal: Principal, job_id: str) -> AsyncIterator[None]:
    """Cancel a job that has not ended when this does: its only client has left."""
    try:
        yield
    finally:
        with suppress(RequestError, StoreUnavailable):  # it has ended, as it should
            await asyncio.shield(jobs.cancel(principal, job_id))


def _responses() -> Responses:
    """Responses of both routes: the transcript in every format, or a stream."""
    texts = content(str, "text/plain", "text/vtt", "application/x-subrip")
    events = event_stream("OpenAIEvent", OpenAITextDelta | OpenAITextDone | OpenAIStreamError)
    success = {
        "description": "The transcript in `response_format`, or with `stream=true` a stream.",
        "headers": {"X-Job-Id": header("Id of the job in the native API.")},
        "content": {
            **content(OpenAIVerboseTranscription | OpenAITranscription),
            **texts,
            **events,
        },
    }
    return {200: success, **errors(OpenAIError, 400, 401, 403, 404, 429, *UPLOAD)}


def routes(context: ApiContext) -> APIRouter:
    """Routes under /v1/audio."""
    openai = Routes(context)
    router = APIRouter(prefix="/v1/audio", tags=["OpenAI"], responses=_responses(), generate_unique_id_function=operation_id)
    body = request_body(form=OpenAIForm, file="file")
    router.post("/transcriptions", summary="Transcribe a file", response_class=Response, openapi_extra=body)(
        openai.transcribe
    )
    router.post("/translations", summary="Translate a file", response_class=Response, openapi_extra=body)(openai.translate)
    return router


OPENAI = Dialect(
    "openai", "/v1/audio", routes, error, tags={"OpenAI": "OpenAI's audio API: transcriptions and translations of files."}
)

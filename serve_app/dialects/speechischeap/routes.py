"""Speech is Cheap: jobs by URL or by upload, streams of JSON or of subtitles, errors in plain text."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request, Response, Security
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import ClientDisconnect

from batching.types import Transcript
from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, flat, given, request_body, validated
from serve_app.dialects.openai_format import status_of
from serve_app.dialects.speechischeap.stream import Cues, Story, failure, follow, frame, shown, trouble
from serve_app.dialects.speechischeap.upload_progress import Arrival, ArrivalResponse
from serve_app.errors import RequestError, not_found
from serve_app.formats import FORMATS
from serve_app.http.auth import CanRead, CanWrite, caller
from serve_app.http.request_ids import Traced
from serve_app.http.sse import HEADERS, PING_S
from serve_app.http.uploads import OVERHEAD_BYTES, Form, read_json
from serve_app.jobs.results import Results
from serve_app.jobs.webhook_payload import Payload
from serve_app.models.job import Job, JobSpec, Phase, State
from serve_app.models.principal import Principal
from serve_app.models.trace import Trace

# Wire models.

PRIVATE_TTL_S = 12 * 3600
MASK = "[redacted]"
NAMES = {"label_audio": "can_label_audio", "diarize": "can_parse_speakers"}
Status = Literal["PENDING", "COMPLETED", "FAILED", "CANCELED"]


class Asked(BaseModel):
    """What may be asked of a job. An empty string is none."""

    model_config = ConfigDict(extra="forbid")

    can_label_audio: bool = False
    can_parse_speakers: bool = False
    can_parse_words: bool = False
    can_stream_output: bool = False
    is_private: bool = False
    language: str | None = None
    minimum_confidence: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    output_format: Literal["srt", "vtt", "webvtt"] | None = None
    segment_duration: Annotated[float | None, Field(ge=6.0, le=30.0)] = None
    user_agent: Annotated[str | None, Field(pattern=r"^[!-~]([ -~]*[!-~])?$", max_length=500)] = None
    webhook_url: Annotated[str | None, Field(max_length=4096)] = None
    hotwords: Annotated[str | None, Field(max_length=2000)] = None
    prompt: Annotated[str | None, Field(max_length=2000)] = None

    @model_validator(mode="before")
    @classmethod
    def _given(cls, sent: Any) -> Any:
        return given(sent)


class Create(Asked):
    """The same for a recording that is fetched."""

    input_url: Annotated[str, Field(max_length=4096)]


class Output(BaseModel):
    """What came of a job; empty while it is pending, and where it was canceled. `srt` or `vtt` holds all of it in the format
    that was asked for."""

    segments: list[dict[str, Any]] = []
    error: str = ""
    srt: str = ""
    vtt: str = ""


class JobBody(BaseModel):
    """A job."""

    id: str
    output: Output
    status: Status


# To the core.


def to_spec(asked: Asked, sent: dict[str, Any], *, url: str | None = None, filename: str | None = None) -> JobSpec:
    """The same in the core's words; `sent` is as it came, for the stream to show."""
    request = sent | asked.model_dump(exclude_unset=True)
    if asked.is_private and url is not None:
        request["input_url"] = MASK
    return JobSpec(
        model="",
        url=url,
        filename=filename,
        language=asked.language,
        prompt=asked.prompt,
        hotwords=asked.hotwords,
        word_timestamps=asked.can_parse_words,
        diarize=asked.can_parse_speakers,
        label_audio=asked.can_label_audio,
        min_confidence=asked.minimum_confidence,
        segment_duration=asked.segment_duration,
        webhook=asked.webhook_url,
        result_ttl_s=PRIVATE_TTL_S if asked.is_private else None,
        user_agent=asked.user_agent,
        private=asked.is_private,
        echo={"output_format": (asked.output_format or "")[-3:], "request": _dumped(request)},
    )


def _dumped(request: dict[str, Any]) -> str:
    """In one order: the same request is the same, however it was written."""
    return orjson.dumps(request, option=orjson.OPT_SORT_KEYS).decode()


def missing(name: str) -> RequestError:
    """Without which there is no job."""
    return RequestError("malformed", f'Missing required "{name}" parameter', ((name, "missing"),))


# From the core.

STATUS: dict[State, Status] = {
    State.QUEUED: "PENDING",
    State.RUNNING: "PENDING",
    State.COMPLETED: "COMPLETED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELED",
}


def format_of(job: Job) -> str:
    """`srt` or `vtt`, or nothing for JSON."""
    return job.spec.echo.get("output_format", "")


def from_job(job: Job, transcript: Transcript | None = None) -> dict[str, Any]:
    """A job with what was heard."""
    output: dict[str, Any] = {}
    if transcript is not None:
        output["segments"] = [shown(segment) for segment in transcript.segments]
        if form := format_of(job):
            output[form] = FORMATS[form].render(transcript)
    elif job.error and job.phase is Phase.FAILED:
        output["error"] = job.error.message
    return {"id": job.id, "output": output, "status": STATUS[job.phase.state]}


async def render(job: Job, results: Results) -> Payload:
    """What a webhook is told: the subtitles that were asked for, else the job."""
    transcript = await results.transcript_or_none(job)
    if transcript is not None and (form := FORMATS.get(format_of(job))):
        return Payload(form.render(transcript).encode(), form.content_type.partition(";")[0])
    return Payload(orjson.dumps(from_job(job, transcript)))


def sentence(problem: RequestError) -> str:
    """What is wrong, with this API's names of options."""
    message = problem.message
    for ours, theirs in NAMES.items():
        message = message.replace(f"The option {ours} ", f"The option {theirs} ")
    return message


def error(problem: RequestError) -> Response:
    """An error: a sentence."""
    return PlainTextResponse(sentence(problem), 404 if problem.status == 410 else status_of(problem), problem.headers)


# Routes.

PREFIX = "/v2/jobs"
URL, FILE = "input_url", "input_file"
SENTENCE: dict[str, Any] = {"description": "Why not.", "content": {"text/plain": {}}}
RESPONSES: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 403, 404, 405, 409, 413, 429), SENTENCE)
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "What happens, as it happens.", "content": {"text/event-stream": {}}}
}
AnyKey = Annotated[Principal, Security(caller)]


class Routes:
    """What the paths do."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("speechischeap", "{}-sic")

    async def create(self, request: Request, who: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Create a job, of `input_url` (JSON) or `input_file` (multipart). An upload is answered by a stream, and so is what
        has `can_stream_output`; who leaves the stream stops nothing."""
        kind = request.headers.get("content-type", "").lower()
        if kind.startswith("multipart/form-data"):
            return await self._uploaded(request, who, trace, key)
        if not kind.startswith("application/json"):
            raise RequestError("malformed", f"Send application/json with {URL}, or multipart/form-data with {FILE}.")
        sent: Any = await read_json(request.stream())
        if isinstance(sent, dict) and sent.get(URL) in (None, ""):
            raise missing(URL)
        asked = validated(Create, sent)
        async with self._jobs.draft(who, key, trace) as draft:
            job = await draft.submit(to_spec(asked, sent, url=asked.input_url))
        if asked.can_stream_output:
            return EventSourceResponse(self._stream(who, job), ping=PING_S, headers=HEADERS, sep="\n")
        return JSONResponse(from_job(job), 202)

    async def _uploaded(self, request: Request, who: Principal, trace: Trace, key: str | None) -> Response:
        limit = self._context.max_upload_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit + OVERHEAD_BYTES:
            raise RequestError("source_too_large", f"The body is larger than the {limit} bytes allowed.")
        arrival: Arrival[tuple[Asked, Job]] = Arrival(self._check)
        await arrival.begin(self._receive(request, who, trace, key, arrival))
        return ArrivalResponse(self._arriving(who, arrival), arrival)

    async def _receive(
        self, request: Request, who: Principal, trace: Trace, key: str | None, arrival: Arrival[tuple[Asked, Job]]
    ) -> tuple[Asked, Job]:
        """The job of an upload, once all of that has come."""
        async with self._jobs.draft(who, key, trace) as draft:
            form = await self._context.receive_form(request, draft, FILE, required=False, watch=arrival.watch)
            if form.filename is None:
                raise missing(FILE)
            asked, spec = _read(form)
            return asked, await draft.submit(spec, form.sha256)

    def _check(self, form: Form) -> None:
        """What the fields that came first have wrong with them is a refusal while one can be given."""
        self._jobs.resolve(_read(form)[1])

    async def _arriving(self, who: Principal, arrival: Arrival[tuple[Asked, Job]]) -> AsyncGenerator[ServerSentEvent, None]:
        async for size in arrival.told():
            yield _upload(size)
        try:
            asked, job = await arrival.made()
        except ClientDisconnect:
            return
        except RequestError as problem:
            yield frame(failure(sentence(problem)))
            return
        except Exception as error:  # noqa: BLE001 - the answer has begun, and is where to say so
            yield trouble(error)
            return
        yield _upload(arrival.size)
        if not asked.can_stream_output:
            yield frame(from_job(job))
            return
        async with aclosing(self._stream(who, job)) as frames:
            async for each in frames:
                yield each

    def _stream(self, who: Principal, job: Job) -> AsyncGenerator[ServerSentEvent, None]:
        device = self._context.devices.get(job.model, "").partition(" ")[0] or None
        request, form = orjson.loads(job.spec.echo["request"]), format_of(job)
        return follow(self._jobs, who, job, Cues(form) if form else Story(request, device, job.spec.segment_duration))

    async def auth(self, _who: AnyKey) -> str:
        """Whether a key is good."""
        return "OK"

    async def get(self, who: CanRead, job_id: str) -> Response:
        """A job, with what was heard once it is completed."""
        job = await self._jobs.get_undeleted(who, job_id)
        return JSONResponse(from_job(job, await self._jobs.results.transcript_or_none(job)))

    async def cancel(self, who: CanWrite, job_id: str) -> str:
        """Cancel a job that is pending."""
        job = await self._jobs.get_undeleted(who, job_id)
        if job.phase.final or job.cancelling:
            raise not_found()
        try:
            await self._jobs.cancel(who, job_id)
        except RequestError as problem:  # it has ended meanwhile
            raise not_found() from problem
        return "OK"


def _read(form: Form) -> tuple[Asked, JobSpec]:
    fields = flat(form.fields)
    asked = validated(Asked, fields)
    return asked, to_spec(asked, fields, filename=form.filename)


def _upload(size: int) -> ServerSentEvent:
    return frame({"type": "upload", "message": "Uploading...", "bytes_uploaded": size})


def routes(context: ApiContext) -> APIRouter:
    """The routes under /v2/jobs, each with and without a slash at its end."""
    jobs = Routes(context)
    router = APIRouter(prefix=PREFIX, responses=RESPONSES)
    body = request_body(form=Asked, file=FILE, json=Create)
    for end in ("", "/"):
        router.post(end, status_code=202, response_model=JobBody, responses=STREAM, openapi_extra=body)(jobs.create)
        router.get(f"/auth{end}", response_class=PlainTextResponse)(jobs.auth)
        router.get(f"/{{job_id}}{end}", response_model=JobBody)(jobs.get)
        router.delete(f"/{{job_id}}{end}", response_class=PlainTextResponse)(jobs.cancel)
    return router


SPEECH_IS_CHEAP = Dialect("speechischeap", PREFIX, routes, error, render)

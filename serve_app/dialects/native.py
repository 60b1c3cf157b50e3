"""The native dialect: the superset of what the core can do. Errors are application/problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator
from sse_starlette import EventSourceResponse, ServerSentEvent

from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, flat, request_body, validated
from serve_app.errors import RequestError
from serve_app.formats import FORMATS
from serve_app.http.auth import CanDelete, CanRead, CanWrite
from serve_app.http.byte_ranges import file_response
from serve_app.http.request_ids import Traced
from serve_app.http.sse import last_event_id, stream
from serve_app.http.uploads import read_json
from serve_app.jobs.results import Results
from serve_app.jobs.submission import Draft
from serve_app.jobs.webhook_payload import Payload
from serve_app.models.event import Event
from serve_app.models.job import Job, JobSpec, Phase, Priority

SIGNING_KEY = r"^whsec_(?:[A-Za-z0-9+/]{4}){8,21}(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?$"
"""Base64 of 24 to 64 bytes, as Standard Webhooks has it."""
RAW = ("audio/", "video/", "application/octet-stream")
"""Types of a body that is the recording itself."""

# Wire models.


class Options(BaseModel):
    """What one may ask of a transcription; the same names in JSON and in form fields."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="A model of GET /v1/models; the first of them when left out.")
    fallbacks: list[str] = Field([], description="Models to try in order where the first fails.")
    language: str | None = Field(None, description="ISO 639-1 code; detected when left out.")
    task: Literal["transcribe", "translate"] = Field("transcribe", description="Translate means: into English.")
    prompt: str | None = Field(None, max_length=2000, description="Text that the audio might follow on from.")
    hotwords: str | None = Field(None, max_length=2000, description="Words that are likely to be heard.")
    temperature: float = Field(0.0, ge=0.0, le=1.0, description="0 is deterministic.")
    word_timestamps: bool = Field(False, description="Give every word its times and confidence.")
    channels: bool = Field(False, description="Hear each channel apart; segments tell which one they are of.")
    listening: bool = Field(False, description="Make an MP3 to listen to as well.")
    diarize: bool = Field(False, description="Tell speakers apart.")
    redact: bool = Field(False, description="Take out personal data.")
    label_audio: bool = Field(False, description="Label what is heard besides speech.")
    min_confidence: float = Field(0.0, ge=0.0, le=1.0, description="Leave out segments below this confidence.")
    segment_duration: float | None = Field(None, ge=6.0, le=30.0, description="Longest window, in seconds.")
    priority: Priority = Field(Priority.INTERACTIVE, description="Interactive work goes before bulk.")
    webhook: str | None = Field(None, max_length=4096, description="URL to call when the job ends.")
    webhook_secret: str | None = Field(
        None,
        pattern=SIGNING_KEY,
        description="What its calls are signed with (whsec_ and base64), in place of the tenant's secret.",
    )
    metadata: dict[str, str] = Field({}, max_length=20, description="Anything of yours; given back with the job.")
    result_ttl_s: int | None = Field(None, ge=1, le=31_536_000, description="Seconds to keep job and results after the end.")
    max_attempts: int = Field(3, ge=1, le=10, description="Tries before a failure that may pass is final.")

    @field_validator("metadata", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                return orjson.loads(value)
            except orjson.JSONDecodeError:
                raise ValueError("must be a JSON object") from None
        return value


SHOWN = tuple(name for name in Options.model_fields if name not in ("model", "metadata", "webhook_secret"))
"""The options that a job shows as such."""


class Source(BaseModel):
    """Where the audio lies."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=4096, description="An http, https or s3 URL.")


class JobRequest(Options):
    """A job for a source that is fetched. To send a file, use multipart/form-data with the field `file`, or send it as the
    body, with a type of audio or video, and the options in the query."""

    source: Source


class ErrorBody(BaseModel):
    """Why a job failed."""

    code: str
    message: str


class Progress(BaseModel):
    """How far a job is, in seconds of audio."""

    audio_done_s: float
    audio_total_s: float | None
    windows_done: int


class ArtifactBody(BaseModel):
    """A file of a job."""

    name: str
    url: str
    content_type: str
    size: int


class JobBody(BaseModel):
    """A job."""

    id: str
    phase: Phase
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    attempts: int
    max_attempts: int
    model: str
    language: str | None
    duration_s: float | None
    options: dict[str, Any]
    progress: Progress
    queue_position: int | None
    eta_s: float | None
    device: str | None
    error: ErrorBody | None
    artifacts: list[ArtifactBody]
    metadata: dict[str, str]


class JobPage(BaseModel):
    """A page of jobs, newest first. `next_cursor` is null on the last."""

    jobs: list[JobBody]
    next_cursor: str | None


class ModelBody(BaseModel):
    """A model on offer; `object`, `created` and `owned_by` are there for clients of OpenAI's API."""

    id: str
    languages: list[str]
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "murmuration"


class ModelList(BaseModel):
    """The models on offer, the first of which is the default; `object` and `data` say the same in OpenAI's words."""

    models: list[ModelBody]
    object: Literal["list"] = "list"
    data: list[ModelBody]


class Problem(BaseModel):
    """An error."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, str]] = []


# To the core.


def to_spec(options: Options, *, url: str | None = None, filename: str | None = None) -> JobSpec:
    """What was asked for, in the core's words, where no model means the default."""
    asked = options.model_dump(exclude={"source", "model", "fallbacks"})
    return JobSpec(model=options.model or "", fallbacks=tuple(options.fallbacks), url=url, filename=filename, **asked)


def form_options(fields: Mapping[str, list[str]]) -> Options:
    """Options from form fields; EdgeError names those that are wrong."""
    return validated(Options, flat(fields, ("fallbacks",)))


# From the core.


def from_job(job: Job, artifacts: list[ArtifactBody]) -> JobBody:
    """A job as this dialect shows it."""
    spec = job.spec
    return JobBody(
        id=job.id,
        phase=job.phase,
        created_at=datetime.fromtimestamp(job.created_at, UTC),
        started_at=_moment(job.started_at),
        completed_at=_moment(job.completed_at),
        attempts=job.attempts,
        max_attempts=spec.max_attempts,
        model=job.model,
        language=job.language,
        duration_s=job.audio_total_s,
        options={name: getattr(spec, name) for name in SHOWN},
        progress=Progress(
            audio_done_s=job.audio_done_s,
            audio_total_s=job.audio_total_s,
            windows_done=job.checkpoint.next_window,
        ),
        queue_position=job.queue_position,
        eta_s=job.eta_s,
        device=job.device,
        error=ErrorBody(code=job.error.code, message=job.error.message) if job.error else None,
        artifacts=artifacts,
        metadata=spec.metadata,
    )


async def shown(job: Job, results: Results) -> JobBody:
    """A job with its files."""
    at = f"/v1/jobs/{job.id}/artifacts"
    files = await results.files(job)
    return from_job(
        job, [ArtifactBody(name=f.name, url=f"{at}/{f.name}", content_type=f.content_type, size=f.size) for f in files]
    )


async def render(job: Job, results: Results) -> Payload:
    """What a webhook is told: the job without its text, as Standard Webhooks wants it, thin."""
    data = (await shown(job, results)).model_dump(mode="json")
    at = datetime.fromtimestamp(job.completed_at or job.created_at, UTC).isoformat()
    return Payload(orjson.dumps({"type": f"transcription.{job.phase}", "timestamp": at, "data": data}))


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def from_event(event: Event) -> ServerSentEvent:
    """An event as a frame: the core's own words."""
    return ServerSentEvent(id=event.id, event=event.kind.value, data=event.data)


def error(problem: RequestError) -> Response:
    """An error as application/problem+json."""
    body = Problem(
        type=f"urn:murmuration:error:{problem.code}",
        title=problem.code.replace("_", " ").capitalize(),
        status=problem.status,
        detail=problem.message,
        code=problem.code,
        errors=[{"field": name, "message": what} for name, what in problem.fields],
    )
    return JSONResponse(body.model_dump(), problem.status, problem.headers, "application/problem+json")


# Routes.

STATUSES = (400, 401, 403, 404, 409, 410, 413, 415, 422, 429)
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}} for status in STATUSES
}
BODY = request_body(form=Options, file="file", json=JobRequest)
BODY["requestBody"]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}


class Routes:
    """What the paths do."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs

    async def submit(self, request: Request, who: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Submit a recording, by URL (JSON), as a file (multipart) or as the body itself, with the options in the query. The
        job is durable when this answers. Sent again with the same `Idempotency-Key`, the same request is answered with the
        job that it made."""
        async with self._jobs.draft(who, key, trace) as draft:
            spec, sha256 = await self._read(request, draft)
            job = await draft.submit(spec, sha256)
        headers = {"Location": f"/v1/jobs/{job.id}"}
        if job.id != draft.id:
            headers["Idempotent-Replayed"] = "true"
        return Response((await shown(job, self._jobs.results)).model_dump_json(), 202, headers, "application/json")

    async def _read(self, request: Request, draft: Draft) -> tuple[JobSpec, str]:
        """What a submit asks for, with the SHA-256 of what it uploads to `source`, '' where it names a URL."""
        content_type = request.headers.get("content-type", "")
        kind = content_type.lower()
        if request.query_params and not kind.startswith(RAW):
            name = next(iter(request.query_params))
            raise RequestError(
                "invalid_request", "Options are in the body here, not in the query.", ((name, "in the query"),)
            )
        if kind.startswith("application/json"):
            asked = validated(JobRequest, await read_json(request.stream()))
            return to_spec(asked, url=asked.source.url), ""
        if kind.startswith("multipart/form-data"):
            form = await self._context.receive_form(request, draft, "file")
            return to_spec(form_options(form.fields), filename=form.filename), form.sha256
        if kind.startswith(RAW):
            query = {name: request.query_params.getlist(name) for name in request.query_params}
            filename = query.pop("filename", [""])[-1] or None
            options = form_options(query)  # a wrong one is told before the recording is sent
            form = await self._context.receive_raw(request, draft)
            return to_spec(options, filename=filename), form.sha256
        message = "Send application/json with a source, multipart/form-data with a file, or the recording as audio/*."
        raise RequestError("unsupported_media", message)

    async def page(
        self,
        who: CanRead,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Annotated[str | None, Query(max_length=20)] = None,
    ) -> JobPage:
        """List jobs, newest first."""
        page, following = await self._jobs.page(who, limit=limit, cursor=cursor)
        return JobPage(jobs=[await shown(job, self._jobs.results) for job in page], next_cursor=following)

    async def get(self, who: CanRead, job_id: str) -> JobBody:
        """A job as it is now."""
        return await shown(await self._jobs.get_undeleted(who, job_id), self._jobs.results)

    async def events(
        self, who: CanRead, job_id: str, last: Annotated[str | None, Header(alias="Last-Event-ID")] = None
    ) -> Response:
        """Follow a job: `phase`, `progress`, `segment` and finally `done`, from the start or after `Last-Event-ID`. 204,
        on which an EventSource stops coming back, where nothing is left to tell."""
        after = last_event_id(last)
        if not await self._jobs.has_more(who, job_id, after):
            return Response(status_code=204)
        events = await self._jobs.follow(who, job_id, after)
        return stream(events, from_event, self._context.sse_max_age_s)

    async def transcript(self, who: CanRead, job_id: str, format: str = "json") -> Response:
        """The transcript of a completed job: json, text, srt, vtt or tsv."""
        if format not in FORMATS:
            known = ", ".join(FORMATS)
            raise RequestError("invalid_request", f"There is no format {format!r}: use {known}.", (("format", "unknown"),))
        found = await self._jobs.transcript(who, job_id)
        return Response(FORMATS[format].render(found), media_type=FORMATS[format].content_type)

    async def artifact(
        self, who: CanRead, job_id: str, name: str, wanted: Annotated[str | None, Header(alias="Range")] = None
    ) -> Response:
        """A file of a job, whole or a range of its bytes."""
        return file_response(self._jobs.results, await self._jobs.artifact(who, job_id, name), wanted)

    async def cancel(self, who: CanWrite, job_id: str) -> JobBody:
        """Cancel a job: at once if it waits, within a window if it runs."""
        return await shown(await self._jobs.cancel(who, job_id), self._jobs.results)

    async def retry(self, who: CanWrite, job_id: str) -> JobBody:
        """Queue a failed job again while it has attempts left; it goes on from the last window that was committed."""
        return await shown(await self._jobs.retry(who, job_id), self._jobs.results)

    async def delete(self, who: CanDelete, job_id: str, purge: bool = True) -> None:
        """Remove an ended job with its results, audio and events. With `purge=false` it is marked only: it leaves the lists
        and answers 410 until its time is up."""
        await (self._jobs.delete if purge else self._jobs.mark_deleted)(who, job_id)

    async def models(self, _who: CanRead) -> ModelList:
        """The models on offer."""
        models = [ModelBody(id=m.id, languages=list(m.languages)) for m in self._jobs.catalog.models]
        return ModelList(models=models, data=models)

    async def model(self, _who: CanRead, model_id: str) -> ModelBody:
        """One of them, by its name or an alias."""
        name = self._jobs.catalog.model_of(model_id)
        for model in self._jobs.catalog.models:
            if model.id == name:
                return ModelBody(id=model.id, languages=list(model.languages))
        raise RequestError("not_found", f"There is no model {model_id!r} here.")


def routes(context: ApiContext) -> APIRouter:
    """The routes under /v1."""
    native = Routes(context)
    router = APIRouter(prefix="/v1", responses=PROBLEMS)
    router.post("/jobs", status_code=202, response_model=JobBody, openapi_extra=BODY)(native.submit)
    router.get("/jobs", response_model=JobPage)(native.page)
    router.get("/jobs/{job_id}", response_model=JobBody)(native.get)
    router.get("/jobs/{job_id}/events", response_class=EventSourceResponse)(native.events)
    router.get("/jobs/{job_id}/transcript", response_class=PlainTextResponse)(native.transcript)
    router.get("/jobs/{job_id}/artifacts/{name}", response_class=StreamingResponse)(native.artifact)
    router.post("/jobs/{job_id}/cancel", status_code=202, response_model=JobBody)(native.cancel)
    router.post("/jobs/{job_id}/retry", status_code=202, response_model=JobBody)(native.retry)
    router.delete("/jobs/{job_id}", status_code=204)(native.delete)
    router.get("/models", response_model=ModelList)(native.models)
    router.get("/models/{model_id:path}", response_model=ModelBody)(native.model)
    return router


NATIVE = Dialect("native", "/v1", routes, error, render)

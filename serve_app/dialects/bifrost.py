"""Bifrost's asynchronous transcriptions: OpenAI's form, models as `provider/model` with fallbacks, results that expire."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import uuid4

import orjson
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from batching.types import Transcript
from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, flat, given, moment, request_body, validated
from serve_app.dialects.openai_format import ResponseFormat, complaint, shaped, status_of
from serve_app.errors import RequestError, not_found
from serve_app.http.auth import CanRead, CanWrite
from serve_app.http.request_ids import Traced
from serve_app.models.job import Job, JobSpec, State

# Wire models.

IGNORED = ("file_format",)
"""Fields that change nothing here: what a file holds is seen from the file."""
TTL_S = 3600
Model = Annotated[str, Field(pattern=r"^[^/\s]+/\S+$", max_length=200, description="As provider/model.")]


class Asked(BaseModel):
    """The fields of a form."""

    model_config = ConfigDict(extra="forbid")

    model: Model
    fallbacks: Annotated[tuple[Model, ...], Field(max_length=10)] = ()
    stream: bool = False
    language: str | None = None
    prompt: Annotated[str | None, Field(max_length=2000)] = None
    response_format: ResponseFormat = "json"

    @field_validator("fallbacks", mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        if isinstance(values, list) and len(values) == 1 and values[0].startswith("["):
            try:
                return orjson.loads(values[0])
            except orjson.JSONDecodeError:
                raise ValueError("must be valid JSON") from None
        return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


class Extra(BaseModel):
    """What an error is about."""

    provider: str
    model_requested: str
    request_type: Literal["transcription"] = "transcription"


class Complaint(BaseModel):
    """What was wrong."""

    type: str
    code: str
    message: str
    param: str
    event_id: str


class BifrostError(BaseModel):
    """An error; the whole body where a request is refused."""

    event_id: str
    type: str
    is_bifrost_error: bool = True
    status_code: int
    error: Complaint
    extra_fields: Extra


class JobBody(BaseModel):
    """A job; what is not known yet is left out."""

    id: str
    status: Literal["pending", "processing", "completed", "failed"]
    created_at: str
    expires_at: str | None = None
    completed_at: str | None = None
    status_code: int | None = None
    result: dict[str, Any] | str | None = None
    error: BifrostError | None = None


# To the core.


def to_spec(asked: Asked, filename: str | None, ttl_s: int) -> JobSpec:
    """The same in the core's words."""
    return JobSpec(
        model=asked.model,
        fallbacks=asked.fallbacks,
        filename=filename,
        language=asked.language,
        prompt=asked.prompt,
        result_ttl_s=ttl_s,
        echo={"response_format": asked.response_format},
    )


# From the core.

STATUS: dict[State, Any] = {
    State.QUEUED: "pending",
    State.RUNNING: "processing",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}


def from_job(job: Job, transcript: Transcript | None) -> dict[str, Any]:
    """A job as Bifrost shows it. An object of a result tells the model that was used."""
    told: dict[str, Any] = {"id": job.id, "status": STATUS[job.phase.state], "created_at": moment(job.created_at)}
    if job.completed_at is not None:
        told |= {"completed_at": moment(job.completed_at), "expires_at": moment(job.expires_at)}
    if transcript is not None:
        form: Any = job.spec.echo["response_format"]
        result = shaped(transcript, form)
        if isinstance(result, dict):
            result["extra_fields"] = _about(job.spec.requested_model) | {"model_used": job.model}
        told |= {"status_code": 200, "result": result}
    if job.error:
        problem = RequestError(job.error.code, job.error.message)
        told |= {"status_code": status_of(problem), "error": _error(problem, job.id, job.spec.requested_model)}
    return told


def _about(model: str) -> dict[str, str]:
    provider, slash, _ = model.partition("/")
    return {"provider": provider if slash else "", "model_requested": model, "request_type": "transcription"}


def _error(problem: RequestError, event_id: str, model: str = "") -> dict[str, Any]:
    said = {name: value or "" for name, value in complaint(problem).items()}
    return {
        "event_id": event_id,
        "type": said["type"],
        "is_bifrost_error": True,
        "status_code": status_of(problem),
        "error": {**said, "event_id": event_id},
        "extra_fields": _about(model),
    }


def error(problem: RequestError) -> Response:
    """An error as Bifrost writes it."""
    return JSONResponse(_error(problem, uuid4().hex), status_of(problem), problem.headers)


# Routes.

PREFIX = "/v1/async/audio/transcriptions"
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": BifrostError} for status in (400, 401, 403, 404, 405, 409, 410, 413, 429)
}
Ttl = Annotated[
    int,
    Header(alias="x-bf-async-job-result-ttl", ge=1, le=31_536_000, description="Seconds to keep a result after its end."),
]


class Routes:
    """What the paths do."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("bifrost", "{}")

    async def create(
        self, request: Request, who: CanWrite, trace: Traced, ttl_s: Ttl = TTL_S, key: IdempotencyKey = None
    ) -> Response:
        """Create an asynchronous transcription."""
        kind = request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise RequestError("malformed", "Send multipart/form-data with a model and a file.")
        async with self._jobs.draft(who, key, trace) as draft:
            form = await self._context.receive_form(request, draft, "file")
            asked = validated(Asked, given(flat(form.fields, ("fallbacks",), IGNORED)))
            if asked.stream:
                message = "stream is not supported by asynchronous transcriptions: leave it out, and poll."
                raise RequestError("malformed", message, (("stream", "not supported"),))
            job = await draft.submit(to_spec(asked, form.filename, ttl_s), form.sha256)
        return JSONResponse(await self._shown(job), 202)

    async def get(self, who: CanRead, job_id: str) -> Response:
        """A job: 202 while it is pending or processing, 200 once it has ended."""
        job = await self._jobs.get(who, job_id)
        if job.deleted_at is not None or (job.expires_at or math.inf) <= time.time():
            raise not_found()
        status = 200 if job.phase.final else 202
        return JSONResponse(await self._shown(job), status, {"x-bf-model-used": quote(job.model, safe="/:@")})

    async def _shown(self, job: Job) -> dict[str, Any]:
        return from_job(job, await self._jobs.results.transcript_or_none(job))


def routes(context: ApiContext) -> APIRouter:
    """The routes under /v1/async/audio/transcriptions."""
    bifrost = Routes(context)
    router = APIRouter(prefix=PREFIX, responses=RESPONSES)
    router.post("", status_code=202, response_model=JobBody, openapi_extra=request_body(form=Asked, file="file"))(
        bifrost.create
    )
    router.get("/{job_id}", response_model=JobBody, responses={202: {"model": JobBody}})(bifrost.get)
    return router


BIFROST = Dialect("bifrost", PREFIX, routes, error)

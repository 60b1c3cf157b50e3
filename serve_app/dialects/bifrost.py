"""Bifrost's asynchronous transcriptions: `provider/model` with fallbacks, results that expire."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import uuid4

import orjson
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from batching.types import Transcript
from serve_app.dialects.base import (
    ApiContext,
    Dialect,
    IdempotencyKey,
    JobId,
    flat,
    moment,
    request_body,
    validated,
    validated_so_far,
    without_blanks,
)
from serve_app.dialects.openai_format import ResponseFormat, error_body, from_transcript, status_of
from serve_app.errors import RequestError, not_found
from serve_app.http.auth import CanRead, CanWrite
from serve_app.http.json_response import json_response
from serve_app.http.openapi import UPLOAD, content, errors, header, operation_id
from serve_app.http.parameters import is_multipart
from serve_app.http.request_ids import Traced
from serve_app.http.uploads import Form
from serve_app.models.job import Job, JobSpec, State

# Wire models.

IGNORED = ("file_format",)  # form fields without effect: the format is detected from the file
RESULT_TTL_S = 3600
Model = Annotated[str, Field(pattern=r"^[^/\s]+/\S+$", max_length=200, description="As provider/model.")]


class BifrostTranscriptionForm(BaseModel):
    """Form fields of a transcription, beside its file."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "openai/whisper-1", "language": "en"}]}
    )

    model: Model
    fallbacks: Annotated[tuple[Model, ...], Field(max_length=8)] = ()
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


class BifrostErrorExtraFields(BaseModel):
    """Request that an error is about."""

    provider: str
    model_requested: str
    request_type: Literal["transcription"] = "transcription"


class BifrostErrorDetail(BaseModel):
    """Error in OpenAI's form."""

    type: str
    code: str
    message: str
    param: str
    event_id: str


class BifrostError(BaseModel):
    """Error: the body of a refused request, or the field of a failed job."""

    event_id: str
    type: str
    is_bifrost_error: bool = True
    status_code: int
    error: BifrostErrorDetail
    extra_fields: BifrostErrorExtraFields


class BifrostJob(BaseModel):
    """Job; fields that are not known yet are absent."""

    id: str
    status: Literal["pending", "processing", "completed", "failed"]
    created_at: str
    expires_at: str | None = None
    completed_at: str | None = None
    status_code: int | None = None
    result: dict[str, Any] | str | None = None
    error: BifrostError | None = None


# To the core.


def form_fields(upload: Form) -> dict[str, Any]:
    """Fields of a form that are set. Raises RequestError."""
    fields: dict[str, Any] = without_blanks(flat(upload.fields, ("fallbacks",), IGNORED))
    return fields


def to_spec(form: BifrostTranscriptionForm, filename: str | None, ttl_s: int) -> JobSpec:
    """Form -> job spec. Raises RequestError."""
    if form.stream:
        message = "stream is not supported by asynchronous transcriptions: leave it out, and poll."
        raise RequestError("malformed", message, (("stream", "not supported"),))
    return JobSpec(
        model=form.model,
        fallbacks=form.fallbacks,
        filename=filename,
        language=form.language,
        prompt=form.prompt,
        result_ttl_s=ttl_s,
        echo={"response_format": form.response_format},
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
    """`BifrostJob` of a job. A result that is an object names the model used."""
    body: dict[str, Any] = {"id": job.id, "status": STATUS[job.phase.state], "created_at": moment(job.created_at)}
    if job.completed_at is not None:
        body |= {"completed_at": moment(job.completed_at), "expires_at": moment(job.expires_at)}
    if transcript is not None:
        response_format: Any = job.spec.echo["response_format"]
        result = from_transcript(transcript, response_format)
        if isinstance(result, dict):
            result["extra_fields"] = _extra_fields(job.spec.requested_model) | {"model_used": job.model}
        body |= {"status_code": 200, "result": result}
    if job.error:
        problem = RequestError(job.error.code, job.error.message)
        body |= {"status_code": status_of(problem), "error": _error(problem, job.id, job.spec.requested_model)}
    return body


def _extra_fields(model: str) -> dict[str, str]:
    provider, slash, _ = model.partition("/")
    return {"provider": provider if slash else "", "model_requested": model, "request_type": "transcription"}


def _error(problem: RequestError, event_id: str, model: str = "") -> dict[str, Any]:
    detail = {name: value or "" for name, value in error_body(problem).items()}
    return {
        "event_id": event_id,
        "type": detail["type"],
        "is_bifrost_error": True,
        "status_code": status_of(problem),
        "error": {**detail, "event_id": event_id},
        "extra_fields": _extra_fields(model),
    }


def error(problem: RequestError) -> Response:
    """`BifrostError` of a refused request."""
    return JSONResponse(_error(problem, uuid4().hex), status_of(problem), problem.headers)


# Routes.

PREFIX = "/v1/async/audio/transcriptions"
Ttl = Annotated[
    int | None,
    Header(alias="x-bf-async-job-result-ttl", ge=1, le=31_536_000, description="Seconds to keep a result after its end."),
]


class Routes:
    """Route handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("bifrost", "{}")

    async def create(
        self,
        request: Request,
        principal: CanWrite,
        trace: Traced,
        ttl_s: Ttl = None,
        key: IdempotencyKey = None,
    ) -> Response:
        """Create an asynchronous transcription."""
        if not is_multipart(request):
            raise RequestError("malformed", "Send multipart/form-data with a model and a file.")
        async with self._jobs.draft(principal, key, trace) as draft:
            kept_s = ttl_s or int(min(RESULT_TTL_S, self._jobs.max_result_ttl_s))

            def check(upload: Form) -> None:
                if form := validated_so_far(BifrostTranscriptionForm, form_fields(upload)):
                    self._jobs.resolve(principal, to_spec(form, upload.filename, kept_s))

            upload = await self._context.receive_form(request, draft, "file", check=check)
            form = validated(BifrostTranscriptionForm, form_fields(upload))
            job = await draft.submit(to_spec(form, upload.filename, kept_s), upload.sha256)
        return await self._respond(job, 202)

    async def get(self, principal: CanRead, job_id: JobId) -> Response:
        """Get a job: 202 while it is pending or processing, 200 once it has ended."""
        job = await self._jobs.get(principal, job_id)
        if job.deleted_at is not None or (job.expires_at or math.inf) <= time.time():
            raise not_found()
        status = 200 if job.phase.final else 202
        return await self._respond(job, status, {"x-bf-model-used": quote(job.model, safe="/:@")})

    async def _respond(self, job: Job, status: int, headers: Mapping[str, str] | None = None) -> Response:
        transcript = await self._jobs.results.transcript_or_none(job)
        return await json_response(lambda: from_job(job, transcript), status, headers)


def routes(context: ApiContext) -> APIRouter:
    """The routes under /v1/async/audio/transcriptions."""
    bifrost = Routes(context)
    router = APIRouter(
        prefix=PREFIX,
        tags=["Bifrost"],
        responses=errors(BifrostError, 400, 401, 403, 404, 405, 429),
        generate_unique_id_function=operation_id,
    )
    router.post(
        "",
        status_code=202,
        summary="Create a transcription",
        response_model=BifrostJob,
        response_description="The job.",
        openapi_extra=request_body(form=BifrostTranscriptionForm, file="file"),
        responses=errors(BifrostError, *UPLOAD),
    )(bifrost.create)
    used = {"x-bf-model-used": header("Model at work.")}
    pending = {"description": "The job, which is pending or processing.", "headers": used, "content": content(BifrostJob)}
    router.get(
        "/{job_id}",
        summary="Get a transcription",
        response_model=BifrostJob,
        responses={200: {"description": "The job, which has ended.", "headers": used}, 202: pending},
    )(bifrost.get)
    return router


BIFROST = Dialect(
    "bifrost",
    PREFIX,
    routes,
    error,
    key_header="x-bf-vk",
    tags={"Bifrost": "Bifrost's asynchronous transcriptions: OpenAI's form, `provider/model` with fallbacks."},
)

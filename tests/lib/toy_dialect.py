"""A vendor in one file: prefix, wire model, error form, webhook payload, key header and settings of its own."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from batching.types import Transcript
from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, JobId, request_body, validated
from serve_app.errors import RequestError
from serve_app.http.auth import CanRead, CanWrite
from serve_app.http.openapi import errors, operation_id
from serve_app.http.request_ids import Traced
from serve_app.http.uploads import read_json
from serve_app.jobs.results import Results
from serve_app.jobs.webhook_payload import Payload
from serve_app.models.job import Job, JobSpec

PREFIX = "/toy/recordings"


class ToySettings(BaseSettings):
    """Settings of the toy."""

    model_config = SettingsConfigDict(env_prefix="MURMUR_", frozen=True, extra="ignore")

    toy_greeting: str = Field(default="hello", max_length=20, description="Greeting of every response.")


class ToyRequest(BaseModel):
    """Recording to transcribe."""

    model_config = ConfigDict(extra="forbid")

    link: str
    hook: str | None = None


class ToyRecording(BaseModel):
    """Recording, and its text once it is transcribed."""

    greeting: str
    key: str
    state: str
    words: list[str]


class ToyError(BaseModel):
    """Error."""

    oops: str


class Routes:
    """Route handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._jobs = context.jobs.for_dialect("toy", "toy-{.hex}")
        self._greeting = context.settings("toy", ToySettings).toy_greeting

    async def submit(self, request: Request, principal: CanWrite, trace: Traced, key: IdempotencyKey = None) -> ToyRecording:
        """Transcribe a recording."""
        body = validated(ToyRequest, await read_json(request.stream()))
        async with self._jobs.draft(principal, key, trace) as draft:
            job = await draft.submit(to_spec(body))
        return await self._recording(job)

    async def get(self, principal: CanRead, job_id: JobId) -> ToyRecording:
        """Read a recording."""
        return await self._recording(await self._jobs.get(principal, job_id))

    async def _recording(self, job: Job) -> ToyRecording:
        return from_job(job, await self._jobs.results.transcript_or_none(job), self._greeting)


def to_spec(body: ToyRequest) -> JobSpec:
    """Translate a request."""
    return JobSpec("", url=body.link, webhook=body.hook)


def from_job(job: Job, transcript: Transcript | None, greeting: str) -> ToyRecording:
    """Translate a job."""
    words = transcript.text.split() if transcript else []
    return ToyRecording(greeting=greeting, key=job.id, state=job.phase, words=words)


async def render(job: Job, _: Results) -> Payload:
    """Webhook payload."""
    return Payload(orjson.dumps({"key": job.id, "state": job.phase}))


def error(problem: RequestError) -> Response:
    """An error in the toy's form."""
    return JSONResponse({"oops": problem.code}, problem.plain_status, problem.headers)


def routes(context: ApiContext) -> APIRouter:
    """Routes of the toy."""
    toy = Routes(context)
    responses = errors(ToyError, 400, 401, 403, 404, 429)
    router = APIRouter(prefix=PREFIX, tags=["Toy"], responses=responses, generate_unique_id_function=operation_id)
    router.post("", status_code=202, summary="Transcribe", openapi_extra=request_body(json=ToyRequest))(toy.submit)
    router.get("/{job_id}", summary="Read")(toy.get)
    return router


TOY = Dialect(
    "toy",
    PREFIX,
    routes,
    error,
    render,
    key_header="x-toy-key",
    settings=ToySettings,
    tags={"Toy": "A toy."},
)

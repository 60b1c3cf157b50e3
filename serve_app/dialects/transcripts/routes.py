"""Transcripts API: one object for status and text, lists with a cursor, a webhook."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter

from batching.types import Transcript
from serve_app.dialects.base import (
    ApiContext,
    Dialect,
    IdempotencyKey,
    PageSize,
    flat,
    moment,
    request_body,
    validated,
    validated_so_far,
    without_blanks,
)
from serve_app.dialects.openai_format import OpenAIError, error_body, plain, status_of
from serve_app.dialects.transcripts.wire import (
    Status,
    TranscriptsTranscript,
    TranscriptsTranscriptList,
    TranscriptsTranscriptRequest,
    TranscriptsUploadForm,
)
from serve_app.errors import RequestError
from serve_app.http.auth import CanDelete, CanRead, CanWrite
from serve_app.http.json_response import json_response
from serve_app.http.openapi import UPLOAD, Responses, errors, operation_id
from serve_app.http.parameters import is_json, is_multipart, parse_json_field, utc_seconds
from serve_app.http.request_ids import Traced
from serve_app.http.uploads import Form, json_body
from serve_app.jobs.results import Results
from serve_app.jobs.submission import Draft
from serve_app.jobs.webhook_payload import Payload
from serve_app.models.job import Job, JobSpec, State
from serve_app.models.listing import JobQuery

# To the core.

LISTS = ("redact", "vocabulary")  # repeated form fields, or one that holds a JSON array
TIMESTAMP = TypeAdapter(datetime)


def form_fields(form: Form) -> dict[str, Any]:
    """Fields of a form, the JSON ones parsed. Raises RequestError."""
    fields: dict[str, Any] = without_blanks(flat(form.fields, LISTS))
    for name, value in fields.items():
        text = value[0] if name in LISTS and len(value) == 1 else value
        if name == "metadata" or (name in LISTS and isinstance(text, str) and text.startswith("[")):
            fields[name] = parse_json_field(name, text)
    return fields


def to_spec(options: TranscriptsUploadForm, *, url: str | None = None, filename: str | None = None) -> JobSpec:
    """Options -> job spec."""
    return JobSpec(
        model=options.model,
        url=url,
        filename=filename,
        language=options.language,
        hotwords=", ".join(options.vocabulary) or None,
        word_timestamps=options.word_timestamps,
        diarize=options.diarize,
        redact=bool(options.redact),
        webhook=options.webhook_url,
        metadata=options.metadata,
    )


def seconds(value: str | None, name: str) -> float | None:
    """Parse Unix seconds or an ISO 8601 time, UTC by default. Raises RequestError."""
    if not value:
        return None
    try:
        return utc_seconds(TIMESTAMP.validate_python(value))
    except (ValueError, OverflowError):
        message = f"{name} must be Unix seconds or an ISO 8601 time."
        raise RequestError("invalid_request", message, ((name, "not a time"),)) from None


# From the core.

STATUS: dict[State, Status] = {
    State.QUEUED: "queued",
    State.RUNNING: "processing",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}


def from_job(job: Job, transcript: Transcript | None) -> dict[str, Any]:
    """`TranscriptsTranscript` of a job."""
    segments = transcript.segments if transcript else ()
    words = [word for segment in segments for word in segment.words or ()]
    return {
        "id": job.id,
        "object": "transcript",
        "status": STATUS[job.phase.state],
        "created": int(job.created_at),
        "model": job.spec.requested_model or job.model,
        "language": transcript.language if transcript else job.language,
        "duration": transcript.duration_s if transcript else job.audio_total_s,
        "text": plain(transcript) if transcript else None,
        "utterances": [
            {"speaker": 0, "start": s.start, "end": s.end, "text": s.text.strip(), "confidence": s.confidence}
            for s in segments
        ],
        "words": [{"word": w.text.strip(), "start": w.start, "end": w.end, "confidence": w.confidence} for w in words],
        "redactions": [],
        "metadata": job.spec.metadata,
        "error": {"code": job.error.code, "message": job.error.message} if job.error else None,
    }


async def render(job: Job, results: Results) -> Payload:
    """Webhook body: the whole transcript object."""
    # In a thread: the transcript of a whole day takes long, and the Runner's loop must go on.
    return Payload(await asyncio.to_thread(_webhook_body, job, await results.transcript_or_none(job)))


def _webhook_body(job: Job, transcript: Transcript | None) -> bytes:
    body = {
        "type": f"transcript.{STATUS[job.phase.state]}",
        "timestamp": moment(job.completed_at),
        "data": from_job(job, transcript),
    }
    return orjson.dumps(body)


def error(problem: RequestError) -> Response:
    """Error in OpenAI's form, with this API's names of fields."""
    body = error_body(problem)
    body["param"] = {"webhook": "webhook_url", "url": "audio_url"}.get(body["param"], body["param"])
    return JSONResponse({"error": body}, status_of(problem), problem.headers)


# Routes.

PREFIX = "/v1/transcripts"
TranscriptId = Annotated[str, Path(description="Id of the transcript.")]


class Routes:
    """Route handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("transcripts", "transcript_{.hex}")

    async def create(self, request: Request, principal: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Create a transcript of `audio_url` (JSON) or `audio_file` (multipart)."""
        async with self._jobs.draft(principal, key, trace) as draft:
            spec, sha256 = await self._read_body(request, draft)
            job = await draft.submit(spec, sha256)
        return await self._respond(job, 202)

    async def _read_body(self, request: Request, draft: Draft) -> tuple[JobSpec, str]:
        if is_json(request):
            body = validated(TranscriptsTranscriptRequest, without_blanks(await json_body(request)))
            return to_spec(body, url=body.audio_url), ""
        if not is_multipart(request):
            raise RequestError("malformed", "Send application/json with audio_url, or multipart/form-data with audio_file.")

        def check(form: Form) -> None:
            # Their form has no field of JSON bodies alone; whether there is a file too many is told at the end.
            fields = {name: value for name, value in form_fields(form).items() if name != "audio_url"}
            if options := validated_so_far(TranscriptsUploadForm, fields):
                self._jobs.resolve(draft.principal, to_spec(options, filename=form.filename))

        form = await self._context.receive_form(request, draft, "audio_file", required=False, check=check)
        fields = form_fields(form)
        if (form.filename is None) == ("audio_url" not in fields):
            message = "Exactly one of audio_url and audio_file is required."
            raise RequestError("malformed", message, (("audio_url", "exactly one"), ("audio_file", "exactly one")))
        if form.filename is None:
            body = validated(TranscriptsTranscriptRequest, fields)
            return to_spec(body, url=body.audio_url), ""
        return to_spec(validated(TranscriptsUploadForm, fields), filename=form.filename), form.sha256

    async def page(
        self,
        principal: CanRead,
        limit: PageSize = 20,
        cursor: Annotated[
            str | None, Query(pattern=r"^[0-9]{0,16}$", description="`next_cursor` of the previous page.")
        ] = None,
        status: Annotated[Status | Literal[""] | None, Query(description="Only transcripts in this status.")] = None,
        created_after: Annotated[
            str | None, Query(max_length=40, description="Only transcripts created after this time.")
        ] = None,
        created_before: Annotated[
            str | None, Query(max_length=40, description="Only transcripts created before this time.")
        ] = None,
    ) -> TranscriptsTranscriptList:
        """List transcripts without their text, newest first. Times are Unix seconds or ISO 8601."""
        query = JobQuery(
            states=tuple(state for state in State if status in (None, "", STATUS[state])),
            made_after=seconds(created_after, "created_after"),
            made_before=seconds(created_before, "created_before"),
            after=int(cursor) if cursor else None,
            limit=limit,
        )
        page = await self._jobs.query(principal, query)
        return TranscriptsTranscriptList(
            data=[TranscriptsTranscript.model_validate(from_job(job, None)) for job in page.jobs],
            has_more=page.next is not None,
            next_cursor=None if page.next is None else str(page.next),
        )

    async def get(self, principal: CanRead, transcript_id: TranscriptId) -> Response:
        """Get a transcript, with its text once it is completed."""
        job = await self._jobs.get_undeleted(principal, transcript_id)
        return await self._respond(job)

    async def _respond(self, job: Job, status: int = 200) -> Response:
        transcript = await self._jobs.results.transcript_or_none(job)
        return await json_response(lambda: from_job(job, transcript), status)

    async def delete(self, principal: CanDelete, transcript_id: TranscriptId) -> None:
        """Remove a transcript and its recording for good, cancelling it first if need be."""
        await self._jobs.delete_when_ended(principal, transcript_id)


def routes(context: ApiContext) -> APIRouter:
    """The routes under /v1/transcripts."""
    transcripts = Routes(context)
    router = APIRouter(
        prefix=PREFIX,
        tags=["Transcripts"],
        responses=errors(OpenAIError, 400, 401, 403, 405, 429),
        generate_unique_id_function=operation_id,
    )
    router.post(
        "",
        status_code=202,
        summary="Create a transcript",
        response_model=TranscriptsTranscript,
        response_description="The transcript, which is queued.",
        openapi_extra=request_body(form=TranscriptsUploadForm, file="audio_file", json=TranscriptsTranscriptRequest),
        responses=errors(OpenAIError, 404, *UPLOAD),
    )(transcripts.create)
    router.get(
        "",
        name="list",
        summary="List transcripts",
        response_model=TranscriptsTranscriptList,
        response_description="The page.",
    )(transcripts.page)
    router.get(
        "/{transcript_id}",
        summary="Get a transcript",
        response_model=TranscriptsTranscript,
        response_description="The transcript.",
        responses=errors(OpenAIError, 404, 410),
    )(transcripts.get)
    deleted: Responses = {204: {"description": "It is deleted."}, **errors(OpenAIError, 404)}
    router.delete("/{transcript_id}", status_code=204, summary="Delete a transcript", responses=deleted)(transcripts.delete)
    return router


TRANSCRIPTS = Dialect(
    "transcripts",
    PREFIX,
    routes,
    error,
    render,
    tags={"Transcripts": "The Transcripts API: one object for status and text, lists with a cursor, a webhook at the end."},
)

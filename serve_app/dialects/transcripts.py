"""Transcripts: one object that is queued, processed and completed; lists with a cursor; a webhook at the end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from batching.types import Transcript
from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, flat, given, moment, request_body, validated
from serve_app.dialects.openai_format import complaint, plain, status_of
from serve_app.errors import RequestError
from serve_app.http.auth import CanDelete, CanRead, CanWrite
from serve_app.http.request_ids import Traced
from serve_app.http.uploads import Form, read_json
from serve_app.jobs.results import Results
from serve_app.jobs.submission import Draft
from serve_app.jobs.webhook_payload import Payload
from serve_app.models.job import Job, JobSpec, State
from serve_app.models.listing import JobQuery

# Wire models.

Status = Literal["queued", "processing", "completed", "failed"]
LISTS = ("redact", "vocabulary")
"""What may come several times in a form, or once as a JSON array."""
MOST_LETTERS = 800
"""Of a vocabulary: Whisper takes in half of its 448 tokens."""


class Asked(BaseModel):
    """What may be asked of a transcript."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=200)] = ""
    language: str | None = None
    diarize: bool = False
    word_timestamps: bool = False
    redact: tuple[Literal["pii", "phi", "pci"], ...] = ()
    vocabulary: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(max_length=100)] = ()
    webhook_url: Annotated[str | None, Field(max_length=4096)] = None
    metadata: Annotated[dict[str, str], Field(max_length=20)] = {}

    @field_validator("vocabulary")
    @classmethod
    def _short(cls, terms: tuple[str, ...]) -> tuple[str, ...]:
        if sum(len(term) + 2 for term in terms) > MOST_LETTERS:
            raise ValueError(f"must come to at most {MOST_LETTERS} characters: the decoder is told no more")
        return terms


class Create(Asked):
    """The same for a recording that is fetched."""

    audio_url: Annotated[str, Field(max_length=4096)]


class Utterance(BaseModel):
    """A sentence; times in seconds. All are speaker 0 while speakers are not told apart."""

    speaker: int
    start: float
    end: float
    text: str
    confidence: float


class WordBody(BaseModel):
    """A word; times in seconds."""

    word: str
    start: float
    end: float
    confidence: float


class Redaction(BaseModel):
    """A part that was taken out."""

    entity: str
    start: float
    end: float


class Failure(BaseModel):
    """Why a transcript failed."""

    code: str
    message: str


class TranscriptBody(BaseModel):
    """The transcript object. What was heard is null or empty until it is completed, and in lists."""

    id: str
    object: Literal["transcript"]
    status: Status
    created: int
    model: str
    language: str | None
    duration: float | None
    text: str | None
    utterances: list[Utterance]
    words: list[WordBody]
    redactions: list[Redaction]
    metadata: dict[str, str]
    error: Failure | None


class Page(BaseModel):
    """A page of transcripts, newest first."""

    object: Literal["list"] = "list"
    data: list[TranscriptBody]
    has_more: bool
    next_cursor: str | None


def fields_of(form: Form) -> dict[str, Any]:
    """A form's fields, those that are JSON taken apart. EdgeError names what is none."""
    fields: dict[str, Any] = given(flat(form.fields, LISTS))
    for name, value in fields.items():
        text = value[0] if name in LISTS and len(value) == 1 else value
        if name == "metadata" or (name in LISTS and isinstance(text, str) and text.startswith("[")):
            try:
                fields[name] = orjson.loads(text)
            except orjson.JSONDecodeError:
                raise RequestError("invalid_request", f"{name} must be valid JSON.", ((name, "no JSON"),)) from None
    return fields


# To the core.


def to_spec(asked: Asked, *, url: str | None = None, filename: str | None = None) -> JobSpec:
    """The same in the core's words."""
    return JobSpec(
        model=asked.model,
        url=url,
        filename=filename,
        language=asked.language,
        hotwords=", ".join(asked.vocabulary) or None,
        word_timestamps=asked.word_timestamps,
        diarize=asked.diarize,
        redact=bool(asked.redact),
        webhook=asked.webhook_url,
        metadata=asked.metadata,
    )


# From the core.

STATUS: dict[State, Status] = {
    State.QUEUED: "queued",
    State.RUNNING: "processing",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}


def from_job(job: Job, transcript: Transcript | None) -> dict[str, Any]:
    """A job as a transcript object."""
    heard = transcript or Transcript((), job.language, 0.0)
    words = [word for segment in heard.segments for word in segment.words or ()]
    return {
        "id": job.id,
        "object": "transcript",
        "status": STATUS[job.phase.state],
        "created": int(job.created_at),
        "model": job.spec.requested_model or job.model,
        "language": heard.language,
        "duration": transcript.duration_s if transcript else job.audio_total_s,
        "text": plain(transcript) if transcript else None,
        "utterances": [
            {"speaker": 0, "start": s.start, "end": s.end, "text": s.text.strip(), "confidence": s.confidence}
            for s in heard.segments
        ],
        "words": [{"word": w.text.strip(), "start": w.start, "end": w.end, "confidence": w.confidence} for w in words],
        "redactions": [],
        "metadata": job.spec.metadata,
        "error": {"code": job.error.code, "message": job.error.message} if job.error else None,
    }


async def shown(job: Job, results: Results) -> dict[str, Any]:
    """A job with what was heard."""
    return from_job(job, await results.transcript_or_none(job))


async def render(job: Job, results: Results) -> Payload:
    """What a webhook is told: the whole object."""
    body = {
        "type": f"transcript.{STATUS[job.phase.state]}",
        "timestamp": moment(job.completed_at),
        "data": await shown(job, results),
    }
    return Payload(orjson.dumps(body))


def error(problem: RequestError) -> Response:
    """An error as OpenAI writes it: this API shows none of its own."""
    told = complaint(problem)
    told["param"] = {"webhook": "webhook_url", "url": "audio_url"}.get(told["param"], told["param"])
    return JSONResponse({"error": told}, status_of(problem), problem.headers)


# Routes.

PREFIX = "/v1/transcripts"
ERROR = {"description": "Why not.", "content": {"application/json": {"schema": {"type": "object", "required": ["error"]}}}}
RESPONSES: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 403, 404, 405, 409, 410, 413, 429), ERROR)
MOMENT = TypeAdapter(datetime)


class Routes:
    """What the paths do."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("transcripts", "transcript_{.hex}")

    async def create(self, request: Request, who: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Create a transcript, of `audio_url` (JSON) or `audio_file` (multipart)."""
        async with self._jobs.draft(who, key, trace) as draft:
            spec, sha256 = await self._read(request, draft)
            job = await draft.submit(spec, sha256)
        return JSONResponse(await shown(job, self._jobs.results), 202)

    async def _read(self, request: Request, draft: Draft) -> tuple[JobSpec, str]:
        content_type = request.headers.get("content-type", "")
        if content_type.lower().startswith("application/json"):
            asked = validated(Create, given(await read_json(request.stream())))
            return to_spec(asked, url=asked.audio_url), ""
        if not content_type.lower().startswith("multipart/form-data"):
            raise RequestError("malformed", "Send application/json with audio_url, or multipart/form-data with audio_file.")
        form = await self._context.receive_form(request, draft, "audio_file", required=False)
        fields = fields_of(form)
        if (form.filename is None) == ("audio_url" not in fields):
            message = "Exactly one of audio_url and audio_file is required."
            raise RequestError("malformed", message, (("audio_url", "exactly one"), ("audio_file", "exactly one")))
        if form.filename is None:
            asked = validated(Create, fields)
            return to_spec(asked, url=asked.audio_url), ""
        return to_spec(validated(Asked, fields), filename=form.filename), form.sha256

    async def page(
        self,
        who: CanRead,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Annotated[str | None, Query(pattern=r"^[0-9]{0,16}$")] = None,
        status: Status | Literal[""] | None = None,
        created_after: Annotated[str | None, Query(max_length=40)] = None,
        created_before: Annotated[str | None, Query(max_length=40)] = None,
    ) -> Page:
        """Transcripts, newest first, without what was heard; times are Unix seconds or ISO 8601."""
        wanted = JobQuery(
            states=tuple(state for state in State if status in (None, "", STATUS[state])),
            made_after=seconds(created_after, "created_after"),
            made_before=seconds(created_before, "created_before"),
            after=int(cursor) if cursor else None,
            limit=limit,
        )
        page = await self._jobs.query(who, wanted)
        data = [TranscriptBody.model_validate(from_job(job, None)) for job in page.jobs]
        return Page(data=data, has_more=page.next is not None, next_cursor=None if page.next is None else str(page.next))

    async def get(self, who: CanRead, transcript_id: str) -> Response:
        """A transcript with what was heard."""
        return JSONResponse(await shown(await self._jobs.get_undeleted(who, transcript_id), self._jobs.results))

    async def delete(self, who: CanDelete, transcript_id: str) -> None:
        """Remove a transcript and its recording for good; one that is not done is cancelled first."""
        await self._jobs.delete_when_ended(who, transcript_id)


def seconds(value: str | None, name: str) -> float | None:
    """A time that a query names, in UTC if it names no zone. EdgeError where it is none."""
    if not value:
        return None
    try:
        at = MOMENT.validate_python(value)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        message = f"{name} must be Unix seconds or a time as ISO 8601 has it."
        raise RequestError("invalid_request", message, ((name, "not a time"),)) from None


def routes(context: ApiContext) -> APIRouter:
    """The routes under /v1/transcripts."""
    transcripts = Routes(context)
    router = APIRouter(prefix=PREFIX, responses=RESPONSES)
    body = request_body(form=Asked, file="audio_file", json=Create)
    router.post("", status_code=202, response_model=TranscriptBody, openapi_extra=body)(transcripts.create)
    router.get("", response_model=Page)(transcripts.page)
    router.get("/{transcript_id}", response_model=TranscriptBody)(transcripts.get)
    router.delete("/{transcript_id}", status_code=204)(transcripts.delete)
    return router


TRANSCRIPTS = Dialect("transcripts", PREFIX, routes, error, render)

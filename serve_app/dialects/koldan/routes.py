"""Koldan's transcriptions: files and jobs, lists with filters, a life that ends in deleted and purged."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from batching.types import Segment, Transcript, Word
from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, flat, moment, request_body, validated
from serve_app.dialects.koldan.text import bare, code_of, tag_of, unpunctuated
from serve_app.errors import RequestError
from serve_app.http.auth import CanDelete, CanRead, CanUpload, CanWrite
from serve_app.http.request_ids import Traced
from serve_app.http.uploads import Form, read_json
from serve_app.jobs.results import Results
from serve_app.jobs.webhook_payload import Payload
from serve_app.models.file import File
from serve_app.models.job import Job, JobSpec, Mark, State, SummaryState
from serve_app.models.listing import JobQuery, SortBy
from serve_app.models.principal import Principal

PREFIX = "/api/v1/speech-services/transcriptions"
RECORD_TTL_S = 2_592_000
"""How long the record of a purged job is kept."""
JSONS = ("metadata", "tags", "transcription", "diarization", "webhook", "summary")
"""Parts of the form that hold JSON."""
DEEPEST = 32
"""Levels of metadata: what is nested deeper may be written, but not read again."""
RESERVED = ("host", "connection", "transfer-encoding", "content-length", "content-type", "upgrade", "te", "expect")
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
HeaderValue = Annotated[str, Field(pattern=r"^([!-~]([ -~]*[!-~])?)?$", max_length=1024)]


# Wire models.


class WireModel(BaseModel):
    """Names in camelCase, and no others than those named; null is as good as nothing."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, sent: Any) -> Any:
        return {name: value for name, value in sent.items() if value is not None} if isinstance(sent, dict) else sent


class LanguageOptions(WireModel):
    """Which language is spoken; heard when left out."""

    default_language_code: Annotated[str | None, Field(max_length=35)] = None


class TranscriptionOptions(WireModel):
    """How to transcribe."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    language: LanguageOptions
    punctuation: bool = True
    capitalization: bool = True


class ChannelMapping(WireModel):
    """Who speaks on a channel."""

    channel: Annotated[int, Field(ge=0, le=7)]
    label: Annotated[str, Field(min_length=1, max_length=100)]


class DiarizationOptions(WireModel):
    """How to tell speakers apart."""

    enabled: bool
    mode: Literal["SPEAKER", "CHANNEL"] = "SPEAKER"
    max_speakers: Annotated[int | None, Field(ge=1, le=100)] = None
    channel_mapping: Annotated[list[ChannelMapping], Field(max_length=8)] = []


class Webhook(WireModel):
    """Where to tell the end of a job, and how to sign that."""

    url: Annotated[str, Field(max_length=4096)]
    secret: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=20)] = {}

    @field_validator("headers")
    @classmethod
    def _free(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if name.lower() in RESERVED or name.lower().startswith(("webhook-", "x-webhook-")):
                raise ValueError(f"the header {name} is not yours to set")
        return headers


class SummaryOptions(WireModel):
    """A summary of what was said."""

    prompt_template_id: Annotated[str, Field(min_length=1, max_length=200)]


class JobRequest(WireModel):
    """A job for a file that was uploaded."""

    file_id: UUID
    transcription: TranscriptionOptions
    diarization: DiarizationOptions | None = None
    webhook: Webhook | None = None


class UploadRequest(WireModel):
    """The parts of an upload beside its file."""

    uri: Annotated[str | None, Field(max_length=4096)] = None
    name: Annotated[str, Field(min_length=1, max_length=255)]
    description: Annotated[str | None, Field(max_length=4096)] = None
    path: Annotated[str, Field(pattern=r"^/([^/]+/)*$", max_length=1024)] = "/"
    metadata: dict[str, Any] = {}
    tags: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=50)] = []
    generate_listening_audio: bool = True
    transcription: TranscriptionOptions
    diarization: DiarizationOptions | None = None
    webhook: Webhook | None = None
    summary: SummaryOptions | None = None

    @field_validator("metadata")
    @classmethod
    def _shallow(cls, value: dict[str, Any]) -> dict[str, Any]:
        if _depth(value) > DEEPEST:
            raise ValueError(f"must not be nested more than {DEEPEST} deep")
        return value


class JobsQuery(BaseModel):
    """Which jobs a list is to hold, and in which order."""

    model_config = ConfigDict(alias_generator=to_camel)

    page: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    size: Annotated[int, Field(ge=1, le=100)] = 20
    status: list[str] = []
    file_id: UUID | None = None
    is_deleted: bool = False
    is_purged: bool | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    completed_after: datetime | None = None
    completed_before: datetime | None = None
    sort: Annotated[str, Field(pattern=r"^(creationDate|completionDate|status)(,(asc|desc))?$")] = "creationDate,desc"

    @property
    def statuses(self) -> list[str]:
        """Those that are named, repeated or with commas, in order. EdgeError names one that is none."""
        names = {name.strip() for each in self.status for name in each.split(",") if name.strip()}
        if unknown := names - set(STATES):
            message = f"There is no status {min(unknown)!r}: use {', '.join(STATES)}."
            raise RequestError("invalid_request", message, (("status", "unknown"),))
        return sorted(names)

    @property
    def sorting(self) -> tuple[str, str]:
        """The field to sort by, and asc or desc."""
        field, _, direction = self.sort.partition(",")
        return field, direction or "desc"

    def wanted(self) -> JobQuery:
        """The same in the core's terms."""
        field, direction = self.sorting
        names = self.statuses or sorted(STATES)
        marks = (Mark.DELETED, Mark.PURGED) if self.is_deleted else (Mark.NONE,)
        return JobQuery(
            states=tuple(STATES[name] for name in (names if direction == "asc" else reversed(names))),
            marks=tuple(mark for mark in marks if self.is_purged is None or (mark is Mark.PURGED) == self.is_purged),
            order=FIELDS[field],
            newest_first=direction != "asc",
            made_after=_seconds(self.created_after),
            made_before=_seconds(self.created_before),
            ended_after=_seconds(self.completed_after),
            ended_before=_seconds(self.completed_before),
            file=str(self.file_id) if self.file_id else None,
            offset=self.page * self.size,
            limit=self.size,
        )

    def filters(self, wanted: JobQuery) -> dict[str, Any]:
        """Those that were given, as the core took them, and isDeleted."""
        told = {
            "status": self.statuses or None,
            "fileId": wanted.file,
            "isDeleted": self.is_deleted,
            "isPurged": self.is_purged,
            "createdAfter": moment(wanted.made_after),
            "createdBefore": moment(wanted.made_before),
            "completedAfter": moment(wanted.ended_after),
            "completedBefore": moment(wanted.ended_before),
        }
        return {name: value for name, value in told.items() if value is not None}


def _seconds(at: datetime | None) -> float | None:
    """A time without a zone is one in UTC; before and after all jobs one is as good as another."""
    if at is None:
        return None
    return min(max((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp(), 0.0), LATEST)


def parts_of(form: Form) -> dict[str, Any]:
    """The parts of a form, those that are JSON taken apart. EdgeError names what is none."""
    parts = flat(form.fields)
    for name in JSONS:
        if name in parts:
            try:
                parts[name] = orjson.loads(parts[name])
            except orjson.JSONDecodeError:
                raise RequestError("invalid_request", f"{name} must be valid JSON.", ((name, "no JSON"),)) from None
    return parts


def _depth(value: object) -> int:
    """How deep arrays and objects are nested, as far as it matters."""
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        inside = [each for each in level if isinstance(each, dict | list)]
        level = [x for each in inside for x in (each.values() if isinstance(each, dict) else each)]
        depth += bool(inside)
        if not inside:
            break
    return depth


# To the core.


def to_spec(
    transcription: TranscriptionOptions, diarization: DiarizationOptions | None, webhook: Webhook | None, **source: Any
) -> JobSpec:
    """The same in the core's words. Words are always wanted: what they carry is part of a result."""
    tag = transcription.language.default_language_code
    apart = diarization if diarization and diarization.enabled else None
    spec = JobSpec(
        model=transcription.model,
        language=code_of(tag) if tag else None,
        word_timestamps=True,
        diarize=apart is not None and apart.mode == "SPEAKER",
        channels=apart is not None and apart.mode == "CHANNEL",
        record_ttl_s=RECORD_TTL_S,
        echo={
            "transcription": transcription.model_dump_json(by_alias=True, exclude_none=True),
            "diarization": diarization.model_dump_json(by_alias=True, exclude_none=True) if diarization else "null",
        },
        **source,
    )
    return hooked(spec, webhook)


def hooked(spec: JobSpec, webhook: Webhook | None) -> JobSpec:
    """The same with another webhook, or none."""
    url, secret, headers = (webhook.url, webhook.secret, webhook.headers) if webhook else (None, None, {})
    return replace(spec, webhook=url, webhook_secret=secret, echo={**spec.echo, "headers": orjson.dumps(headers).decode()})


# From the core.

STATUS = {
    State.QUEUED: "PENDING",
    State.RUNNING: "IN_PROGRESS",
    State.COMPLETED: "COMPLETED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELLED",
}
STATES = {status: state for state, status in STATUS.items()}
FIELDS = {"creationDate": SortBy.MADE, "completionDate": SortBy.ENDED, "status": SortBy.STATE}
LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
SUMMARY = {
    SummaryState.WAITING: "PENDING",
    SummaryState.PENDING: "IN_PROGRESS",
    SummaryState.COMPLETED: "COMPLETED",
    SummaryState.FAILED: "FAILED",
}
CODES = {
    "source_unreachable": "FILE_NOT_FOUND",
    "source_forbidden": "FILE_NOT_FOUND",
    "source_not_found": "FILE_NOT_FOUND",
    "source_too_large": "DURATION_EXCEEDED",
    "audio_too_long": "DURATION_EXCEEDED",
    "unsupported_media": "UNSUPPORTED_FORMAT",
    "corrupt_media": "FILE_CORRUPTED",
    "no_audio": "EMPTY_AUDIO",
    "language_unsupported": "LANGUAGE_NOT_SUPPORTED",
    "model_unavailable": "MODEL_UNAVAILABLE",
    "engine_failed": "TRANSCRIPTION_FAILED",
    "feature_unavailable": "TRANSCRIPTION_FAILED",
    "diarization_failed": "DIARIZATION_FAILED",
    "quota_exceeded": "QUOTA_EXCEEDED",
    "rate_limited": "QUOTA_EXCEEDED",
}
"""The core's codes in Koldan's words; all others are an INTERNAL_ERROR."""
ON_CHANNELS = {"DIARIZATION_FAILED": "CHANNEL_DIARIZATION_FAILED"}


def from_job(job: Job) -> dict[str, Any]:
    """A job as Koldan shows it, without its result. `purgeAt` is when its results go by themselves."""
    spec = job.spec
    failure = _failure(job)
    return {
        "id": job.id,
        "status": STATUS[job.phase.state],
        "isDeleted": job.deleted_at is not None,
        "isPurged": job.purged_at is not None,
        "creationDate": moment(job.created_at),
        "completionDate": moment(job.completed_at),
        "deletedAt": moment(job.deleted_at),
        "purgedAt": moment(job.purged_at),
        "purgeAt": moment(job.expires_at) if job.purged_at is None else None,
        "file": _file(job, job.file),
        "transcription": orjson.loads(spec.echo["transcription"]),
        "diarization": orjson.loads(spec.echo["diarization"]),
        "errorCode": failure["code"] if failure else None,
        "errors": [failure] if failure else None,
        "webhook": {"url": spec.webhook, "headers": orjson.loads(spec.echo["headers"])} if spec.webhook else None,
    }


def _failure(job: Job) -> dict[str, Any] | None:
    if job.error is None or job.phase.state is State.CANCELLED:
        return None
    code = CODES.get(job.error.code, "INTERNAL_ERROR")
    code = ON_CHANNELS.get(code, code) if job.spec.channels else code
    return {"code": code, "message": job.error.message, "timestamp": moment(job.completed_at)}


def _file(job: Job, file: File | None) -> dict[str, Any]:
    """A file; one whose record is gone too has only its id left. What there is to listen to is told once it is made."""
    if file is None:
        return {"id": job.spec.file, "isDeleted": True}
    heard = job.spec.listening and job.transcript is not None and file.deleted_at is None
    return {
        "id": file.id,
        "name": file.name,
        "description": file.description,
        "path": file.path,
        "metadata": file.metadata,
        "tags": list(file.tags),
        "fileName": file.filename,
        "uri": file.url,
        "size": file.size,
        "listeningAudioUrl": f"/v1/jobs/{job.id}/artifacts/listening.mp3" if heard else None,
        "isDeleted": file.deleted_at is not None,
        "creationDate": moment(file.made_at),
    }


def result_of(job: Job, transcript: Transcript) -> dict[str, Any]:
    """What was heard, written as the job's options have it."""
    options = TranscriptionOptions.model_validate_json(job.spec.echo["transcription"])
    diarization: Mapping[str, Any] = orjson.loads(job.spec.echo["diarization"]) or {}
    labels = {each["channel"]: each["label"] for each in diarization.get("channelMapping", ())}
    segments = transcript.segments
    weights = [max(s.end - s.start, 1e-3) for s in segments]
    sure = sum(s.confidence * w for s, w in zip(segments, weights, strict=True)) / sum(weights) if segments else None
    return {
        "text": " ".join(_written(s.text, options) for s in segments),
        "detectedLanguages": list(dict.fromkeys(tag_of(s.language) for s in segments if s.language)),
        "confidence": None if sure is None else round(sure, 4),
        "duration": transcript.duration_s,
        "segments": [_segment(s, options, labels) for s in segments],
    }


def _written(text: str, options: TranscriptionOptions) -> str:
    text = " ".join(text.split()) if options.punctuation else unpunctuated(text)
    return text if options.capitalization else text.lower()


def _segment(segment: Segment, options: TranscriptionOptions, labels: Mapping[int, str]) -> dict[str, Any]:
    channel = segment.channel
    return {
        "start": segment.start,
        "end": segment.end,
        "text": _written(segment.text, options),
        "confidence": segment.confidence,
        "language": tag_of(segment.language) if segment.language else None,
        "speaker": None if channel is None else labels.get(channel, f"SPEAKER_{channel:02}"),
        "channel": channel,
        "words": [_word(word, options) for word in segment.words or ()],
    }


def _word(word: Word, options: TranscriptionOptions) -> dict[str, Any]:
    said, marks = bare(word.text)
    return {
        "word": said.lower(),
        "start": word.start,
        "end": word.end,
        "confidence": word.confidence,
        "punctuation": (marks or None) if options.punctuation else None,
        "capitalization": said if options.capitalization else None,
    }


async def render(job: Job, _: Results) -> Payload:
    """What a webhook is told: the job without its result, signed with its secret besides."""
    body = orjson.dumps(from_job(job))
    headers: dict[str, str] = orjson.loads(job.spec.echo["headers"])
    if secret := job.spec.webhook_secret:
        headers["X-Webhook-Signature"] = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return Payload(body, headers=headers)


def error(problem: RequestError) -> Response:
    """An error; what is wrong with a request is a 400, what is wrong with a file a 422."""
    status = problem.status if problem.code == "file_unusable" else problem.plain_status
    body = {"timestamp": moment(time.time()), "status": status, "code": problem.code.upper(), "message": problem.message}
    return JSONResponse(body, status, problem.headers)


# Routes.

ERROR = {"description": "Why not.", "content": {"application/json": {"schema": {"required": ["status", "code", "message"]}}}}
RESPONSES: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 403, 404, 405, 409, 410, 413, 422, 429), ERROR)
READ_FILES, SUMMARIZE = "speech:files:read", "speech:summaries:write"


class Routes:
    """What the paths do."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("koldan", "{}")

    async def upload(self, request: Request, who: CanUpload, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Upload a file, or import it from a URI, and transcribe it."""
        kind = request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise RequestError("malformed", "Send multipart/form-data with name, transcription and either file or uri.")
        async with self._jobs.draft(who, key, trace, as_file=True) as draft:
            form = await self._context.receive_form(request, draft, "file", required=False)
            asked = validated(UploadRequest, parts_of(form))
            if (form.filename is None) == (asked.uri is None):
                message = "Provide either file or uri, and not both."
                raise RequestError("malformed", message, (("file", "either"), ("uri", "or")))
            if asked.summary and not who.may(SUMMARIZE):
                raise RequestError("forbidden", f"The API key does not have the scope {SUMMARIZE}.")
            file = File(
                str(draft.file),
                who.owner,
                who.tenant,
                asked.name,
                filename=form.filename,
                description=asked.description,
                path=asked.path,
                metadata=asked.metadata,
                tags=tuple(asked.tags),
                url=asked.uri,
                size=None if form.filename is None else form.size,
            )
            source: dict[str, Any] = {"file": file.id, "url": asked.uri, "filename": form.filename}
            prompt = asked.summary.prompt_template_id if asked.summary else None
            source |= {"listening": asked.generate_listening_audio, "summary": prompt}
            spec = to_spec(asked.transcription, asked.diarization, asked.webhook, **source)
            job = await draft.submit(spec, form.sha256, file)
        shown = from_job(job)
        return JSONResponse({"file": shown["file"], "job": shown, "summary": await self._summary(job)}, 201)

    async def _summary(self, job: Job) -> dict[str, Any] | None:
        """The summary job of a job that asked for one."""
        state, why = job.summary_state, job.summary_error
        if state is None:
            return None
        if state is SummaryState.WAITING and job.phase.final:
            state, why = SummaryState.FAILED, "There is no transcript to summarise."
        return {
            "id": f"{job.id}-summary",
            "status": SUMMARY[state],
            "promptTemplateId": job.spec.summary,
            "text": await self._jobs.results.summary(job),
            "error": why if state is SummaryState.FAILED else None,
        }

    async def create(self, request: Request, who: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Transcribe a file that was uploaded."""
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise RequestError("malformed", "Send application/json.")
        asked = validated(JobRequest, await read_json(request.stream()))
        file = await self._jobs.file(who, str(asked.file_id))
        if file.size is None:
            raise RequestError("file_unusable", "The file has not been imported yet.", (("fileId", "not imported"),))
        async with self._jobs.draft(who, key, trace) as draft:
            spec = to_spec(asked.transcription, asked.diarization, asked.webhook, file=file.id, filename=file.filename)
            job = await draft.submit(spec)
        return JSONResponse(from_job(job), 201)

    async def page(self, who: CanRead, asked: Annotated[JobsQuery, Query()]) -> Response:
        """Jobs without their results, a page at a time."""
        if asked.file_id is not None and not who.may(READ_FILES):
            raise RequestError("forbidden", f"The API key does not have the scope {READ_FILES}.")
        wanted = asked.wanted()
        found = await self._jobs.query(who, wanted)
        field, direction = asked.sorting
        told = {
            "jobs": [from_job(job) for job in found.jobs],
            "size": len(found.jobs),
            "total": found.total,
            "filters": asked.filters(wanted),
            "sort": {"field": field, "direction": direction},
        }
        return JSONResponse(told)

    async def get(self, who: CanRead, job_id: str) -> Response:
        """A job, with its result once it is completed, until it is purged."""
        job = await self._jobs.get(who, job_id)
        told = from_job(job)
        transcript = await self._jobs.results.transcript_or_none(job)
        told["result"] = None if transcript is None else result_of(job, transcript)
        if summary := await self._summary(job):
            told["summary"] = summary
        return JSONResponse(told)

    async def result(self, who: CanRead, job_id: str, format: str = "json") -> Response:
        """The result of a completed job."""
        if format != "json":
            message = f"The format {format!r} is not supported: use json."
            raise RequestError("invalid_request", message, (("format", "unsupported"),))
        job = await self._jobs.get(who, job_id)
        if job.purged_at is not None:
            raise RequestError("gone", "The job's result has been purged.")
        if job.transcript is None:
            raise RequestError("not_found", "The job has no result: it is not completed.")
        return JSONResponse(result_of(job, await self._jobs.results.transcript(job)))

    async def set_webhook(self, request: Request, who: CanWrite, job_id: str) -> Response:
        """Tell the end of the job to another address."""
        job = await self._jobs.get(who, job_id)
        return await self._hook(who, job, validated(Webhook, await read_json(request.stream())))

    async def drop_webhook(self, who: CanWrite, job_id: str) -> Response:
        """Tell the end of the job to nobody."""
        await self._hook(who, await self._jobs.get(who, job_id), None)
        return Response(status_code=204)

    async def _hook(self, who: Principal, job: Job, webhook: Webhook | None) -> Response:
        return JSONResponse(from_job(await self._jobs.set_webhook(who, job.id, hooked(job.spec, webhook))))

    async def cancel(self, who: CanWrite, job_id: str) -> Response:
        """Cancel a job that has not ended; it has taken effect when this answers."""
        await self._jobs.cancel_and_wait(who, job_id)
        return Response(status_code=204)

    async def delete(self, who: CanDelete, job_id: str, purge: bool = False) -> Response:
        """Mark an ended job as deleted, and with `purge` remove its results at once."""
        if not purge:
            await self._jobs.mark_deleted(who, job_id)
        elif (await self._jobs.get(who, job_id)).purged_at is None:
            await self._jobs.purge_results(who, job_id, deleted=False)
        return Response(status_code=204)

    async def purge(self, who: CanDelete, job_id: str) -> Response:
        """Remove the results of a deleted job for good."""
        await self._jobs.purge_results(who, job_id, deleted=True)
        return Response(status_code=204)


def routes(context: ApiContext) -> APIRouter:
    """The routes under /api/v1/speech-services/transcriptions."""
    koldan = Routes(context)
    router = APIRouter(prefix=PREFIX, responses=RESPONSES)
    router.get("", response_class=JSONResponse)(koldan.page)
    upload = request_body(form=UploadRequest, file="file")
    router.post("/upload", status_code=201, response_class=JSONResponse, openapi_extra=upload)(koldan.upload)
    router.post("", status_code=201, response_class=JSONResponse, openapi_extra=request_body(json=JobRequest))(koldan.create)
    router.get("/{job_id}", response_class=JSONResponse)(koldan.get)
    router.get("/{job_id}/result", response_class=JSONResponse)(koldan.result)
    hook = request_body(json=Webhook)
    router.put("/{job_id}/webhook", response_class=JSONResponse, openapi_extra=hook)(koldan.set_webhook)
    router.delete("/{job_id}/webhook", status_code=204, response_class=Response)(koldan.drop_webhook)
    router.post("/{job_id}/cancel", status_code=204, response_class=Response)(koldan.cancel)
    router.delete("/{job_id}", status_code=204, response_class=Response)(koldan.delete)
    router.post("/{job_id}/purge", status_code=204, response_class=Response)(koldan.purge)
    return router


KOLDAN = Dialect("koldan", PREFIX, routes, error, render)

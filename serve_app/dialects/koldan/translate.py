"""Requests -> job specs and queries; jobs, summaries and errors -> Koldan's JSON."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import Response
from fastapi.responses import JSONResponse

from serve_app.dialects.base import artifact_url, flat, moment
from serve_app.dialects.koldan.text import language_code
from serve_app.dialects.koldan.wire_requests import (
    KoldanDiarizationOptions,
    KoldanJobQuery,
    KoldanTranscriptionOptions,
    KoldanWebhookRequest,
)
from serve_app.errors import RequestError
from serve_app.http.parameters import parse_json_field, utc_seconds
from serve_app.http.uploads import Form
from serve_app.jobs.results import Results
from serve_app.jobs.webhook_payload import Payload
from serve_app.models.file import File
from serve_app.models.job import Job, JobSpec, Mark, State, SummaryState
from serve_app.models.listing import JobQuery, SortBy

RECORD_TTL_S = 2_592_000  # lifetime of a purged job's record
JSON_FIELDS = ("metadata", "tags", "transcription", "diarization", "webhook", "summary")
LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
STATUS = {
    State.QUEUED: "PENDING",
    State.RUNNING: "IN_PROGRESS",
    State.COMPLETED: "COMPLETED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELLED",
}
STATES = {status: state for state, status in STATUS.items()}
SORT_FIELDS = {"creationDate": SortBy.MADE, "completionDate": SortBy.ENDED, "status": SortBy.STATE}
SUMMARY_STATUS = {
    SummaryState.WAITING: "PENDING",
    SummaryState.PENDING: "IN_PROGRESS",
    SummaryState.COMPLETED: "COMPLETED",
    SummaryState.FAILED: "FAILED",
}
# The core's error codes that have one of Koldan's; all others are an INTERNAL_ERROR.
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
CHANNEL_CODES = {"DIARIZATION_FAILED": "CHANNEL_DIARIZATION_FAILED"}

# To the core.


def form_fields(form: Form) -> dict[str, Any]:
    """Fields of an upload, the JSON ones parsed. Raises RequestError."""
    fields = flat(form.fields)
    return fields | {name: parse_json_field(name, fields[name]) for name in JSON_FIELDS if name in fields}


def to_spec(
    transcription: KoldanTranscriptionOptions,
    diarization: KoldanDiarizationOptions | None,
    webhook: KoldanWebhookRequest | None,
    **source: Any,
) -> JobSpec:
    """Options -> job spec."""
    tag = transcription.language.default_language_code
    mode = diarization.mode if diarization and diarization.enabled else None
    spec = JobSpec(
        model=transcription.model,
        language=language_code(tag) if tag else None,
        word_timestamps=True,  # results have words
        diarize=mode == "SPEAKER",
        channels=mode == "CHANNEL",
        record_ttl_s=RECORD_TTL_S,
        echo={
            "transcription": transcription.model_dump_json(by_alias=True, exclude_none=True),
            "diarization": diarization.model_dump_json(by_alias=True, exclude_none=True) if diarization else "null",
        },
        **source,
    )
    return with_webhook(spec, webhook)


def with_webhook(spec: JobSpec, webhook: KoldanWebhookRequest | None) -> JobSpec:
    """Replace the webhook of a job spec; None removes it."""
    url, secret, headers = (webhook.url, webhook.secret, webhook.headers) if webhook else (None, None, {})
    return replace(spec, webhook=url, webhook_secret=secret, echo={**spec.echo, "headers": orjson.dumps(headers).decode()})


def to_query(query: KoldanJobQuery) -> JobQuery:
    """List query -> the core's. Raises RequestError for an unknown status."""
    field, direction = _sort(query)
    statuses = _statuses(query) or sorted(STATES)
    marks = (Mark.DELETED, Mark.PURGED) if query.is_deleted else (Mark.NONE,)
    return JobQuery(
        states=tuple(STATES[status] for status in (statuses if direction == "asc" else reversed(statuses))),
        marks=tuple(mark for mark in marks if query.is_purged is None or (mark is Mark.PURGED) == query.is_purged),
        order=SORT_FIELDS[field],
        newest_first=direction != "asc",
        made_after=_bound(query.created_after),
        made_before=_bound(query.created_before),
        ended_after=_bound(query.completed_after),
        ended_before=_bound(query.completed_before),
        file=str(query.file_id) if query.file_id else None,
        offset=query.page * query.size,
        limit=query.size,
    )


def _statuses(query: KoldanJobQuery) -> list[str]:
    # Repeated or separated by commas; sorted, since listings by state need an order.
    statuses = {status.strip() for value in query.status for status in value.split(",") if status.strip()}
    if unknown := statuses - set(STATES):
        message = f"There is no status {min(unknown)!r}: use {', '.join(STATES)}."
        raise RequestError("invalid_request", message, (("status", "unknown"),))
    return sorted(statuses)


def _sort(query: KoldanJobQuery) -> tuple[str, str]:
    field, _, direction = query.sort.partition(",")
    return field, direction or "desc"


def _bound(at: datetime | None) -> float | None:
    # Clamped: before and after all jobs, one time is as good as another.
    return None if at is None else min(max(utc_seconds(at), 0.0), LATEST)


# From the core.


def filters_and_sort(query: KoldanJobQuery, core: JobQuery) -> dict[str, Any]:
    """`filters` and `sort` of a `KoldanJobList`."""
    filters = {
        "status": _statuses(query) or None,
        "fileId": core.file,
        "isDeleted": query.is_deleted,
        "isPurged": query.is_purged,
        "createdAfter": moment(core.made_after),
        "createdBefore": moment(core.made_before),
        "completedAfter": moment(core.ended_after),
        "completedBefore": moment(core.ended_before),
    }
    field, direction = _sort(query)
    return {
        "filters": {name: value for name, value in filters.items() if value is not None},
        "sort": {"field": field, "direction": direction},
    }


def from_job(job: Job) -> dict[str, Any]:
    """`KoldanJob` of a job."""
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
    code = CHANNEL_CODES.get(code, code) if job.spec.channels else code
    return {"code": code, "message": job.error.message, "timestamp": moment(job.completed_at)}


def _file(job: Job, file: File | None) -> dict[str, Any]:
    if file is None:
        return {"id": job.spec.file, "isDeleted": True}
    has_mp3 = job.spec.listening and job.transcript is not None and not job.partial and file.deleted_at is None
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
        "listeningAudioUrl": artifact_url(job.id, "listening.mp3") if has_mp3 else None,
        "isDeleted": file.deleted_at is not None,
        "creationDate": moment(file.made_at),
    }


def from_summary(job: Job, text: str | None) -> dict[str, Any] | None:
    """`KoldanSummary` of a job; None if none was requested."""
    state, reason = job.summary_state, job.summary_error
    if state is None:
        return None
    if state is SummaryState.WAITING and job.phase.final:
        state, reason = SummaryState.FAILED, "There is no transcript to summarise."
    return {
        "id": f"{job.id}-summary",
        "status": SUMMARY_STATUS[state],
        "promptTemplateId": job.spec.summary,
        "text": text,
        "error": reason if state is SummaryState.FAILED else None,
    }


async def render(job: Job, _: Results) -> Payload:
    """Webhook body: the job without its result, signed if there is a secret."""
    body = orjson.dumps(from_job(job))
    headers: dict[str, str] = orjson.loads(job.spec.echo["headers"])
    if secret := job.spec.webhook_secret:
        headers["X-Webhook-Signature"] = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return Payload(body, headers=headers)


def error(problem: RequestError) -> Response:
    """`KoldanError`: 400 for a bad request, 422 for an unusable file."""
    status = problem.status if problem.code == "file_unusable" else problem.plain_status
    body = {"timestamp": moment(time.time()), "status": status, "code": problem.code.upper(), "message": problem.message}
    return JSONResponse(body, status, problem.headers)

"""Requests -> job specs; jobs and errors -> Shift's JSON, artifacts -> files."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from fastapi import Response
from fastapi.responses import JSONResponse

from batching.types import Transcript
from serve_app.dialects.base import moment
from serve_app.dialects.openai_format import plain
from serve_app.dialects.shift.settings import in_drive
from serve_app.dialects.shift.wire import ShiftDriveSource, ShiftJobRequest
from serve_app.errors import RequestError
from serve_app.formats import FORMATS
from serve_app.models.job import Job, JobSpec, Phase, State
from serve_app.models.principal import Principal

# To the core.


def to_spec(body: ShiftJobRequest, principal: Principal, drive_uri: str) -> JobSpec:
    """Request -> job spec. Raises RequestError where no drive is configured for a drive source."""
    echo = {"providerId": body.provider_id, "responseFormat": body.response_format.removeprefix("verbose_")}
    if isinstance(body.source, ShiftDriveSource):
        if not drive_uri:
            message = "The source kind stageDrive is refused: no drive is configured (MURMUR_STAGE_DRIVE_URI)."
            raise RequestError("feature_unavailable", message, (("source.kind", "unavailable"),))
        url, root = in_drive(drive_uri, principal, body.source.session_id, body.source.file_id)
        echo |= {"sessionId": body.source.session_id, "fileId": body.source.file_id}
    else:
        url, root = body.source.url, ""
    return JobSpec(
        model=body.model,
        url=url,
        drive_root=root,
        language=body.language,
        prompt=body.prompt,
        temperature=body.temperature,
        max_attempts=body.max_attempts,
        echo=echo,
    )


# From the core.

STATUS: dict[State, Any] = {
    State.QUEUED: "queued",
    State.RUNNING: "processing",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}


def from_job(job: Job, artifacts: list[dict[str, Any]], transcript: Transcript | None) -> dict[str, Any]:
    """`ShiftJob` of a job. Shift has no cancelled jobs: they count as failed."""
    body: dict[str, Any] = {
        "id": job.id,
        "sid": job.id,
        "model": job.spec.requested_model,
        "providerId": job.spec.echo["providerId"],
        "source": _source(job.spec),
        "status": STATUS[job.phase.state],
        "phase": "failed" if job.phase is Phase.CANCELLED else job.phase.value,
        "requestedBy": job.owner,
        "requestedAt": moment(job.created_at),
        "attempts": job.attempts,
        "maxAttempts": job.spec.max_attempts,
        "artifacts": artifacts,
        "result": _result(transcript) if transcript else None,
    }
    if job.started_at is not None:
        body["startedAt"] = moment(job.started_at)
    if job.completed_at is not None:
        body["completedAt"] = moment(job.completed_at)
    if job.error:
        body["error"] = job.error.message
    return body


def _source(spec: JobSpec) -> dict[str, str | None]:
    if spec.drive_root:
        return {"kind": "stageDrive", "sessionId": spec.echo["sessionId"], "fileId": spec.echo["fileId"]}
    return {"kind": "url", "url": spec.url}


def _result(transcript: Transcript) -> dict[str, Any]:
    return {
        "text": plain(transcript),
        "language": transcript.language or "",
        "duration": transcript.duration_s,
        "segments": [{"start": s.start, "end": s.end, "text": s.text.strip()} for s in transcript.segments],
    }


def files_of(spec: JobSpec) -> dict[str, tuple[str, str]]:
    """Artifacts of a completed job: kind -> (filename, content type). Filenames are sanitized."""
    name = spec.echo.get("fileId") or unquote(urlsplit(spec.url or "").path)
    stem = re.sub(r"[^\w. -]", "_", PurePosixPath(name).stem)[:100] or "recording"
    json, text = FORMATS["json"], FORMATS[spec.echo["responseFormat"]]
    files = {"normalizedAudio": (f"{stem}-normalized.wav", "audio/wav")}
    if text is not json:
        files["transcriptText"] = f"{stem}.{text.suffix}", text.content_type
    return files | {"transcriptJson": (f"{stem}.json", json.content_type)}


def content_of(job: Job, kind: str, transcript: Transcript) -> bytes:
    """Bytes of a text artifact."""
    format_name = job.spec.echo["responseFormat"] if kind == "transcriptText" else "json"
    return FORMATS[format_name].render(transcript).encode()


def error(problem: RequestError) -> Response:
    """Error in Shift's envelope; a bad request is always a 400."""
    body = {"success": False, "error": {"code": problem.code, "message": problem.message}}
    return JSONResponse(body, problem.plain_status, problem.headers)

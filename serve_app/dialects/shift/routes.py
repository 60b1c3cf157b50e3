"""Shift's transcription jobs: success envelopes, phases, artifacts, retry."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote, unquote, urlsplit

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse

from batching.types import Transcript
from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, given, moment, request_body, validated
from serve_app.dialects.openai_format import plain
from serve_app.dialects.shift.wire import ShiftDriveSource, ShiftJobListResponse, ShiftJobRequest, ShiftJobResponse
from serve_app.errors import RequestError
from serve_app.formats import FORMATS
from serve_app.http.auth import CanRead, CanWrite
from serve_app.http.byte_ranges import file_response
from serve_app.http.parameters import is_json
from serve_app.http.request_ids import Traced
from serve_app.http.uploads import read_json
from serve_app.jobs.results import AUDIO
from serve_app.models.job import Job, JobSpec, Phase, State
from serve_app.models.listing import JobQuery
from serve_app.models.principal import Principal

PREFIX = "/api/v1/inference/transcriptions/jobs"

# To the core.


def to_spec(body: ShiftJobRequest, principal: Principal, drive_uri: str) -> JobSpec:
    """Request -> job spec. RequestError where no drive is configured for a drive source."""
    echo = {"providerId": body.provider_id, "responseFormat": body.response_format.removeprefix("verbose_")}
    if isinstance(body.source, ShiftDriveSource):
        if not drive_uri:
            message = "The source kind stageDrive is refused: no drive is configured (MURMUR_STAGE_DRIVE_URI)."
            raise RequestError("feature_unavailable", message, (("source.kind", "unavailable"),))
        ids = {"session_id": body.source.session_id, "file_id": body.source.file_id}
        url = drive_uri.format(tenant=principal.tenant, owner=principal.owner, **ids)
        echo |= {"sessionId": body.source.session_id, "fileId": body.source.file_id}
    else:
        url = body.source.url
    return JobSpec(
        model=body.model,
        url=url,
        drive=isinstance(body.source, ShiftDriveSource),
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
    if spec.drive:
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


# Routes.

BODY = request_body(json=ShiftJobRequest)
ERROR = {"description": "Why not.", "content": {"application/json": {"schema": {"required": ["success", "error"]}}}}
RESPONSES: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 403, 404, 405, 409, 410, 429), ERROR)
FILE: dict[int | str, dict[str, Any]] = {
    status: {"content": {kind: {} for kind in ("audio/wav", "text/vtt", "application/json", "text/plain")}}
    for status in (200, 206, 416)
}
PAGE = 500  # jobs in a query of the list
MAX_SIZES = 20_000  # jobs in the cache of artifact sizes


class Routes:
    """Route handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.speaking("shift", "tj_{.hex}")
        self._sizes: dict[str, dict[str, int]] = {}

    async def create(self, request: Request, principal: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """ShiftJobRequest a transcription job."""
        if not is_json(request):
            raise RequestError("malformed", "Send application/json.")
        body = validated(ShiftJobRequest, given(await read_json(request.stream())))
        async with self._jobs.draft(principal, key, trace) as draft:
            job = await draft.submit(to_spec(body, principal, self._context.drive_uri))
        return await self._respond(request, job, 202)

    async def all(self, request: Request, principal: CanRead) -> Response:
        """List all jobs without their results, oldest first."""
        jobs: list[dict[str, Any]] = []
        cursor: int | None = None
        while True:
            page = await self._jobs.query(principal, JobQuery(newest_first=False, after=cursor, limit=PAGE))
            jobs += [from_job(job, await self._artifacts(request, job), None) for job in page.jobs]
            cursor = page.next
            if cursor is None:
                return JSONResponse({"success": True, "data": jobs})

    async def get(self, request: Request, principal: CanRead, job_id: str) -> Response:
        """Get a job, with its artifacts and result once it is completed."""
        return await self._respond(request, await self._jobs.kept(principal, job_id))

    async def retry(self, request: Request, principal: CanWrite, job_id: str) -> Response:
        """Queue a failed job again, if it has attempts left."""
        return await self._respond(request, await self._jobs.retry(principal, job_id), 202)

    async def artifact(
        self, principal: CanRead, job_id: str, kind: str, byte_range: Annotated[str | None, Header(alias="Range")] = None
    ) -> Response:
        """Download an artifact."""
        job = await self._jobs.kept(principal, job_id)
        if job.transcript is None or kind not in files_of(job.spec):
            raise RequestError("not_found", "The job has no such artifact.")
        filename, content_type = files_of(job.spec)[kind]
        if kind == "normalizedAudio":
            response = file_response(self._jobs.results, await self._jobs.results.file(job, AUDIO), byte_range)
        else:
            content = content_of(job, kind, await self._jobs.results.transcript(job))
            response = Response(content, headers={"Content-Type": content_type})
        response.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(filename)}"
        return response

    async def _respond(self, request: Request, job: Job, status: int = 200) -> Response:
        body = from_job(job, await self._artifacts(request, job), await self._jobs.results.heard(job))
        return JSONResponse({"success": True, "data": body}, status)

    async def _artifacts(self, request: Request, job: Job) -> list[dict[str, Any]]:
        """`ShiftArtifact`s of a completed job that are still stored."""
        audio = self._jobs.results.audio(job)
        if audio is None:
            return []
        sizes = {"normalizedAudio": audio.size}
        with suppress(RequestError):
            sizes |= await self._text_sizes(job)
        base_url = f"{self._context.at(request)}{PREFIX}/{job.id}/artifacts"
        return [
            {
                "kind": kind,
                "filename": filename,
                "contentType": content_type.partition(";")[0],
                "sizeBytes": sizes[kind],
                "url": f"{base_url}/{kind}",
            }
            for kind, (filename, content_type) in files_of(job.spec).items()
            if kind in sizes
        ]

    async def _text_sizes(self, job: Job) -> dict[str, int]:
        """Sizes of the text artifacts in bytes, cached for lists."""
        key = f"{job.id}/{job.transcript}"
        if key not in self._sizes:
            transcript = await self._jobs.results.transcript(job)
            kinds = [kind for kind in files_of(job.spec) if kind != "normalizedAudio"]
            sizes = await asyncio.to_thread(lambda: [len(content_of(job, kind, transcript)) for kind in kinds])
            if len(self._sizes) >= MAX_SIZES:
                self._sizes.clear()
            self._sizes[key] = dict(zip(kinds, sizes, strict=True))
        return self._sizes[key]


def routes(context: ApiContext) -> APIRouter:
    """The routes under /api/v1/inference/transcriptions/jobs."""
    shift = Routes(context)
    router = APIRouter(prefix=PREFIX, responses=RESPONSES)
    router.post("", status_code=202, response_model=ShiftJobResponse, openapi_extra=BODY)(shift.create)
    router.get("", response_model=ShiftJobListResponse)(shift.all)
    router.get("/{job_id}", response_model=ShiftJobResponse)(shift.get)
    router.post("/{job_id}/retry", status_code=202, response_model=ShiftJobResponse)(shift.retry)
    router.get("/{job_id}/artifacts/{kind}", response_class=Response, responses=FILE)(shift.artifact)
    return router


SHIFT = Dialect("shift", PREFIX, routes, error)

"""Shift's transcription jobs: an envelope around each answer, phases, artifacts, retry."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from batching.types import Transcript
from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, given, moment, request_body, validated
from serve_app.dialects.openai_format import plain
from serve_app.errors import RequestError
from serve_app.formats import FORMATS
from serve_app.http.auth import CanRead, CanWrite
from serve_app.http.byte_ranges import file_response
from serve_app.http.request_ids import Traced
from serve_app.http.uploads import read_json
from serve_app.models.job import Job, JobSpec, Phase, State
from serve_app.models.listing import JobQuery
from serve_app.models.principal import Principal
from serve_app.models.storage_paths import AUDIO

# Wire models.


class WireModel(BaseModel):
    """Names in camelCase, and no others than those named."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


class UrlSource(WireModel):
    """A file that is fetched."""

    kind: Literal["url"]
    url: Annotated[str, Field(max_length=4096)]


class DriveSource(WireModel):
    """A file in a session's drive."""

    kind: Literal["stageDrive"]
    session_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]
    file_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]


class Create(WireModel):
    """A job to be."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    provider_id: Annotated[str, Field(max_length=200)] = ""
    source: Annotated[UrlSource | DriveSource, Field(discriminator="kind")]
    language: str | None = None
    prompt: Annotated[str | None, Field(max_length=2000)] = None
    response_format: Literal["vtt", "srt", "text", "tsv", "json", "verbose_json"] = "vtt"
    temperature: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 1


class ArtifactBody(WireModel):
    """A file of a job."""

    kind: Literal["normalizedAudio", "transcriptText", "transcriptJson"]
    filename: str
    content_type: str
    size_bytes: int
    url: str


class SegmentBody(WireModel):
    """A sentence; times in seconds."""

    start: float
    end: float
    text: str


class ResultBody(WireModel):
    """What was heard."""

    text: str
    language: str
    duration: float
    segments: list[SegmentBody]


class JobBody(WireModel):
    """A job. `startedAt`, `completedAt` and `error` are there when they are known; `result` is null until there is one."""

    id: str
    sid: str
    model: str
    provider_id: str
    source: UrlSource | DriveSource
    status: Literal["queued", "processing", "completed", "failed"]
    phase: Literal["queued", "downloading", "transcoding", "transcribing", "completed", "failed"]
    requested_by: str
    requested_at: str
    started_at: str | None = None
    completed_at: str | None = None
    attempts: int
    max_attempts: int
    error: str | None = None
    artifacts: list[ArtifactBody]
    result: ResultBody | None


class One(WireModel):
    """An answer with a job."""

    success: Literal[True] = True
    data: JobBody


class Many(WireModel):
    """An answer with jobs, oldest first."""

    success: Literal[True] = True
    data: list[JobBody]


# To the core.


def to_spec(asked: Create, who: Principal, drive_uri: str) -> JobSpec:
    """The same in the core's words. EdgeError `feature_unavailable` for a drive where none is configured."""
    echo = {"providerId": asked.provider_id, "responseFormat": asked.response_format.removeprefix("verbose_")}
    if isinstance(asked.source, DriveSource):
        if not drive_uri:
            message = "The source kind stageDrive is refused: no drive is configured (MURMUR_STAGE_DRIVE_URI)."
            raise RequestError("feature_unavailable", message, (("source.kind", "unavailable"),))
        named = {"session_id": asked.source.session_id, "file_id": asked.source.file_id}
        url = drive_uri.format(tenant=who.tenant, owner=who.owner, **named)
        echo |= {"sessionId": asked.source.session_id, "fileId": asked.source.file_id}
    else:
        url = asked.source.url
    return JobSpec(
        model=asked.model,
        url=url,
        drive=isinstance(asked.source, DriveSource),
        language=asked.language,
        prompt=asked.prompt,
        temperature=asked.temperature,
        max_attempts=asked.max_attempts,
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
    """A job as Shift shows it; one that was cancelled by other means has failed there."""
    told: dict[str, Any] = {
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
        told["startedAt"] = moment(job.started_at)
    if job.completed_at is not None:
        told["completedAt"] = moment(job.completed_at)
    if job.error:
        told["error"] = job.error.message
    return told


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
    """The artifacts of a completed job: their kinds, with file name and content type. A job that asked for `json` has no
    other text. The names are from the source's, of which only what is harmless in a name is kept."""
    name = spec.echo.get("fileId") or unquote(urlsplit(spec.url or "").path)
    stem = re.sub(r"[^\w. -]", "_", PurePosixPath(name).stem)[:100] or "recording"
    form, text = FORMATS["json"], FORMATS[spec.echo["responseFormat"]]
    files = {"normalizedAudio": (f"{stem}-normalized.wav", "audio/wav")}
    if text is not form:
        files["transcriptText"] = f"{stem}.{text.suffix}", text.content_type
    return files | {"transcriptJson": (f"{stem}.json", form.content_type)}


def content_of(job: Job, kind: str, transcript: Transcript) -> bytes:
    """The bytes of an artifact that is text."""
    form = job.spec.echo["responseFormat"] if kind == "transcriptText" else "json"
    return FORMATS[form].render(transcript).encode()


def error(problem: RequestError) -> Response:
    """An error in Shift's envelope; what is wrong with a request is a 400."""
    body = {"success": False, "error": {"code": problem.code, "message": problem.message}}
    return JSONResponse(body, problem.plain_status, problem.headers)


# Routes.

BODY = request_body(json=Create)
ERROR = {"description": "Why not.", "content": {"application/json": {"schema": {"required": ["success", "error"]}}}}
RESPONSES: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 403, 404, 405, 409, 410, 429), ERROR)
FILE: dict[int | str, dict[str, Any]] = {
    status: {"content": {kind: {} for kind in ("audio/wav", "text/vtt", "application/json", "text/plain")}}
    for status in (200, 206, 416)
}
PAGE, KNOWN = 500, 20_000


class Routes:
    """What the paths do."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("shift", "tj_{.hex}")
        self._known: dict[str, dict[str, int]] = {}

    async def create(self, request: Request, who: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Create a transcription job."""
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise RequestError("malformed", "Send application/json.")
        asked = validated(Create, given(await read_json(request.stream())))
        async with self._jobs.draft(who, key, trace) as draft:
            job = await draft.submit(to_spec(asked, who, self._context.drive_uri))
        return await self._one(request, job, 202)

    async def all(self, request: Request, who: CanRead) -> Response:
        """All jobs, oldest first, without their results."""
        told: list[dict[str, Any]] = []
        after: int | None = None
        while True:
            page = await self._jobs.query(who, JobQuery(newest_first=False, after=after, limit=PAGE))
            told += [from_job(job, await self._artifacts(request, job), None) for job in page.jobs]
            after = page.next
            if after is None:
                return JSONResponse({"success": True, "data": told})

    async def get(self, request: Request, who: CanRead, job_id: str) -> Response:
        """A job, with its artifacts and its result once it is completed."""
        return await self._one(request, await self._jobs.get_undeleted(who, job_id))

    async def retry(self, request: Request, who: CanWrite, job_id: str) -> Response:
        """Queue a failed job again, unless it has had its attempts."""
        return await self._one(request, await self._jobs.retry(who, job_id), 202)

    async def artifact(
        self, who: CanRead, job_id: str, kind: str, wanted: Annotated[str | None, Header(alias="Range")] = None
    ) -> Response:
        """The bytes of an artifact."""
        job = await self._jobs.get_undeleted(who, job_id)
        if job.transcript is None or kind not in files_of(job.spec):
            raise RequestError("not_found", "The job has no such artifact.")
        filename, content_type = files_of(job.spec)[kind]
        if kind == "normalizedAudio":
            answer = file_response(self._jobs.results, await self._jobs.results.file(job, AUDIO), wanted)
        else:
            content = content_of(job, kind, await self._jobs.results.transcript(job))
            answer = Response(content, headers={"Content-Type": content_type})
        answer.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(filename)}"
        return answer

    async def _one(self, request: Request, job: Job, status: int = 200) -> Response:
        told = from_job(job, await self._artifacts(request, job), await self._jobs.results.transcript_or_none(job))
        return JSONResponse({"success": True, "data": told}, status)

    async def _artifacts(self, request: Request, job: Job) -> list[dict[str, Any]]:
        """Those of a completed job, while they are there."""
        audio = self._jobs.results.audio(job)
        if audio is None:
            return []
        sizes = {"normalizedAudio": audio.size}
        with suppress(RequestError):
            sizes |= await self._sizes(job)
        at = f"{self._context.at(request)}{PREFIX}/{job.id}/artifacts"
        return [
            {
                "kind": kind,
                "filename": filename,
                "contentType": content_type.partition(";")[0],
                "sizeBytes": sizes[kind],
                "url": f"{at}/{kind}",
            }
            for kind, (filename, content_type) in files_of(job.spec).items()
            if kind in sizes
        ]

    async def _sizes(self, job: Job) -> dict[str, int]:
        """Lengths of the texts in bytes. They are kept: whoever lists all jobs would have them all written again."""
        key = f"{job.id}/{job.transcript}"
        if key not in self._known:
            transcript = await self._jobs.results.transcript(job)
            texts = [kind for kind in files_of(job.spec) if kind != "normalizedAudio"]
            written = await asyncio.to_thread(lambda: [len(content_of(job, kind, transcript)) for kind in texts])
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[key] = dict(zip(texts, written, strict=True))
        return self._known[key]


PREFIX = "/api/v1/inference/transcriptions/jobs"


def routes(context: ApiContext) -> APIRouter:
    """The routes under /api/v1/inference/transcriptions/jobs."""
    shift = Routes(context)
    router = APIRouter(prefix=PREFIX, responses=RESPONSES)
    router.post("", status_code=202, response_model=One, openapi_extra=BODY)(shift.create)
    router.get("", response_model=Many)(shift.all)
    router.get("/{job_id}", response_model=One)(shift.get)
    router.post("/{job_id}/retry", status_code=202, response_model=One)(shift.retry)
    router.get("/{job_id}/artifacts/{kind}", response_class=Response, responses=FILE)(shift.artifact)
    return router


SHIFT = Dialect("shift", PREFIX, routes, error)

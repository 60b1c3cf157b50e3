"""Shift's transcription jobs: success envelopes, phases, artifacts, retry."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse

from serve_app.dialects.base import (
    ApiContext,
    ByteRange,
    Dialect,
    IdempotencyKey,
    JobId,
    request_body,
    validated,
    without_blanks,
)
from serve_app.dialects.shift.settings import ShiftSettings
from serve_app.dialects.shift.translate import content_of, error, files_of, from_job, to_spec
from serve_app.dialects.shift.wire import ShiftError, ShiftJobListResponse, ShiftJobRequest, ShiftJobResponse
from serve_app.errors import RequestError
from serve_app.http.auth import CanRead, CanWrite
from serve_app.http.byte_ranges import file_response
from serve_app.http.json_response import json_response
from serve_app.http.openapi import Responses, binary, content, errors, header, operation_id
from serve_app.http.parameters import is_json
from serve_app.http.request_ids import Traced
from serve_app.http.uploads import json_body
from serve_app.models.job import Job
from serve_app.models.listing import JobQuery
from serve_app.models.storage_paths import AUDIO

PREFIX = "/api/v1/inference/transcriptions/jobs"
ArtifactKind = Annotated[str, Path(description="`normalizedAudio`, `transcriptText` or `transcriptJson`.")]

PAGE = 500  # jobs in a query of the list
MAX_SIZES = 20_000  # jobs in the cache of artifact sizes


class Routes:
    """Route handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("shift", "tj_{.hex}")
        self._sizes: dict[str, dict[str, int]] = {}

    async def create(self, request: Request, principal: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Create a transcription job for a URL or a file in a drive."""
        if not is_json(request):
            raise RequestError("malformed", "Send application/json.")
        body = validated(ShiftJobRequest, without_blanks(await json_body(request)))
        async with self._jobs.draft(principal, key, trace) as draft:
            job = await draft.submit(
                to_spec(body, principal, self._context.settings("shift", ShiftSettings).stage_drive_uri)
            )
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

    async def get(self, request: Request, principal: CanRead, job_id: JobId) -> Response:
        """Get a job, with its artifacts and result once it is completed."""
        return await self._respond(request, await self._jobs.get_undeleted(principal, job_id))

    async def retry(self, request: Request, principal: CanWrite, job_id: JobId) -> Response:
        """Queue a failed job again, if it has attempts left."""
        return await self._respond(request, await self._jobs.retry(principal, job_id), 202)

    async def artifact(self, principal: CanRead, job_id: JobId, kind: ArtifactKind, byte_range: ByteRange) -> Response:
        """Download an artifact."""
        job = await self._jobs.get_undeleted(principal, job_id)
        if job.transcript is None or job.partial or kind not in files_of(job.spec):
            raise RequestError("not_found", "The job has no such artifact.")
        filename, content_type = files_of(job.spec)[kind]
        if kind == "normalizedAudio":
            response = await file_response(self._jobs.results, await self._jobs.results.file(job, AUDIO), byte_range)
        else:
            content = await asyncio.to_thread(content_of, job, kind, await self._jobs.results.transcript(job))
            response = Response(content, headers={"Content-Type": content_type})
        response.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(filename)}"
        return response

    async def _respond(self, request: Request, job: Job, status: int = 200) -> Response:
        artifacts, transcript = await self._artifacts(request, job), await self._jobs.results.transcript_or_none(job)
        return await json_response(lambda: {"success": True, "data": from_job(job, artifacts, transcript)}, status)

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
            transcript = await self._jobs.results.transcript(job, audited=False)
            kinds = [kind for kind in files_of(job.spec) if kind != "normalizedAudio"]
            sizes = await asyncio.to_thread(lambda: [len(content_of(job, kind, transcript)) for kind in kinds])
            if len(self._sizes) >= MAX_SIZES:
                self._sizes.clear()
            self._sizes[key] = dict(zip(kinds, sizes, strict=True))
        return self._sizes[key]


def _files() -> Responses:
    """Responses with a file; texts have no ranges."""
    headers = {"Content-Disposition": header("`attachment`, with the file's name.")}
    files = {
        **binary("audio/wav"),
        **content(str, "text/vtt", "text/plain", "application/x-subrip", "text/tab-separated-values"),
    }
    ranged = headers | {"Content-Range": header("Range of the body, or the size of the file.")}
    return {
        200: {"description": "The file.", "headers": headers, "content": {**files, **content(dict[str, Any])}},
        206: {"description": "The range of its bytes.", "headers": ranged, "content": binary("audio/wav")},
        416: {"description": "The file has no such range.", "headers": ranged},
    }


def routes(context: ApiContext) -> APIRouter:
    """The routes under /api/v1/inference/transcriptions/jobs."""
    shift = Routes(context)
    router = APIRouter(
        prefix=PREFIX,
        tags=["Shift"],
        responses=errors(ShiftError, 400, 401, 403, 405, 429),
        generate_unique_id_function=operation_id,
    )
    job, no_job = "The job.", errors(ShiftError, 404, 410)
    router.post(
        "",
        status_code=202,
        summary="Create a job",
        response_model=ShiftJobResponse,
        response_description=job,
        openapi_extra=request_body(json=ShiftJobRequest),
        responses=errors(ShiftError, 408, 409),
    )(shift.create)
    router.get("", name="list", summary="List jobs", response_model=ShiftJobListResponse, response_description="All jobs.")(
        shift.all
    )
    router.get(
        "/{job_id}", summary="Get a job", response_model=ShiftJobResponse, response_description=job, responses=no_job
    )(shift.get)
    router.post(
        "/{job_id}/retry",
        status_code=202,
        summary="Retry a failed job",
        response_model=ShiftJobResponse,
        response_description=job,
        responses=errors(ShiftError, 404, 409, 410),
    )(shift.retry)
    router.get(
        "/{job_id}/artifacts/{kind}",
        summary="Download an artifact",
        response_class=Response,
        responses={**_files(), **no_job},
    )(shift.artifact)
    return router


SHIFT = Dialect(
    "shift",
    PREFIX,
    routes,
    error,
    settings=ShiftSettings,
    tags={"Shift": "Shift's transcription jobs: success envelopes, phases, artifacts, retry."},
)

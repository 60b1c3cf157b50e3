"""Routes of Speech is Cheap: jobs by URL or upload, streams, errors in plain text."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response, Security
from fastapi.responses import JSONResponse, PlainTextResponse
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import ClientDisconnect

from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, JobId, request_body, validated
from serve_app.dialects.speechischeap.stream import (
    JsonRenderer,
    SubtitleRenderer,
    error_frame,
    exception_frame,
    follow,
    json_frame,
    upload_frame,
)
from serve_app.dialects.speechischeap.translate import (
    error,
    from_form,
    from_job,
    message_of,
    missing,
    render,
    subtitle_format,
    to_spec,
)
from serve_app.dialects.speechischeap.upload_progress import UploadResponse, UploadTask
from serve_app.dialects.speechischeap.wire import FILE, URL, CheapJob, CheapJobRequest, CheapUploadForm
from serve_app.dialects.speechischeap.wire_events import CheapEvent
from serve_app.errors import RequestError, not_found
from serve_app.http.auth import CanRead, CanWrite, caller
from serve_app.http.json_response import json_response
from serve_app.http.openapi import UPLOAD, errors, event_stream, operation_id
from serve_app.http.parameters import is_json, is_multipart
from serve_app.http.request_bodies import broken_off
from serve_app.http.request_ids import Traced
from serve_app.http.sse import HEADERS, PING_S
from serve_app.http.uploads import Form, json_body
from serve_app.jobs.tenant_slots import Slot
from serve_app.models.job import Job, JobSpec
from serve_app.models.principal import Principal
from serve_app.models.trace import Trace

PREFIX = "/v2/jobs"
AnyKey = Annotated[Principal, Security(caller)]
Upload = UploadTask[tuple[Job, Slot | None]]


class Routes:
    """Route handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("speechischeap", "{}-sic")

    async def create(self, request: Request, principal: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Create a job of `input_url` (JSON) or `input_file` (multipart). The response is a stream for an upload, and with
        `can_stream_output`; closing it does not stop the job."""
        if is_multipart(request):
            return await self._upload(request, principal, trace, key)
        if not is_json(request):
            raise RequestError("malformed", f"Send application/json with {URL}, or multipart/form-data with {FILE}.")
        body: Any = await json_body(request)
        if isinstance(body, dict) and body.get(URL) in (None, ""):
            raise missing(URL)
        options = validated(CheapJobRequest, body)
        slot = self._jobs.stream_slot(principal) if options.can_stream_output else None
        with slot.kept() if slot else nullcontext():
            async with self._jobs.draft(principal, key, trace) as draft:
                job = await draft.submit(self._bounded(to_spec(options, body, url=options.input_url)))
        if slot:
            return EventSourceResponse(self._job_frames(principal, job, slot), ping=PING_S, headers=HEADERS, sep="\n")
        return JSONResponse(from_job(job), 202)

    async def _upload(self, request: Request, principal: Principal, trace: Trace, key: str | None) -> Response:
        upload = Upload(lambda form: self._check(principal, form))
        await upload.start(self._receive(request, principal, trace, key, upload))
        return UploadResponse(self._upload_frames(request, principal, upload), upload)

    async def _receive(
        self, request: Request, principal: Principal, trace: Trace, key: str | None, upload: Upload
    ) -> tuple[Job, Slot | None]:
        async with self._jobs.draft(principal, key, trace) as draft:
            form = await self._context.receive_form(
                request,
                draft,
                FILE,
                required=False,
                check=lambda form: self._check(principal, form),
                watch=upload.watch,
            )
            if form.filename is None:
                raise missing(FILE)
            options, spec = from_form(form)
            slot = self._jobs.stream_slot(principal) if options.can_stream_output else None
            with slot.kept() if slot else nullcontext():
                return await draft.submit(self._bounded(spec), form.sha256), slot

    def _check(self, principal: Principal, form: Form) -> None:
        """Refuse invalid fields before the file is read, and before the response starts."""
        self._jobs.resolve(principal, self._bounded(from_form(form)[1]))

    def _bounded(self, spec: JobSpec) -> JobSpec:
        """The spec with this API's own lifetime of private jobs, where the operator's limit is not shorter."""
        if spec.result_ttl_s is None:
            return spec
        return replace(spec, result_ttl_s=int(min(spec.result_ttl_s, self._jobs.max_result_ttl_s)))

    async def _upload_frames(
        self, request: Request, principal: Principal, upload: Upload
    ) -> AsyncGenerator[ServerSentEvent, None]:
        async for size in upload.progress():
            yield upload_frame(size)
        try:
            job, slot = await upload.result()
        except ClientDisconnect:
            yield error_frame(broken_off(request).message)  # if the client has left, nobody reads it
            return
        except RequestError as problem:
            yield error_frame(message_of(problem))
            return
        except Exception as error:  # noqa: BLE001 - the response has begun, so the error goes into the stream
            yield exception_frame(error)
            return
        yield upload_frame(upload.size)
        if slot is None:
            yield json_frame(from_job(job))
            return
        async with aclosing(self._job_frames(principal, job, slot)) as frames:
            async for frame in frames:
                yield frame

    def _job_frames(self, principal: Principal, job: Job, slot: Slot) -> AsyncGenerator[ServerSentEvent, None]:
        if subtitles := subtitle_format(job):
            return follow(self._jobs, principal, job, SubtitleRenderer(subtitles), slot)
        device = self._context.devices.get(job.model, "").partition(" ")[0] or None
        request = orjson.loads(job.spec.echo["request"])
        return follow(self._jobs, principal, job, JsonRenderer(request, device, job.spec.segment_duration), slot)

    async def auth(self, _principal: AnyKey) -> str:
        """Check an API key."""
        return "OK"

    async def get(self, principal: CanRead, job_id: JobId) -> Response:
        """Get a job, with its output once it has ended."""
        job = await self._jobs.get_undeleted(principal, job_id)
        transcript = await self._jobs.results.transcript_or_none(job)
        return await json_response(lambda: from_job(job, transcript))

    async def cancel(self, principal: CanWrite, job_id: JobId) -> str:
        """Cancel a pending job."""
        job = await self._jobs.get_undeleted(principal, job_id)
        if job.phase.final or job.cancelling:
            raise not_found()
        try:
            await self._jobs.cancel(principal, job_id)
        except RequestError as problem:  # it has ended meanwhile
            raise not_found() from problem
        return "OK"


def routes(context: ApiContext) -> APIRouter:
    """The routes under /v2/jobs, each with and without a slash at its end."""
    jobs = Routes(context)
    router = APIRouter(
        prefix=PREFIX,
        tags=["Speech is Cheap"],
        responses=errors(str, 400, 401, 403, 405, 429, media_type="text/plain"),
        generate_unique_id_function=operation_id,
    )
    for end in ("", "/"):
        _add_routes(router, jobs, end)
    return router


def _add_routes(router: APIRouter, jobs: Routes, end: str) -> None:
    """All routes, with `end` after their paths; in the document without it only."""
    refused = partial(errors, str, media_type="text/plain")
    stream = {
        "description": "Events with a `type`, as they occur; with `output_format` the cues of a subtitle file.",
        "content": event_stream("CheapStreamEvent", CheapEvent, only_json=False),
    }
    documented = not end
    router.post(
        end,
        status_code=202,
        summary="Create a job",
        response_model=CheapJob,
        response_description="The job.",
        responses={200: stream, **refused(*UPLOAD)},
        openapi_extra=request_body(form=CheapUploadForm, file=FILE, json=CheapJobRequest),
        include_in_schema=documented,
    )(jobs.create)
    router.get(
        f"/auth{end}",
        summary="Check an API key",
        response_class=PlainTextResponse,
        response_description="`OK`.",
        include_in_schema=documented,
    )(jobs.auth)
    router.get(
        f"/{{job_id}}{end}",
        summary="Get a job",
        response_model=CheapJob,
        response_description="The job.",
        responses=refused(404),
        include_in_schema=documented,
    )(jobs.get)
    router.delete(
        f"/{{job_id}}{end}",
        summary="Cancel a job",
        response_class=PlainTextResponse,
        response_description="`OK`.",
        responses=refused(404),
        include_in_schema=documented,
    )(jobs.cancel)


SPEECH_IS_CHEAP = Dialect(
    "speechischeap",
    PREFIX,
    routes,
    error,
    render,
    tags={"Speech is Cheap": "Speech is Cheap's jobs: uploads and streams that respond with Server-Sent Events."},
)

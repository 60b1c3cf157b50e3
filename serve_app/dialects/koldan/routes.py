"""Koldan's routes: files and jobs, filtered lists, deletion in two steps (deleted, purged)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, request_body, validated
from serve_app.dialects.koldan.transcript import from_transcript
from serve_app.dialects.koldan.translate import (
    error,
    filters_and_sort,
    form_fields,
    from_job,
    from_summary,
    render,
    to_query,
    to_spec,
    with_webhook,
)
from serve_app.dialects.koldan.wire_requests import (
    KoldanJobQuery,
    KoldanJobRequest,
    KoldanUploadForm,
    KoldanWebhookRequest,
)
from serve_app.errors import RequestError
from serve_app.http.auth import CanDelete, CanRead, CanUpload, CanWrite
from serve_app.http.parameters import is_json, is_multipart
from serve_app.http.request_ids import Traced
from serve_app.http.uploads import Form, read_json
from serve_app.jobs.submission import Draft
from serve_app.models.file import File
from serve_app.models.job import Job
from serve_app.models.principal import Principal

PREFIX = "/api/v1/speech-services/transcriptions"
ERROR = {"description": "Why not.", "content": {"application/json": {"schema": {"required": ["status", "code", "message"]}}}}
RESPONSES: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 403, 404, 405, 409, 410, 413, 422, 429), ERROR)
READ_FILES, SUMMARIZE = "speech:files:read", "speech:summaries:write"


class Routes:
    """Route handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.speaking("koldan", "{}")

    async def upload(self, request: Request, principal: CanUpload, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Upload a file, or import it from a URI, and transcribe it."""
        if not is_multipart(request):
            raise RequestError("malformed", "Send multipart/form-data with name, transcription and either file or uri.")
        async with self._jobs.draft(principal, key, trace, as_file=True) as draft:
            form = await self._context.receive_form(request, draft, "file", required=False)
            upload = validated(KoldanUploadForm, form_fields(form))
            if (form.filename is None) == (upload.uri is None):
                message = "Provide either file or uri, and not both."
                raise RequestError("malformed", message, (("file", "either"), ("uri", "or")))
            if upload.summary and not principal.may(SUMMARIZE):
                raise RequestError("forbidden", f"The API key does not have the scope {SUMMARIZE}.")
            file = _new_file(upload, form, draft, principal)
            spec = to_spec(
                upload.transcription,
                upload.diarization,
                upload.webhook,
                file=file.id,
                url=upload.uri,
                filename=form.filename,
                listening=upload.generate_listening_audio,
                summary=upload.summary.prompt_template_id if upload.summary else None,
            )
            job = await draft.submit(spec, form.sha256, file)
        body = from_job(job)
        return JSONResponse({"file": body["file"], "job": body, "summary": await self._summary(job)}, 201)

    async def _summary(self, job: Job) -> dict[str, Any] | None:
        return from_summary(job, await self._jobs.results.summary(job))

    async def create(self, request: Request, principal: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Transcribe an uploaded file."""
        if not is_json(request):
            raise RequestError("malformed", "Send application/json.")
        body = validated(KoldanJobRequest, await read_json(request.stream()))
        file = await self._jobs.file(principal, str(body.file_id))
        if file.size is None:
            raise RequestError("file_unusable", "The file has not been imported yet.", (("fileId", "not imported"),))
        async with self._jobs.draft(principal, key, trace) as draft:
            spec = to_spec(body.transcription, body.diarization, body.webhook, file=file.id, filename=file.filename)
            job = await draft.submit(spec)
        return JSONResponse(from_job(job), 201)

    async def page(self, principal: CanRead, query: Annotated[KoldanJobQuery, Query()]) -> Response:
        """List jobs without their results, a page at a time."""
        if query.file_id is not None and not principal.may(READ_FILES):
            raise RequestError("forbidden", f"The API key does not have the scope {READ_FILES}.")
        core = to_query(query)
        page = await self._jobs.query(principal, core)
        jobs = [from_job(job) for job in page.jobs]
        return JSONResponse({"jobs": jobs, "size": len(jobs), "total": page.total, **filters_and_sort(query, core)})

    async def get(self, principal: CanRead, job_id: str) -> Response:
        """Get a job, with its result until it is purged."""
        job = await self._jobs.get(principal, job_id)
        transcript = await self._jobs.results.heard(job)
        body = from_job(job)
        body["result"] = None if transcript is None else from_transcript(job, transcript)
        if summary := await self._summary(job):
            body["summary"] = summary
        return JSONResponse(body)

    async def result(self, principal: CanRead, job_id: str, format: str = "json") -> Response:
        """Get the result of a completed job."""
        if format != "json":
            message = f"The format {format!r} is not supported: use json."
            raise RequestError("invalid_request", message, (("format", "unsupported"),))
        job = await self._jobs.get(principal, job_id)
        if job.purged_at is not None:
            raise RequestError("gone", "The job's result has been purged.")
        if job.transcript is None:
            raise RequestError("not_found", "The job has no result: it is not completed.")
        return JSONResponse(from_transcript(job, await self._jobs.results.transcript(job)))

    async def set_webhook(self, request: Request, principal: CanWrite, job_id: str) -> Response:
        """Set or replace the webhook of a job that has not ended."""
        job = await self._jobs.get(principal, job_id)
        webhook = validated(KoldanWebhookRequest, await read_json(request.stream()))
        job = await self._jobs.set_webhook(principal, job.id, with_webhook(job.spec, webhook))
        return JSONResponse(from_job(job))

    async def drop_webhook(self, principal: CanWrite, job_id: str) -> Response:
        """Remove the webhook of a job that has not ended."""
        job = await self._jobs.get(principal, job_id)
        await self._jobs.set_webhook(principal, job.id, with_webhook(job.spec, None))
        return Response(status_code=204)

    async def cancel(self, principal: CanWrite, job_id: str) -> Response:
        """Cancel a job that has not ended, and wait until it has stopped."""
        await self._jobs.stop(principal, job_id)
        return Response(status_code=204)

    async def delete(self, principal: CanDelete, job_id: str, purge: bool = False) -> Response:
        """Mark an ended job as deleted; with `purge`, remove its results at once."""
        if not purge:
            await self._jobs.mark_deleted(principal, job_id)
        elif (await self._jobs.get(principal, job_id)).purged_at is None:
            await self._jobs.purge_results(principal, job_id, deleted=False)
        return Response(status_code=204)

    async def purge(self, principal: CanDelete, job_id: str) -> Response:
        """Remove the results of a deleted job for good."""
        await self._jobs.purge_results(principal, job_id, deleted=True)
        return Response(status_code=204)


def _new_file(upload: KoldanUploadForm, form: Form, draft: Draft, principal: Principal) -> File:
    return File(
        str(draft.file),
        principal.owner,
        principal.tenant,
        upload.name,
        filename=form.filename,
        description=upload.description,
        path=upload.path,
        metadata=upload.metadata,
        tags=tuple(upload.tags),
        url=upload.uri,
        size=None if form.filename is None else form.size,
    )


def routes(context: ApiContext) -> APIRouter:
    """The routes under /api/v1/speech-services/transcriptions."""
    koldan = Routes(context)
    router = APIRouter(prefix=PREFIX, responses=RESPONSES)
    router.get("", response_class=JSONResponse)(koldan.page)
    upload = request_body(form=KoldanUploadForm, file="file")
    router.post("/upload", status_code=201, response_class=JSONResponse, openapi_extra=upload)(koldan.upload)
    create = request_body(json=KoldanJobRequest)
    router.post("", status_code=201, response_class=JSONResponse, openapi_extra=create)(koldan.create)
    router.get("/{job_id}", response_class=JSONResponse)(koldan.get)
    router.get("/{job_id}/result", response_class=JSONResponse)(koldan.result)
    hook = request_body(json=KoldanWebhookRequest)
    router.put("/{job_id}/webhook", response_class=JSONResponse, openapi_extra=hook)(koldan.set_webhook)
    router.delete("/{job_id}/webhook", status_code=204, response_class=Response)(koldan.drop_webhook)
    router.post("/{job_id}/cancel", status_code=204, response_class=Response)(koldan.cancel)
    router.delete("/{job_id}", status_code=204, response_class=Response)(koldan.delete)
    router.post("/{job_id}/purge", status_code=204, response_class=Response)(koldan.purge)
    return router


KOLDAN = Dialect("koldan", PREFIX, routes, error, render)

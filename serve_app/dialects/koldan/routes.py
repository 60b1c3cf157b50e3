"""Koldan's routes: files and jobs, filtered lists, deletion in two steps (deleted, purged)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from serve_app.dialects.base import ApiContext, Dialect, IdempotencyKey, JobId, request_body, validated, validated_so_far
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
from serve_app.dialects.koldan.wire_responses import (
    KoldanError,
    KoldanJob,
    KoldanJobList,
    KoldanJobWithResult,
    KoldanResult,
    KoldanUpload,
)
from serve_app.errors import RequestError
from serve_app.http.auth import CanDelete, CanRead, CanUpload, CanWrite
from serve_app.http.json_response import json_response
from serve_app.http.openapi import UPLOAD, Responses, content, errors, operation_id
from serve_app.http.parameters import is_json, is_multipart
from serve_app.http.request_ids import Traced
from serve_app.http.uploads import Form, json_body
from serve_app.jobs.submission import Draft
from serve_app.models.file import File
from serve_app.models.job import Job, JobSpec
from serve_app.models.principal import Principal

PREFIX = "/api/v1/speech-services/transcriptions"
Purge = Annotated[bool, Query(description="Whether to remove its results at once.")]
Format = Annotated[str, Query(description="Only `json` is supported.", json_schema_extra={"enum": ["json"]})]
READ_FILES, SUMMARIZE = "speech:files:read", "speech:summaries:write"


class Routes:
    """Route handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs.for_dialect("koldan", "{}")

    async def upload(self, request: Request, principal: CanUpload, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Upload a file, or import it from a URI, and transcribe it."""
        if not is_multipart(request):
            raise RequestError("malformed", "Send multipart/form-data with name, transcription and either file or uri.")
        async with self._jobs.draft(principal, key, trace, as_file=True) as draft:
            form = await self._context.receive_form(
                request, draft, "file", required=False, check=lambda form: self._check(principal, form)
            )
            upload = validated(KoldanUploadForm, form_fields(form))
            if (form.filename is None) == (upload.uri is None):
                message = "Provide either file or uri, and not both."
                raise RequestError("malformed", message, (("file", "either"), ("uri", "or")))
            file = _new_file(upload, form, draft, principal)
            job = await draft.submit(_upload_spec(upload, form, principal, file.id), form.sha256, file)
        body = from_job(job)
        return JSONResponse({"file": body["file"], "job": body, "summary": await self._summary(job)}, 201)

    def _check(self, principal: Principal, form: Form) -> None:
        """Refuse invalid fields before the file is read."""
        if upload := validated_so_far(KoldanUploadForm, form_fields(form)):
            self._jobs.resolve(principal, _upload_spec(upload, form, principal, None))

    async def _summary(self, job: Job) -> dict[str, Any] | None:
        return from_summary(job, await self._jobs.results.summary(job))

    async def create(self, request: Request, principal: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Transcribe an uploaded file."""
        if not is_json(request):
            raise RequestError("malformed", "Send application/json.")
        body = validated(KoldanJobRequest, await json_body(request))
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

    async def get(self, principal: CanRead, job_id: JobId) -> Response:
        """Get a job, with its result until it is purged."""
        job = await self._jobs.get(principal, job_id)
        transcript = await self._jobs.results.transcript_or_none(job)
        summary = await self._summary(job)

        def body() -> dict[str, Any]:
            result = None if transcript is None else from_transcript(job, transcript)
            return {**from_job(job), "result": result, **({"summary": summary} if summary else {})}

        return await json_response(body)

    async def result(self, principal: CanRead, job_id: JobId, format: Format = "json") -> Response:
        """Get the result of a completed job."""
        if format != "json":
            message = f"The format {format!r} is not supported: use json."
            raise RequestError("invalid_request", message, (("format", "unsupported"),))
        job = await self._jobs.get(principal, job_id)
        if job.purged_at is not None:
            raise RequestError("gone", "The job's result has been purged.")
        if job.transcript is None or job.partial:
            raise RequestError("not_found", "The job has no result: it is not completed.")
        transcript = await self._jobs.results.transcript(job)
        return await json_response(lambda: from_transcript(job, transcript))

    async def set_webhook(self, request: Request, principal: CanWrite, job_id: JobId) -> Response:
        """Set or replace the webhook of a job that has not ended."""
        job = await self._jobs.get(principal, job_id)
        webhook = validated(KoldanWebhookRequest, await json_body(request))
        job = await self._jobs.set_webhook(principal, job.id, with_webhook(job.spec, webhook))
        return JSONResponse(from_job(job))

    async def drop_webhook(self, principal: CanWrite, job_id: JobId) -> Response:
        """Remove the webhook of a job that has not ended."""
        job = await self._jobs.get(principal, job_id)
        await self._jobs.set_webhook(principal, job.id, with_webhook(job.spec, None))
        return Response(status_code=204)

    async def cancel(self, principal: CanWrite, job_id: JobId) -> Response:
        """Cancel a job that has not ended, and wait until it has stopped; 202 if it stops only later."""
        job = await self._jobs.cancel_and_wait(principal, job_id)
        return Response(status_code=204) if job.phase.final else JSONResponse(from_job(job), 202)

    async def delete(self, principal: CanDelete, job_id: JobId, purge: Purge = False) -> Response:
        """Mark an ended job as deleted; with `purge`, remove its results at once."""
        if not purge:
            await self._jobs.mark_deleted(principal, job_id)
        elif (await self._jobs.get(principal, job_id)).purged_at is None:
            await self._jobs.purge_results(principal, job_id, deleted=False)
        return Response(status_code=204)

    async def purge(self, principal: CanDelete, job_id: JobId) -> Response:
        """Remove the results of a deleted job for good."""
        await self._jobs.purge_results(principal, job_id, deleted=True)
        return Response(status_code=204)


def _upload_spec(upload: KoldanUploadForm, form: Form, principal: Principal, file_id: str | None) -> JobSpec:
    if upload.summary and not principal.may(SUMMARIZE):
        raise RequestError("forbidden", f"The API key does not have the scope {SUMMARIZE}.")
    return to_spec(
        upload.transcription,
        upload.diarization,
        upload.webhook,
        file=file_id,
        url=upload.uri,
        filename=form.filename,
        listening=upload.generate_listening_audio,
        summary=upload.summary.prompt_template_id if upload.summary else None,
    )


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
    router = APIRouter(
        prefix=PREFIX,
        tags=["Koldan"],
        responses=errors(KoldanError, 400, 401, 403, 405, 429),
        generate_unique_id_function=operation_id,
    )
    router.get("", name="list", summary="List jobs", response_model=KoldanJobList, response_description="The page.")(
        koldan.page
    )
    router.post(
        "/upload",
        status_code=201,
        summary="Upload a file and transcribe it",
        response_model=KoldanUpload,
        response_description="The file and its job.",
        openapi_extra=request_body(form=KoldanUploadForm, file="file", file_required=False),
        responses=errors(KoldanError, *UPLOAD),
    )(koldan.upload)
    router.post(
        "",
        status_code=201,
        summary="Transcribe an uploaded file",
        response_model=KoldanJob,
        response_description="The job.",
        openapi_extra=request_body(json=KoldanJobRequest),
        responses=errors(KoldanError, 404, 408, 409, 422),
    )(koldan.create)
    _add_job_routes(router, koldan)
    return router


def _add_job_routes(router: APIRouter, koldan: Routes) -> None:
    """Routes of a single job."""
    no_job, wrong_state = errors(KoldanError, 404), errors(KoldanError, 404, 409)
    done: Responses = {204: {"description": "It is done."}, **wrong_state}
    router.get(
        "/{job_id}",
        summary="Get a job",
        response_model=KoldanJobWithResult,
        response_description="The job.",
        responses=no_job,
    )(koldan.get)
    router.get(
        "/{job_id}/result",
        summary="Get a result",
        response_model=KoldanResult,
        response_description="The result.",
        responses=errors(KoldanError, 404, 410),
    )(koldan.result)
    router.put(
        "/{job_id}/webhook",
        summary="Set the webhook",
        response_model=KoldanJob,
        response_description="The job.",
        openapi_extra=request_body(json=KoldanWebhookRequest),
        responses=errors(KoldanError, 404, 408, 409),
    )(koldan.set_webhook)
    router.delete("/{job_id}/webhook", status_code=204, summary="Remove the webhook", responses=done)(koldan.drop_webhook)
    later: Responses = {202: {"description": "It stops later: its worker is lost.", "content": content(KoldanJob)}}
    router.post("/{job_id}/cancel", status_code=204, summary="Cancel a job", responses={**later, **done})(koldan.cancel)
    router.delete("/{job_id}", status_code=204, summary="Delete a job", responses=done)(koldan.delete)
    router.post("/{job_id}/purge", status_code=204, summary="Purge a deleted job", responses=done)(koldan.purge)


KOLDAN = Dialect(
    "koldan",
    PREFIX,
    routes,
    error,
    render,
    tags={"Koldan": "Koldan's transcriptions: files and jobs, filtered lists, deletion in two steps."},
)

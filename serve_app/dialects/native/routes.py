"""Routes of the native API, which offers everything that the core can do."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from sse_starlette import EventSourceResponse

import serve_app.dialects.native.document as document
import serve_app.dialects.native.tickets as tickets
import serve_app.dialects.native.webhooks as webhooks
import serve_app.dialects.native.wire as wire
from serve_app.dialects.base import (
    ApiContext,
    ByteRange,
    Dialect,
    IdempotencyKey,
    JobId,
    PageSize,
    flat,
    validated,
    validated_so_far,
)
from serve_app.dialects.native.events import from_event
from serve_app.dialects.native.translate import (
    LISTS,
    error,
    form_options,
    render,
    render_job,
    to_spec,
    transcript_response,
)
from serve_app.errors import RequestError
from serve_app.formats import FORMATS
from serve_app.http.auth import CanDelete, CanRead, CanReadJob, CanWrite
from serve_app.http.byte_ranges import file_response
from serve_app.http.request_ids import Traced
from serve_app.http.sse import last_event_id, stream
from serve_app.http.uploads import Form, json_body
from serve_app.jobs.submission import Draft
from serve_app.models.job import JobSpec, Phase

# Media types of a body that is the recording itself.
RAW = ("audio/", "video/", "application/octet-stream")
RETRIED = (Phase.FAILED, Phase.CANCELLED)


class Routes:
    """Route handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._jobs = context.jobs

    async def submit(self, request: Request, principal: CanWrite, trace: Traced, key: IdempotencyKey = None) -> Response:
        """Submit a recording by URL (JSON), as a file (multipart), or as the body itself with the options in the query.
        The job is durable once the response arrives, and goes on if the client disconnects."""
        async with self._jobs.draft(principal, key, trace) as draft:
            spec, sha256 = await self._read(request, draft)
            job = await draft.submit(spec, sha256)
        headers = {"Location": f"/v1/jobs/{job.id}"}
        if job.id != draft.id:
            headers["Idempotent-Replayed"] = "true"
        return Response((await render_job(job, self._jobs.results)).model_dump_json(), 202, headers, "application/json")

    async def _read(self, request: Request, draft: Draft) -> tuple[JobSpec, str]:
        """The job's spec and the SHA-256 of the upload, '' where it names a URL."""
        content_type = request.headers.get("content-type", "")
        kind = content_type.lower()
        if request.query_params and not kind.startswith(RAW):
            name = next(iter(request.query_params))
            raise RequestError("invalid_request", "Send options in the body, not in the query.", ((name, "in the query"),))
        if kind.startswith("application/json"):
            body = validated(wire.JobRequest, await json_body(request))
            return to_spec(body, url=body.source.url), ""
        if kind.startswith("multipart/form-data"):

            def check(form: Form) -> None:
                if options := validated_so_far(wire.Options, flat(form.fields, LISTS)):
                    self._jobs.resolve(draft.principal, to_spec(options, filename=form.filename))

            form = await self._context.receive_form(request, draft, "file", check=check)
            return to_spec(form_options(form.fields), filename=form.filename), form.sha256
        if kind.startswith(RAW):
            query = {name: request.query_params.getlist(name) for name in request.query_params}
            filename = query.pop("filename", [""])[-1] or None
            spec = to_spec(form_options(query), filename=filename)
            self._jobs.resolve(draft.principal, spec)  # refused before the recording is read
            form = await self._context.receive_raw(request, draft)
            return spec, form.sha256
        message = "Send application/json with a source, multipart/form-data with a file, or the recording as audio/*."
        raise RequestError("unsupported_media", message)

    async def list_jobs(
        self,
        principal: CanRead,
        limit: PageSize = 20,
        cursor: Annotated[str | None, Query(max_length=20, description="`next_cursor` of the previous page.")] = None,
        owner: Annotated[
            str | None, Query(max_length=64, description="Owner in the key's tenant, with the scope speech:tenant:read.")
        ] = None,
    ) -> wire.JobList:
        """List the jobs of the caller, or of another owner in its tenant, newest first."""
        page, following = await self._jobs.page(principal, limit=limit, cursor=cursor, owner=owner)
        jobs = await asyncio.gather(*(render_job(job, self._jobs.results) for job in page))
        return wire.JobList(jobs=jobs, next_cursor=following)

    async def get(self, principal: CanReadJob, job_id: JobId) -> wire.Job:
        """Read a job: its phase, progress, error and artifacts."""
        return await render_job(await self._jobs.get_undeleted(principal, job_id), self._jobs.results)

    async def events(
        self,
        principal: CanReadJob,
        job_id: JobId,
        last: Annotated[
            str | None, Header(alias="Last-Event-ID", description="Id of the last event received, to resume after it.")
        ] = None,
        last_in_query: Annotated[
            str | None, Query(alias="lastEventId", description="The same, for a client that sends no headers.")
        ] = None,
    ) -> Response:
        """Follow a job as Server-Sent Events: `phase`, `progress`, `segment` and finally `done`. Answers 204
        when there are no more events; an EventSource then stops reconnecting."""
        events = await self._jobs.resume(principal, job_id, last_event_id(last or last_in_query))
        if events is None:
            return Response(status_code=204)
        return stream(events, from_event, self._context.sse_max_age_s)

    async def transcript(
        self,
        principal: CanReadJob,
        job_id: JobId,
        format: Annotated[str, Query(description="Format.", json_schema_extra={"enum": [*FORMATS]})] = "json",
    ) -> Response:
        """Read the transcript: json, text, srt, vtt or tsv. That of a failed or cancelled job is partial, and so is the
        text so far of a running one, which only json can say."""
        if format not in FORMATS:
            formats = ", ".join(FORMATS)
            message = f"There is no format {format!r}: use {formats}."
            raise RequestError("invalid_request", message, (("format", "unknown"),))
        so_far = await self._jobs.transcript_so_far(principal, job_id)
        if format != "json" and not so_far.final:
            raise RequestError("conflict", "The job has not ended: wait for its end, or read the text so far as json.")
        return await asyncio.to_thread(transcript_response, so_far, format)

    async def artifact(
        self,
        principal: CanReadJob,
        job_id: JobId,
        name: Annotated[str, Path(description="Name of one of the job's artifacts.")],
        byte_range: ByteRange,
    ) -> Response:
        """Read a file of a job, whole or a range of its bytes."""
        return await file_response(self._jobs.results, await self._jobs.artifact(principal, job_id, name), byte_range)

    async def cancel(self, principal: CanWrite, job_id: JobId) -> wire.Job:
        """Cancel a job: at once while it waits, within one window while it runs."""
        return await render_job(await self._jobs.cancel(principal, job_id), self._jobs.results)

    async def retry(self, principal: CanWrite, job_id: JobId) -> wire.Job:
        """Queue a failed or cancelled job again while it has attempts left; it resumes after its last committed window."""
        return await render_job(await self._jobs.retry(principal, job_id, RETRIED), self._jobs.results)

    async def delete(
        self,
        principal: CanDelete,
        job_id: JobId,
        purge: Annotated[bool, Query(description="Whether to delete, or only to mark as deleted.")] = True,
    ) -> None:
        """Delete an ended job with its results, audio and events. With `purge=false` it is only marked as deleted: it
        leaves the lists, and answers 410 until it expires."""
        await (self._jobs.delete if purge else self._jobs.mark_deleted)(principal, job_id)

    async def list_models(self, _: CanRead) -> wire.ModelList:
        """List the models on offer, the default first."""
        models = [wire.Model(id=m.id, languages=list(m.languages)) for m in self._jobs.catalog.models]
        return wire.ModelList(models=models, data=models)

    async def get_model(
        self, _: CanRead, model_id: Annotated[str, Path(description="Name of a model, or one of its aliases.")]
    ) -> wire.Model:
        """Read a model, by its name or an alias."""
        name = self._jobs.catalog.model_of(model_id)
        for model in self._jobs.catalog.models:
            if model.id == name:
                return wire.Model(id=model.id, languages=list(model.languages))
        raise RequestError("not_found", f"There is no model {model_id!r} here.")


def routes(context: ApiContext) -> APIRouter:
    """Routes under /v1: jobs and models, then webhooks."""
    native = Routes(context)
    jobs = APIRouter(prefix="/v1/jobs", tags=["Jobs"], **document.NATIVE_ROUTER)
    jobs.post("", status_code=202, response_model=wire.Job, **document.SUBMIT)(native.submit)
    jobs.get("", **document.LIST)(native.list_jobs)
    jobs.get("/{job_id}", **document.GET)(native.get)
    jobs.get("/{job_id}/events", response_class=EventSourceResponse, **document.EVENTS)(native.events)
    jobs.get("/{job_id}/transcript", response_class=PlainTextResponse, **document.TRANSCRIPT)(native.transcript)
    jobs.get("/{job_id}/artifacts/{name}", response_class=Response, **document.ARTIFACT)(native.artifact)
    jobs.post("/{job_id}/cancel", status_code=202, **document.CANCEL)(native.cancel)
    jobs.post("/{job_id}/retry", status_code=202, **document.RETRY)(native.retry)
    jobs.delete("/{job_id}", status_code=204, **document.DELETE)(native.delete)
    models = APIRouter(prefix="/v1/models", tags=["Models"], **document.NATIVE_ROUTER)
    models.get("", **document.LIST_MODELS)(native.list_models)
    models.get("/{model_id:path}", **document.GET_MODEL)(native.get_model)
    router = APIRouter()
    for part in (jobs, tickets.routes(context.jobs), models, webhooks.routes(context.deliveries)):
        router.routes.extend(part.routes)
    return router


NATIVE = Dialect("native", "/v1", routes, error, render, tags=document.TAGS)

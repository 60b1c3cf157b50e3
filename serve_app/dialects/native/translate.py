"""Native API to the core and back: options to JobSpec, Job to wire models, errors to problems, webhook payloads."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from fastapi import Response
from fastapi.responses import JSONResponse

import serve_app.dialects.native.wire as wire
from serve_app.dialects.base import artifact_url, flat, utc, validated
from serve_app.errors import RequestError
from serve_app.formats import FORMATS, json_document
from serve_app.jobs.results import Artifact, Results, TranscriptSoFar
from serve_app.jobs.webhook_payload import Payload
from serve_app.models.job import Job, JobSpec

PROBLEM = "application/problem+json"
LISTS = ("fallbacks",)  # form fields that may be repeated


def to_spec(options: wire.Options, *, url: str | None = None, filename: str | None = None) -> JobSpec:
    """Options as a JobSpec; no model means the default."""
    fields = options.model_dump(exclude={"source", "model", "fallbacks"})
    return JobSpec(model=options.model or "", fallbacks=tuple(options.fallbacks), url=url, filename=filename, **fields)


def form_options(fields: Mapping[str, list[str]]) -> wire.Options:
    """Options of form fields or of a query. Raises RequestError with those that are wrong."""
    return validated(wire.Options, flat(fields, LISTS))


def from_job(job: Job, files: list[Artifact]) -> wire.Job:
    """A job with its files."""
    spec = job.spec
    return wire.Job(
        id=job.id,
        phase=job.phase,
        created_at=utc(job.created_at),
        started_at=utc(job.started_at),
        completed_at=utc(job.completed_at),
        attempts=job.attempts,
        max_attempts=spec.max_attempts,
        model=job.model,
        language=job.language,
        duration_s=job.audio_total_s,
        options={name: getattr(spec, name) for name in wire.SHOWN_OPTIONS},
        progress=wire.Progress(
            audio_done_s=job.audio_done_s,
            audio_total_s=job.audio_total_s,
            windows_done=job.checkpoint.next_window,
        ),
        queue_position=job.queue_position,
        eta_s=job.eta_s,
        device=job.device,
        error=wire.JobError(code=job.error.code, message=job.error.message) if job.error else None,
        warnings=[wire.JobWarning(code=w.code, message=w.message, start=w.start, end=w.end) for w in job.warnings],
        partial=job.partial,
        artifacts=[
            wire.Artifact(
                name=file.name, url=artifact_url(job.id, file.name), content_type=file.content_type, size=file.size
            )
            for file in files
        ],
        metadata=spec.metadata,
    )


def transcript_response(so_far: TranscriptSoFar, format_name: str) -> Response:
    """A transcript; one that is partial says so, in json by a field, else by a header."""
    shape = FORMATS[format_name]
    headers = {"Transcript-Partial": "true"} if so_far.partial else {}
    if format_name == "json":
        body = orjson.dumps({**json_document(so_far.transcript), "partial": so_far.partial})
        return Response(body, headers=headers, media_type=shape.content_type)
    return Response(shape.render(so_far.transcript), headers=headers, media_type=shape.content_type)


async def render_job(job: Job, results: Results) -> wire.Job:
    """A job with its files, which are looked up."""
    return from_job(job, await results.files(job))


async def render(job: Job, results: Results) -> Payload:
    """Webhook payload: the job without its text, "thin" as Standard Webhooks advises."""
    data = (await render_job(job, results)).model_dump(mode="json")
    ended = utc(job.completed_at or job.created_at).isoformat()
    return Payload(orjson.dumps({"type": f"transcription.{job.phase}", "timestamp": ended, "data": data}))


def error(problem: RequestError) -> Response:
    """An error as application/problem+json."""
    body = wire.Problem(
        type=f"urn:murmuration:error:{problem.code}",
        title=problem.code.replace("_", " ").capitalize(),
        status=problem.status,
        detail=problem.message,
        code=problem.code,
        errors=[wire.FieldProblem(field=name, message=message) for name, message in problem.fields],
    )
    return JSONResponse(body.model_dump(), problem.status, problem.headers, PROBLEM)

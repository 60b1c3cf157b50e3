"""Requests -> job specs; jobs, segments and errors -> JSON and text."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import Response
from fastapi.responses import PlainTextResponse

from batching.types import Segment, Transcript
from serve_app.dialects.base import flat, validated
from serve_app.dialects.openai_format import status_of
from serve_app.dialects.speechischeap.wire import URL, CheapUploadForm, Status
from serve_app.errors import RequestError
from serve_app.formats import FORMATS
from serve_app.http.uploads import Form
from serve_app.jobs.results import Results
from serve_app.jobs.webhook_payload import Payload
from serve_app.models.job import Job, JobSpec, Phase, State

PRIVATE_TTL_S = 12 * 3600
MASK = "[redacted]"  # in place of a private job's URL
OPTION_NAMES = {"label_audio": "can_label_audio", "diarize": "can_parse_speakers"}  # the core's -> this API's
STATUS: dict[State, Status] = {
    State.QUEUED: "PENDING",
    State.RUNNING: "PENDING",
    State.COMPLETED: "COMPLETED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELED",
}

# To the core.


def from_form(form: Form) -> tuple[CheapUploadForm, JobSpec]:
    """Parse the fields of an upload."""
    fields = flat(form.fields)
    options = validated(CheapUploadForm, fields)
    return options, to_spec(options, fields, filename=form.filename)


def to_spec(
    options: CheapUploadForm, body: dict[str, Any], *, url: str | None = None, filename: str | None = None
) -> JobSpec:
    """Options -> job spec. The stream repeats `body`, the raw request."""
    request = body | options.model_dump(exclude_unset=True)
    if options.is_private and url is not None:
        request[URL] = MASK
    return JobSpec(
        model="",
        url=url,
        filename=filename,
        language=options.language,
        prompt=options.prompt,
        hotwords=options.hotwords,
        word_timestamps=options.can_parse_words,
        diarize=options.can_parse_speakers,
        label_audio=options.can_label_audio,
        min_confidence=options.minimum_confidence,
        segment_duration=options.segment_duration,
        webhook=options.webhook_url,
        result_ttl_s=PRIVATE_TTL_S if options.is_private else None,
        user_agent=options.user_agent,
        private=options.is_private,
        # Sorted keys: the order of fields makes no other request of it for an idempotency key.
        echo={
            "output_format": (options.output_format or "")[-3:],
            "request": orjson.dumps(request, option=orjson.OPT_SORT_KEYS).decode(),
        },
    )


def missing(name: str) -> RequestError:
    return RequestError("malformed", f'Missing required "{name}" parameter', ((name, "missing"),))


# From the core.


def subtitle_format(job: Job) -> str:
    """`srt`, `vtt`, or "" for JSON alone."""
    return job.spec.echo.get("output_format", "")


def from_segment(segment: Segment) -> dict[str, Any]:
    """`CheapSegment` of a segment."""
    words = [{"start": word.start, "end": word.end, "text": word.text.strip()} for word in segment.words or ()]
    return {
        "confidence": round(segment.confidence, 3),
        "end": segment.end,
        "id": segment.id + 1,
        "language": f"{segment.language} ({segment.language_probability or 0:.2%})" if segment.language else "",
        "processing_duration_in_s": segment.decode_s,
        "seek": segment.seek,
        "start": segment.start,
        "text": segment.text.strip(),
        "words": None if segment.words is None else words,
    }


def from_job(job: Job, transcript: Transcript | None = None) -> dict[str, Any]:
    """`CheapJob` of a job."""
    output: dict[str, Any] = {}
    if transcript is not None:
        output["segments"] = [from_segment(segment) for segment in transcript.segments]
        if name := subtitle_format(job):
            output[name] = FORMATS[name].render(transcript)
    elif job.error and job.phase is Phase.FAILED:
        output["error"] = job.error.message
    return {"id": job.id, "output": output, "status": STATUS[job.phase.state]}


async def render(job: Job, results: Results) -> Payload:
    """Webhook body: subtitles if requested and completed, else the job."""
    # In a thread: the transcript of a whole day takes long, and the Runner's loop must go on.
    return await asyncio.to_thread(_webhook_payload, job, await results.transcript_or_none(job))


def _webhook_payload(job: Job, transcript: Transcript | None) -> Payload:
    if transcript is not None and (subtitles := FORMATS.get(subtitle_format(job))):
        return Payload(subtitles.render(transcript).encode(), subtitles.content_type.partition(";")[0])
    return Payload(orjson.dumps(from_job(job, transcript)))


def message_of(problem: RequestError) -> str:
    """Message with this API's names of options."""
    message = problem.message
    for core_name, name in OPTION_NAMES.items():
        message = message.replace(f"The option {core_name} ", f"The option {name} ")
    return message


def error(problem: RequestError) -> Response:
    """Error in plain text."""
    status = 404 if problem.status == 410 else status_of(problem)
    return PlainTextResponse(message_of(problem), status, problem.headers)

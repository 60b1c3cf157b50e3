"""Wire models of the native API: jobs, models, problems."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from serve_app.models.job import Phase, Priority

# Base64 of 24 to 64 bytes, as Standard Webhooks requires.
SIGNING_KEY = r"^whsec_(?:[A-Za-z0-9+/]{4}){8,21}(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?$"


class Options(BaseModel):
    """Options of a transcription; the same names in JSON, in form fields and in the query of a raw body."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"language": "en", "word_timestamps": True}]})

    model: str | None = Field(None, description="A model of GET /v1/models; the first of them when left out.")
    fallbacks: list[str] = Field([], max_length=8, description="Models to try in order where the first fails.")
    language: str | None = Field(None, description="ISO 639-1 code; detected when left out.")
    task: Literal["transcribe", "translate"] = Field("transcribe", description="Translate means: into English.")
    prompt: str | None = Field(None, max_length=2000, description="Text that the audio might follow on from.")
    hotwords: str | None = Field(None, max_length=2000, description="Words that are likely to occur.")
    temperature: float = Field(0.0, ge=0.0, le=1.0, description="Sampling temperature; 0 is deterministic.")
    word_timestamps: bool = Field(False, description="Give every word its times and confidence.")
    channels: bool = Field(False, description="Transcribe each channel separately; segments name theirs.")
    listening: bool = Field(False, description="Make an MP3 to listen to as well.")
    diarize: bool = Field(False, description="Tell speakers apart.")
    redact: bool = Field(False, description="Take out personal data.")
    label_audio: bool = Field(False, description="Label sounds other than speech.")
    min_confidence: float = Field(0.0, ge=0.0, le=1.0, description="Leave out segments below this confidence.")
    segment_duration: float | None = Field(None, ge=6.0, le=30.0, description="Longest window, in seconds.")
    priority: Priority = Field(Priority.INTERACTIVE, description="Interactive work goes before bulk.")
    webhook: str | None = Field(None, max_length=4096, description="URL to call when the job ends.")
    webhook_secret: str | None = Field(
        None,
        pattern=SIGNING_KEY,
        description="Secret that signs the webhook (whsec_ and base64), in place of the tenant's.",
    )
    metadata: dict[str, str] = Field(
        {}, max_length=20, description="Anything of yours, up to 16 KiB; returned with the job."
    )
    result_ttl_s: int | None = Field(None, ge=1, le=31_536_000, description="Seconds to keep job and results after the end.")
    max_attempts: int = Field(3, ge=1, le=10, description="Attempts before a failure that may pass is final.")

    @field_validator("metadata", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                return orjson.loads(value)
            except orjson.JSONDecodeError:
                raise ValueError("must be a JSON object") from None
        return value


# Options that a job object shows under `options`.
SHOWN_OPTIONS = tuple(name for name in Options.model_fields if name not in ("model", "metadata", "webhook_secret"))


class Source(BaseModel):
    """Location of the recording."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=4096, description="An http, https or s3 URL.")


class JobRequest(Options):
    """Job for a recording that the service fetches."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"source": {"url": "https://example.org/talk.mp3"}, "language": "en", "word_timestamps": True}]
        }
    )

    source: Source


class JobError(BaseModel):
    """Reason of a failure."""

    code: str = Field(description="Error code, such as `corrupt_media`.")
    message: str = Field(description="One sentence: what was wrong and what to do.")


class JobWarning(BaseModel):
    """Part of the recording whose text is missing or doubtful."""

    code: str = Field(description="Code of the warning, such as `window_failed`.")
    message: str = Field(description="One sentence.")
    start: float | None = Field(description="Start of the part, in seconds; null if it is about the whole.")
    end: float | None = Field(description="End of the part, in seconds.")


class Progress(BaseModel):
    """Progress of a job, in seconds of audio."""

    audio_done_s: float = Field(description="Seconds transcribed.")
    audio_total_s: float | None = Field(description="Length; null until all of the source is decoded.")
    windows_done: int = Field(description="Windows committed.")


class Artifact(BaseModel):
    """File of a job."""

    name: str = Field(description="`source`, `transcript.jsonl`, `audio.wav` or `listening.mp3`.")
    url: str = Field(description="Path on this service.")
    content_type: str = Field(description="Media type.")
    size: int = Field(description="Bytes.")


JOB: dict[str, Any] = {
    "id": "5b0c8f0e3f0d4c6f9a7c0b0f6f1f2a3b",
    "phase": "completed",
    "created_at": "2026-11-27T19:41:04.057000Z",
    "started_at": "2026-11-27T19:41:04.102000Z",
    "completed_at": "2026-11-27T19:41:09.310000Z",
    "attempts": 1,
    "max_attempts": 3,
    "model": "base",
    "language": "en",
    "duration_s": 57.1,
    "options": {"language": "en", "word_timestamps": True},
    "progress": {"audio_done_s": 57.1, "audio_total_s": 57.1, "windows_done": 3},
    "queue_position": None,
    "eta_s": None,
    "device": "cpu",
    "error": None,
    "warnings": [],
    "partial": False,
    "artifacts": [
        {
            "name": "transcript.jsonl",
            "url": "/v1/jobs/5b0c8f0e3f0d4c6f9a7c0b0f6f1f2a3b/artifacts/transcript.jsonl",
            "content_type": "application/x-ndjson",
            "size": 4210,
        }
    ],
    "metadata": {"ticket": "7"},
}


class Job(BaseModel):
    """Job as it is now."""

    model_config = ConfigDict(json_schema_extra={"examples": [JOB]})

    id: str = Field(description="Id of the job.")
    phase: Phase = Field(description="Phase at present; the last three are final.")
    created_at: datetime = Field(description="When it was accepted.")
    started_at: datetime | None = Field(description="When a worker first took it.")
    completed_at: datetime | None = Field(description="When it ended, however it ended.")
    attempts: int = Field(description="Attempts so far.")
    max_attempts: int = Field(description="Attempts before a failure that may pass is final.")
    model: str = Field(description="Model at work: a fallback where those before it failed.")
    language: str | None = Field(description="Requested language, else the detected one.")
    duration_s: float | None = Field(description="Length of the audio; null until all of it is decoded.")
    options: dict[str, Any] = Field(description="Options of the request, with their defaults.")
    progress: Progress
    queue_position: int | None = Field(description="Jobs of the tenant before it; null unless it is queued.")
    eta_s: float | None = Field(description="Expected seconds to the end; while queued, to the start.")
    device: str | None = Field(description="Device that the model runs on.")
    error: JobError | None = Field(description="Reason of the failure; null unless the job has failed.")
    warnings: list[JobWarning] = Field(description="Losses that did not end the job.")
    partial: bool = Field(description="Whether the job ended early, and its transcript with it.")
    artifacts: list[Artifact] = Field(description="Files of the job so far.")
    metadata: dict[str, str] = Field(description="Metadata of the request.")


class JobList(BaseModel):
    """Page of jobs, newest first."""

    jobs: list[Job] = Field(description="Jobs of the page.")
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last.")


class Model(BaseModel):
    """Model on offer; `object`, `created` and `owned_by` are for clients of OpenAI's API."""

    id: str = Field(description="Name to give as `model`.")
    languages: list[str] = Field(description="ISO 639-1 codes of the languages that it can transcribe.")
    object: Literal["model"] = Field(default="model", description="Always `model`.")
    created: int = Field(default=0, description="Always 0.")
    owned_by: str = Field(default="murmuration", description="Always `murmuration`.")


class ModelList(BaseModel):
    """Models on offer, the default first; `object` and `data` repeat them for clients of OpenAI's API."""

    models: list[Model] = Field(description="Models, the default first.")
    object: Literal["list"] = Field(default="list", description="Always `list`.")
    data: list[Model] = Field(description="Equal to `models`.")


class FieldProblem(BaseModel):
    """Field at fault."""

    field: str = Field(description="Path of the field, such as `source.url`.")
    message: str = Field(description="Problem with it.")


class Problem(BaseModel):
    """Error, as RFC 9457 (problem details) defines it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:murmuration:error:not_found",
                    "title": "Not found",
                    "status": 404,
                    "detail": "There is no such job.",
                    "code": "not_found",
                    "errors": [],
                }
            ]
        }
    )

    type: str = Field(description="URN of the error code.")
    title: str = Field(description="The error code in words.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="One sentence: what was wrong and what to do.")
    code: str = Field(description="Error code; the API reference lists all.")
    errors: list[FieldProblem] = Field([], description="Fields at fault.")

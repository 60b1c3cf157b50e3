"""Wire models, in camelCase."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ShiftModel(BaseModel):
    """Part of a request or response. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


class ShiftUrlSource(ShiftModel):
    """Recording to fetch from a URL."""

    kind: Literal["url"]
    url: Annotated[str, Field(max_length=4096)]


class ShiftDriveSource(ShiftModel):
    """Recording in a session's drive."""

    kind: Literal["stageDrive"]
    session_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]
    file_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]


class ShiftJobRequest(ShiftModel):
    """Transcription job to create."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "whisper-1", "source": {"kind": "url", "url": "https://example.org/talk.mp3"}}]
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=200)]
    provider_id: Annotated[str, Field(max_length=200)] = ""
    source: Annotated[ShiftUrlSource | ShiftDriveSource, Field(discriminator="kind")]
    language: str | None = None
    prompt: Annotated[str | None, Field(max_length=2000)] = None
    response_format: Literal["vtt", "srt", "text", "tsv", "json", "verbose_json"] = "vtt"
    temperature: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 1


class ShiftArtifact(ShiftModel):
    """File of a completed job."""

    kind: Literal["normalizedAudio", "transcriptText", "transcriptJson"]
    filename: str
    content_type: str
    size_bytes: int
    url: str


class ShiftSegment(ShiftModel):
    """Sentence. Times in seconds."""

    start: float
    end: float
    text: str


class ShiftResult(ShiftModel):
    """Transcript of a completed job; `duration` in seconds."""

    text: str
    language: str
    duration: float
    segments: list[ShiftSegment]


class ShiftJob(ShiftModel):
    """Job. `startedAt`, `completedAt` and `error` are absent until known; `result` is null until completed."""

    id: str
    sid: str
    model: str
    provider_id: str
    source: ShiftUrlSource | ShiftDriveSource
    status: Literal["queued", "processing", "completed", "failed"]
    phase: Literal["queued", "downloading", "transcoding", "transcribing", "completed", "failed"]
    requested_by: str
    requested_at: str
    started_at: str | None = None
    completed_at: str | None = None
    attempts: int
    max_attempts: int
    error: str | None = None
    artifacts: list[ShiftArtifact]
    result: ShiftResult | None


class ShiftJobResponse(ShiftModel):
    """Envelope of a job."""

    success: Literal[True] = True
    data: ShiftJob


class ShiftErrorDetail(ShiftModel):
    """Cause of an error."""

    code: str
    message: str


class ShiftError(ShiftModel):
    """Envelope of an error."""

    success: Literal[False] = False
    error: ShiftErrorDetail


class ShiftJobListResponse(ShiftModel):
    """Envelope of all jobs, oldest first."""

    success: Literal[True] = True
    data: list[ShiftJob]

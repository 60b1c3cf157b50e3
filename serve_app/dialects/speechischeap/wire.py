"""Wire models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.dialects.base import without_blanks

URL, FILE = "input_url", "input_file"
Status = Literal["PENDING", "COMPLETED", "FAILED", "CANCELED"]


class CheapUploadForm(BaseModel):
    """Options of a job. An empty string means the default."""

    model_config = ConfigDict(extra="forbid")

    can_label_audio: bool = False
    can_parse_speakers: bool = False
    can_parse_words: bool = False
    can_stream_output: bool = False
    is_private: bool = False
    language: str | None = None
    minimum_confidence: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    output_format: Literal["srt", "vtt", "webvtt"] | None = None
    segment_duration: Annotated[float | None, Field(ge=6.0, le=30.0)] = None
    user_agent: Annotated[str | None, Field(pattern=r"^[!-~]([ -~]*[!-~])?$", max_length=500)] = None
    webhook_url: Annotated[str | None, Field(max_length=4096)] = None
    hotwords: Annotated[str | None, Field(max_length=2000)] = None
    prompt: Annotated[str | None, Field(max_length=2000)] = None

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, body: Any) -> Any:
        return without_blanks(body)


class CheapJobRequest(CheapUploadForm):
    """Options of a job, and the URL to fetch the recording from."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input_url": "https://example.org/talk.mp3", "can_parse_words": True}]}
    )

    input_url: Annotated[str, Field(max_length=4096)]


class CheapWord(BaseModel):
    """Word. Times in seconds."""

    start: float
    end: float
    text: str


class CheapSegment(BaseModel):
    """Sentence, numbered from 1. Times in seconds; `language` with the certainty of its detection."""

    confidence: float
    end: float
    id: int
    language: str
    processing_duration_in_s: float | None
    seek: float | None
    start: float
    text: str
    words: list[CheapWord] | None


class CheapJobOutput(BaseModel):
    """Output of a job, `{}` unless completed or failed. `srt` or `vtt` as requested."""

    segments: list[CheapSegment] = []
    error: str = ""
    srt: str = ""
    vtt: str = ""


class CheapJob(BaseModel):
    """Job."""

    id: str
    output: CheapJobOutput
    status: Status

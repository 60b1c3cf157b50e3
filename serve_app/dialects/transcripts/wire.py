"""Wire models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Status = Literal["queued", "processing", "completed", "failed"]
VOCABULARY_CHARACTERS = 800  # Whisper reads at most half of its 448 tokens


class TranscriptsUploadForm(BaseModel):
    """Options of a transcript."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=200)] = ""
    language: str | None = None
    diarize: bool = False
    word_timestamps: bool = False
    redact: tuple[Literal["pii", "phi", "pci"], ...] = ()
    vocabulary: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(max_length=100)] = ()
    webhook_url: Annotated[str | None, Field(max_length=4096)] = None
    metadata: Annotated[dict[str, str], Field(max_length=20)] = {}

    @field_validator("vocabulary")
    @classmethod
    def _limit_length(cls, terms: tuple[str, ...]) -> tuple[str, ...]:
        if sum(len(term) + 2 for term in terms) > VOCABULARY_CHARACTERS:
            raise ValueError(f"must be at most {VOCABULARY_CHARACTERS} characters long, separators included")
        return terms


class TranscriptsTranscriptRequest(TranscriptsUploadForm):
    """Options of a transcript, and URL of the recording."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"audio_url": "https://example.org/talk.mp3", "language": "en"}]}
    )

    audio_url: Annotated[str, Field(max_length=4096)]


class TranscriptsUtterance(BaseModel):
    """Sentence. Times in seconds; `speaker` is always 0 yet."""

    speaker: int
    start: float
    end: float
    text: str
    confidence: float


class TranscriptsWord(BaseModel):
    """Word. Times in seconds."""

    word: str
    start: float
    end: float
    confidence: float


class TranscriptsRedaction(BaseModel):
    """Redacted span. Times in seconds."""

    entity: str
    start: float
    end: float


class TranscriptsError(BaseModel):
    """Reason of a failed transcript."""

    code: str
    message: str


class TranscriptsTranscript(BaseModel):
    """Transcript. Its text, utterances and words are empty until completed, and in lists."""

    id: str
    object: Literal["transcript"]
    status: Status
    created: int
    model: str
    language: str | None
    duration: float | None
    text: str | None
    utterances: list[TranscriptsUtterance]
    words: list[TranscriptsWord]
    redactions: list[TranscriptsRedaction]
    metadata: dict[str, str]
    error: TranscriptsError | None


class TranscriptsTranscriptList(BaseModel):
    """Page of transcripts, newest first."""

    object: Literal["list"] = "list"
    data: list[TranscriptsTranscript]
    has_more: bool
    next_cursor: str | None

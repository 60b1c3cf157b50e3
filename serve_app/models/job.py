"""Job, JobSpec and their parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from serve_app.models.file import File
from serve_app.models.storage_paths import file_key, listening_key, source_key


class State(StrEnum):
    """Phases as listings group them."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (State.COMPLETED, State.FAILED, State.CANCELLED)


class Phase(StrEnum):
    """Phase of a job."""

    QUEUED = "queued"
    DOWNLOADING = "downloading"
    TRANSCODING = "transcoding"
    TRANSCRIBING = "transcribing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def state(self) -> State:
        """Group of the phase: RUNNING while a worker holds the job."""
        return State.RUNNING if self in (Phase.DOWNLOADING, Phase.TRANSCODING, Phase.TRANSCRIBING) else State(self.value)

    @property
    def final(self) -> bool:
        return self.state.final


class Mark(StrEnum):
    """Suffix of an ended job's status index in Redis."""

    NONE = ""
    DELETED = ":deleted"
    PURGED = ":purged"  # only the record is left


class Priority(StrEnum):
    """Urgency within a tenant."""

    INTERACTIVE = "interactive"
    BULK = "bulk"

    @property
    def urgency(self) -> int:
        """Sort key; 0 goes first."""
        return 0 if self is Priority.INTERACTIVE else 1


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Request of a job."""

    model: str  # id of the first model to try
    url: str | None = None  # source to fetch; None for an upload, which is stored before the job exists
    drive_root: str = ""  # the URL is in the operator's own storage, which may be private, and must lie below this
    file: str | None = None  # id of the source where several jobs share it
    record_ttl_s: int | None = None  # how long the record outlives the results; None: not at all
    filename: str | None = None  # name of the uploaded file
    fallbacks: tuple[str, ...] = ()  # models to try in order where the first fails
    language: str | None = None  # ISO 639-1; None to detect it
    task: str = "transcribe"  # or translate, into English
    prompt: str | None = None  # text that the audio may continue
    hotwords: str | None = None  # words to expect
    temperature: float = 0.0
    word_timestamps: bool = False
    summary: str | None = None  # id of the prompt to summarise the transcript with
    channels: bool = False  # transcribe each channel separately
    listening: bool = False  # store an MP3 copy
    diarize: bool = False
    redact: bool = False
    label_audio: bool = False
    min_confidence: float = 0.0  # drop segments below it
    segment_duration: float | None = None  # longest window in seconds
    priority: Priority = Priority.INTERACTIVE
    webhook: str | None = None  # URL to call at the end
    webhook_secret: str | None = None  # signs the call in place of the tenant's secret
    metadata: dict[str, str] = field(default_factory=dict)  # the caller's own, returned with the job
    result_ttl_s: int | None = None  # how long the results are kept after the end; None for the service's default
    max_attempts: int = 3
    dialect: str = "native"  # API that the job was made through, and is rendered in
    requested_model: str = ""  # model as the request named it
    echo: dict[str, str] = field(default_factory=dict)  # request fields that only the dialect needs back
    user_agent: str | None = None  # sent when the URL is fetched
    private: bool = False  # forget the URL once fetched, and the audio once ended
    request_id: str | None = None  # of the request that made the job
    traceparent: str | None = None  # likewise


class SummaryState(StrEnum):
    # A summary is written after its job is completed.

    WAITING = "waiting"
    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JobError:
    code: str  # one of errors.STATUS
    message: str  # one sentence


@dataclass(frozen=True, slots=True)
class JobWarning:
    """Loss or oddity in a recording that did not end the job."""

    code: str  # stable, part of the API
    message: str  # one sentence
    start: float | None = None  # of the part that it is about, seconds
    end: float | None = None


@dataclass(frozen=True, slots=True)
class ChannelCheckpoint:
    """State of a separate channel, or of the mix, after its last commit."""

    until: int = 0  # samples before this one are committed
    end_s: float = 0.0  # end of the last segment, in seconds
    votes: Mapping[str, float] = field(default_factory=dict)  # weight of each detected language, seconds


@dataclass(frozen=True, slots=True)
class Checkpoint:
    next_window: int = 0  # number of committed windows
    segments: int = 0  # committed so far
    end_s: float = 0.0  # end of the last segment, in seconds
    language: str | None = None  # detected
    channels: Mapping[int | None, ChannelCheckpoint] = field(default_factory=dict)  # None for the mix


@dataclass(frozen=True, slots=True)
class Job:
    """State of a job. Times are Unix seconds."""

    id: str
    owner: str
    tenant: str
    phase: Phase
    spec: JobSpec
    model: str  # model in use: a fallback where those before it failed
    created_at: float
    started_at: float | None
    completed_at: float | None  # time of the end, whatever it was
    attempts: int
    checkpoint: Checkpoint
    audio_done_s: float  # seconds of audio transcribed
    audio_total_s: float | None  # length once all is decoded
    eta_s: float | None  # expected seconds to the end; while queued, to the start
    device: str | None
    error: JobError | None
    cancelling: bool  # a cancel was requested
    done_event: str | None  # id of the `done` event
    transcript: int | None  # token of the claim that wrote the transcript
    deleted_at: float | None
    purged_at: float | None
    erasing: bool  # hidden, and deleted as soon as it ends
    ttl_s: float  # how long the results are kept after the end
    setbacks: int  # workers lost since the last progress
    summary_state: SummaryState | None = None
    summary_error: str | None = None
    summary_tries: int = 0
    queue_position: int | None = None  # jobs of the tenant before it; None unless queued
    file: File | None = None  # shared source
    audio_channels: int | None = None  # channels that are transcribed separately
    audio_declared_s: float | None = None  # length that the container declares
    audio_deleted_at: float | None = None  # when source and decoded audio were deleted before the results
    warnings: tuple[JobWarning, ...] = ()
    forgiven: int = 0  # attempts before the last commit, which do not count against max_attempts
    partial: bool = False  # the transcript ends before the recording does

    @property
    def attempts_left(self) -> int:
        return self.spec.max_attempts - (self.attempts - self.forgiven)

    @property
    def language(self) -> str | None:
        """The requested language, else the detected one."""
        return self.spec.language or self.checkpoint.language

    @property
    def source(self) -> str:
        return source_key(self.id) if self.spec.file is None else file_key(self.spec.file)

    @property
    def source_withheld(self) -> bool:
        """Whether the source was read with the service's own credentials: callers get none of its bytes."""
        if self.spec.drive_root or (self.spec.file is not None and self.file is None):
            return True
        return ((self.file.url if self.file else self.spec.url) or "").startswith("s3://")

    @property
    def listening(self) -> str:
        return listening_key(self.source)

    @property
    def audio_gone(self) -> bool:
        """Whether source and decoded audio of the last end are deleted."""
        return (self.audio_deleted_at or 0.0) >= (self.completed_at or float("inf"))

    @property
    def expires_at(self) -> float | None:
        """Expiry of the results; None before the end."""
        return None if self.completed_at is None else self.completed_at + self.ttl_s

    @property
    def next_model(self) -> str | None:
        """Fallback after the model in use."""
        models = (self.spec.model, *self.spec.fallbacks)
        after = models.index(self.model) + 1 if self.model in models else 0
        return models[after] if after < len(models) else None

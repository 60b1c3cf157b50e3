"""Job, JobSpec, Phase, Event: the nouns of the core, as they are kept and handed around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from serve_app.jobs.places import file_key, source_key


class Phase(StrEnum):
    """Where a job stands. The last three are final."""

    QUEUED = "queued"
    DOWNLOADING = "downloading"
    TRANSCODING = "transcoding"
    TRANSCRIBING = "transcribing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing comes after it."""
        return self in (Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED)

    @property
    def state(self) -> State:
        """The same, as lists tell it."""
        return State.RUNNING if self in (Phase.DOWNLOADING, Phase.TRANSCODING, Phase.TRANSCRIBING) else State(self.value)


class State(StrEnum):
    """Phases as lists tell them apart."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing comes after it."""
        return self in (State.COMPLETED, State.FAILED, State.CANCELLED)


class Mark(StrEnum):
    """What an ended job may be marked as; what is purged has no results any more, only its record."""

    NONE = ""
    DELETED = ":deleted"
    PURGED = ":purged"


class Priority(StrEnum):
    """Interactive work goes before bulk work of the same tenant."""

    INTERACTIVE = "interactive"
    BULK = "bulk"

    @property
    def urgency(self) -> int:
        """0 goes first."""
        return 0 if self is Priority.INTERACTIVE else 1


class EventKind(StrEnum):
    """What the stream of a job tells."""

    PHASE = "phase"
    PROGRESS = "progress"
    SEGMENT = "segment"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of a job's stream. `id` is the place to resume after; `data` is a JSON object as text."""

    id: str
    kind: EventKind
    data: str


SCOPES = (
    "speech:transcriptions:read",
    "speech:transcriptions:write",
    "speech:transcriptions:delete",
    "speech:files:read",
    "speech:files:write",
    "speech:summaries:write",
    "admin",
)
"""What a key may be good for; `admin` for everything."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: jobs belong to an owner within a tenant. `scopes` are what the owner may do."""

    owner: str
    tenant: str
    scopes: frozenset[str] = frozenset(("admin",))

    def may(self, scope: str) -> bool:
        """Whether one of the scopes allows it."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What was asked for. `url` is None for an upload, which lies in the artifacts before the job exists; `drive` says that
    it lies in the operator's own storage. `dialect` names the words that the job was made in, and is told in; `asked_model`
    is the model as it was named there, and `echo` what only that dialect knows of. `request_id` and `traceparent` are of
    the request that made it. `file` is the source's id where it lies apart from the job, for several; `record_ttl_s` is how
    long a job's record outlives its results, None for not at all. `channels` has each channel heard apart, `listening` an
    MP3 made of what was heard; `summary` is the id of a prompt to summarise with. Of one that is `private`
    the URL is forgotten once it is fetched, and the audio once the job has ended."""

    model: str
    url: str | None = None
    drive: bool = False
    file: str | None = None
    record_ttl_s: int | None = None
    filename: str | None = None
    fallbacks: tuple[str, ...] = ()
    language: str | None = None
    task: str = "transcribe"
    prompt: str | None = None
    hotwords: str | None = None
    temperature: float = 0.0
    word_timestamps: bool = False
    summary: str | None = None
    channels: bool = False
    listening: bool = False
    diarize: bool = False
    redact: bool = False
    label_audio: bool = False
    min_confidence: float = 0.0
    segment_duration: float | None = None
    priority: Priority = Priority.INTERACTIVE
    webhook: str | None = None
    webhook_secret: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    result_ttl_s: int | None = None
    max_attempts: int = 3
    dialect: str = "native"
    asked_model: str = ""
    echo: dict[str, str] = field(default_factory=dict)
    user_agent: str | None = None
    private: bool = False
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A source that several jobs may be made of, and what its owner says of it. Times are Unix seconds; it is deleted when
    no job needs it any more."""

    id: str
    owner: str
    tenant: str
    name: str
    filename: str | None = None
    description: str | None = None
    path: str = "/"
    metadata: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    url: str | None = None
    size: int | None = None
    made_at: float = 0.0
    deleted_at: float | None = None


class SummaryState(StrEnum):
    """How the summary of a job fares. It is made when the job is completed."""

    WAITING = "waiting"
    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: one of the fixed codes, and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a job's timeline stands: the next window to commit, segments so far, the end of the last, in seconds."""

    next_window: int = 0
    segments: int = 0
    end_s: float = 0.0
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is now. Times are Unix seconds; `model` is the one at work, which is a fallback where those before it
    failed; `transcript` is the token of the claim that wrote it, `setbacks` how many workers it has cost since it last got
    on; `audio_channels` how many of its channels were kept apart, `audio_declared_s` the length
    that the source claims, before all of it is decoded."""

    id: str
    owner: str
    tenant: str
    phase: Phase
    spec: JobSpec
    model: str
    created_at: float
    started_at: float | None
    completed_at: float | None
    attempts: int
    checkpoint: Checkpoint
    audio_done_s: float
    audio_total_s: float | None
    eta_s: float | None
    device: str | None
    error: JobError | None
    cancelling: bool
    done_event: str | None
    transcript: int | None
    deleted_at: float | None
    purged_at: float | None
    erasing: bool
    ttl_s: float
    setbacks: int
    summary_state: SummaryState | None = None
    summary_error: str | None = None
    summary_tries: int = 0
    queue_position: int | None = None
    file: File | None = None
    audio_channels: int | None = None
    audio_declared_s: float | None = None

    @property
    def language(self) -> str | None:
        """The language asked for, else the one heard."""
        return self.spec.language or self.checkpoint.language

    @property
    def source(self) -> str:
        """Where its source lies in the artifacts."""
        return source_key(self.id) if self.spec.file is None else file_key(self.spec.file)

    @property
    def listening(self) -> str:
        """Where an MP3 of its source lies, beside the source."""
        return f"{self.source.rpartition('/')[0]}/listening.mp3"

    @property
    def expires_at(self) -> float | None:
        """When its results go, in Unix seconds; None before its end."""
        return None if self.completed_at is None else self.completed_at + self.ttl_s

    @property
    def next_model(self) -> str | None:
        """What to try where the model at work fails."""
        models = (self.spec.model, *self.spec.fallbacks)
        after = models.index(self.model) + 1 if self.model in models else 0
        return models[after] if after < len(models) else None


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is ours to work on while the lease lasts; every write shows the token."""

    job_id: str
    token: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The result of one window: its segments as JSON objects, where the timeline stands after it, how often it was decoded
    and how full its batch was."""

    window: int
    segments: tuple[str, ...]
    end_s: float
    language: str | None
    device: str
    progress: Mapping[str, Any]
    decodes: int = 1
    fill: float = 1.0

"""Messages between actors: keys, indices and text, never audio."""

from __future__ import annotations

from dataclasses import dataclass

from batching.types import Segment, Window


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Source to store."""

    url: str
    key: str  # of the artifact to store it as
    max_bytes: int
    user_agent: str | None = None  # User-Agent header, None for ours
    drive_root: str = ""  # the URL comes from the operator's own template, and must lie below this: any storage
    tenant: str = ""  # has a share of the name lookups, and its own folders of buckets


@dataclass(frozen=True, slots=True)
class StoredSource:
    """Stored source."""

    key: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class TranscodeRequest:
    """Source to decode and to plan."""

    source_key: str
    pcm_prefix: str  # folder for the PCM parts
    longest_s: float  # longest window, seconds
    max_audio_s: float  # longest audio accepted, seconds
    channels: bool = False  # whether each channel gets its own PCM and windows; else they are mixed
    listening_key: str | None = None  # artifact to store an MP3 copy as
    tenant: str = ""  # has its share of the CPU
    ahead_s: float | None = None  # audio decoded beyond the committed place, seconds; None: any amount
    progress_key: str | None = None  # artifact with the CommittedPlace, which the caller writes


@dataclass(frozen=True, slots=True)
class MediaWarning:
    """Loss or oddity in a source that does not end its job."""

    code: str  # stable, part of the API
    message: str  # one sentence
    start: float | None = None  # of the part that it is about, seconds
    end: float | None = None


@dataclass(frozen=True, slots=True)
class TranscodeProgress:
    """Part of the plan, sent as it grows."""

    windows: tuple[Window, ...]  # planned since the last message, their audio stored
    decoded_s: float  # audio decoded so far, seconds
    finished: bool  # true in the last message
    channels: int | None = None  # number of separate channels, None for a mix
    declared_s: float | None = None  # duration that the source's header declares, seconds, once known
    warnings: tuple[MediaWarning, ...] = ()  # since the last message; a job that is resumed gets them again


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Decode options of a job."""

    language: str | None = None  # None: detect it
    likely_language: str | None = None  # used where language detection is uncertain
    task: str = "transcribe"  # or "translate", to English
    prompt: str | None = None
    hotwords: str | None = None
    temperature: float = 0.0  # of the first strategy, 0 to 1
    word_timestamps: bool = False


@dataclass(frozen=True, slots=True)
class TranscribeRequest:
    """Window to decode."""

    job: str  # job and tenant: for fair scheduling
    tenant: str
    urgency: int  # lower is served first, inside its tenant
    pcm_prefix: str
    window: Window
    options: DecodeOptions
    exclusive: bool = False  # decode nothing else meanwhile: a worker died of this window or one beside it


@dataclass(frozen=True, slots=True)
class DecodeStarted:
    """Sent before a decode: if the worker dies from now on, this window may be the cause."""


@dataclass(frozen=True, slots=True)
class WindowResult:
    """Decoded window."""

    index: int  # of the window
    segments: tuple[Segment, ...]  # on the source's clock; ids are not set yet
    language: str | None
    device: str
    language_probability: float = 1.0  # 1 if the language was requested, 0 if it was assumed
    decodes: int = 1  # number of decodes, fallbacks and remainders included
    fill: float = 1.0  # share of the slots taken in its fullest batch, 0 to 1
    decode_s: float = 0.0  # share of its batches' decode time, seconds


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Loaded engine."""

    model: str
    device: str  # "cpu" or "cuda"
    compute_type: str
    languages: tuple[str, ...]  # language codes such as "en"

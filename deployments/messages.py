"""Everything that crosses an actor's border. Keys, indices and text; never bytes of audio."""

from __future__ import annotations

from dataclasses import dataclass

from batching.types import Segment, Window


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Make sure that what lies at `url` is stored under `key`, at most `max_bytes` of it; `user_agent` is who asks for it,
    where that is not to be us. `drive` says that the operator's own template made the URL, and that it may be a file's."""

    url: str
    key: str
    max_bytes: int
    user_agent: str | None = None
    drive: bool = False


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A source in the artifacts: its key, length in bytes, SHA-256 in hex."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TranscodeRequest:
    """Decode the source under `source_key` into PCM parts under `pcm_prefix`; plan windows of at most `longest_s`. With
    `channels` each channel is kept apart, and has its own parts and windows; an MP3 to listen to goes to `listening_key`."""

    source_key: str
    pcm_prefix: str
    longest_s: float
    max_audio_s: float
    channels: bool = False
    listening_key: str | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """Windows whose audio is stored, in order. `decoded_s` seconds are decoded so far; once all is, `finished`. `channels`
    is how many are kept apart, None for a mix; `declared_s` how long the source says that it is, as soon as it is known."""

    windows: tuple[Window, ...]
    decoded_s: float
    finished: bool
    channels: int | None = None
    declared_s: float | None = None


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How to decode. `language` None means: detect it, and believe `likely_language` where the sound leaves doubt."""

    language: str | None = None
    likely_language: str | None = None
    task: str = "transcribe"
    prompt: str | None = None
    hotwords: str | None = None
    temperature: float = 0.0
    word_timestamps: bool = False


@dataclass(frozen=True, slots=True)
class TranscribeRequest:
    """Decode one window of the PCM under `pcm_prefix`. `job` and `tenant` are names for the scheduler to be fair by; `alone`
    means that nothing else is decoded meanwhile: workers have died of this window, or of one beside it."""

    job: str
    tenant: str
    urgency: int
    pcm_prefix: str
    window: Window
    options: DecodeOptions
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """A window's turn has come: should the worker die from now on, the window may be the reason."""


@dataclass(frozen=True, slots=True)
class WindowResult:
    """A window's segments on the source's clock (their ids are not set yet), its language and how probable that is (1 if it
    was given, 0 if it was assumed), the device that did it; how often it was decoded, what share of the fullest batch's
    places were taken, and its share of the seconds that its batches took."""

    index: int
    segments: tuple[Segment, ...]
    language: str | None
    device: str
    certainty: float = 1.0
    decodes: int = 1
    fill: float = 1.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a replica of the Transcriber runs."""

    model: str
    device: str
    compute_type: str
    languages: tuple[str, ...]

"""Transcripts and errors in the shapes that OpenAI's API gave them, and that others have taken over from there."""

from __future__ import annotations

import math
from typing import Any, Literal

from batching.quality import compression_ratio
from batching.types import Segment, Transcript
from serve_app.errors import RequestError
from serve_app.formats import FORMATS

NAMES = """
af afrikaans am amharic ar arabic as assamese az azerbaijani ba bashkir be belarusian bg bulgarian bn bengali bo tibetan
br breton bs bosnian ca catalan cs czech cy welsh da danish de german el greek en english es spanish et estonian
eu basque fa persian fi finnish fo faroese fr french gl galician gu gujarati ha hausa haw hawaiian he hebrew hi hindi
hr croatian ht haitian_creole hu hungarian hy armenian id indonesian is icelandic it italian ja japanese jw javanese
ka georgian kk kazakh km khmer kn kannada ko korean la latin lb luxembourgish ln lingala lo lao lt lithuanian lv latvian
mg malagasy mi maori mk macedonian ml malayalam mn mongolian mr marathi ms malay mt maltese my myanmar ne nepali
nl dutch nn nynorsk no norwegian oc occitan pa punjabi pl polish ps pashto pt portuguese ro romanian ru russian
sa sanskrit sd sindhi si sinhala sk slovak sl slovenian sn shona so somali sq albanian sr serbian su sundanese
sv swedish sw swahili ta tamil te telugu tg tajik th thai tk turkmen tl tagalog tr turkish tt tatar uk ukrainian ur urdu
uz uzbek vi vietnamese yi yiddish yo yoruba yue cantonese zh chinese
"""
WORDS = [word.replace("_", " ") for word in NAMES.split()]
LANGUAGES = dict(zip(WORDS[::2], WORDS[1::2], strict=True))
"""What OpenAI calls a language instead of its code."""


ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
SEGMENTS = frozenset(("segment",))
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
CODES = {"unauthenticated": "invalid_api_key", "model_unavailable": "model_not_found"}


def shaped(
    transcript: Transcript,
    response_format: ResponseFormat,
    *,
    task: str = "transcribe",
    temperature: float = 0.0,
    granularities: frozenset[str] = SEGMENTS,
) -> dict[str, Any] | str:
    """A transcript as `response_format` has it: an object in JSON, or text."""
    if response_format == "json":
        return brief(transcript)
    if response_format == "verbose_json":
        return verbose(transcript, task, temperature, granularities or SEGMENTS)
    return plain(transcript) if response_format == "text" else FORMATS[response_format].render(transcript)


def status_of(problem: RequestError) -> int:
    """An error's HTTP status: what is wrong with a request is always a 400 there, and an unknown model a 404."""
    return 404 if problem.code == "model_unavailable" else problem.plain_status


def complaint(problem: RequestError) -> dict[str, Any]:
    """What an error says of itself."""
    status = status_of(problem)
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = problem.fields[0][0] if problem.fields else None
    return {"message": problem.message, "type": kind, "param": param, "code": CODES.get(problem.code, problem.code)}


def plain(transcript: Transcript) -> str:
    """The whole text on one line: what the deltas of a stream come to."""
    return " ".join(" ".join(segment.text.split()) for segment in transcript.segments)


def brief(transcript: Transcript) -> dict[str, Any]:
    """`response_format=json`."""
    return {"text": plain(transcript), "usage": _usage(transcript)}


def verbose(transcript: Transcript, task: str, temperature: float, granularities: frozenset[str]) -> dict[str, Any]:
    """`response_format=verbose_json`, with `segment`s or `word`s or both. What this service does not keep of a decode (its
    tokens, the probability that nobody spoke) is left empty or 0."""
    told: dict[str, Any] = {
        "task": task,
        "language": LANGUAGES.get(transcript.language or "", transcript.language or "unknown"),
        "duration": round(transcript.duration_s, 3),
        "text": plain(transcript),
        "usage": _usage(transcript),
    }
    if "segment" in granularities:
        told["segments"] = [_segment(segment, temperature) for segment in transcript.segments]
    if "word" in granularities:
        words = (word for segment in transcript.segments for word in segment.words or ())
        told["words"] = [{"word": word.text.strip(), "start": word.start, "end": word.end} for word in words]
    return told


def _segment(segment: Segment, temperature: float) -> dict[str, Any]:
    return {
        "id": segment.id,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": temperature,
        "avg_logprob": round(math.log(max(segment.confidence, 1e-6)), 4),
        "compression_ratio": round(compression_ratio(segment.text), 4),
        "no_speech_prob": 0.0,
    }


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration_s)}

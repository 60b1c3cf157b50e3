"""Transcripts and errors in the shapes of OpenAI's API, which other vendors copied."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
LANGUAGES = dict(zip(WORDS[::2], WORDS[1::2], strict=True))  # code -> OpenAI's name of the language

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
SEGMENTS = frozenset(("segment",))
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
CODES = {"unauthenticated": "invalid_api_key", "model_unavailable": "model_not_found"}


# Wire models.


class OpenAIUsage(BaseModel):
    """Length of the audio, as it is billed there."""

    type: Literal["duration"] = Field(description="Always `duration`.")
    seconds: int = Field(description="Length of the audio in seconds, rounded up.")


class OpenAITranscription(BaseModel):
    """Transcript with `response_format=json`."""

    text: str = Field(description="Text of the whole recording.")
    usage: OpenAIUsage


class OpenAISegment(BaseModel):
    """Segment of a verbose transcript. Times are in seconds."""

    id: int = Field(description="Number of the segment, from 0.")
    seek: int = Field(description="Always 0.")
    start: float = Field(description="Start in the recording.")
    end: float = Field(description="End in the recording.")
    text: str = Field(description="Text of the segment.")
    tokens: list[int] = Field(description="Always empty.")
    temperature: float = Field(description="Sampling temperature of the request.")
    avg_logprob: float = Field(description="Mean log-probability, from the confidence.")
    compression_ratio: float = Field(description="Length of the text over its compressed length.")
    no_speech_prob: float = Field(description="Always 0.")


class OpenAIWord(BaseModel):
    """Word of a verbose transcript. Times are in seconds."""

    word: str = Field(description="The word.")
    start: float = Field(description="Start in the recording.")
    end: float = Field(description="End in the recording.")


class OpenAIVerboseTranscription(BaseModel):
    """Transcript with `response_format=verbose_json`."""

    task: Literal["transcribe", "translate"] = Field(description="Task of the request.")
    language: str = Field(description="English name of the language, such as `german`.")
    duration: float = Field(description="Length of the audio in seconds.")
    text: str = Field(description="Text of the whole recording.")
    usage: OpenAIUsage
    segments: list[OpenAISegment] | None = Field(None, description="Unless only words are requested.")
    words: list[OpenAIWord] | None = Field(None, description="If requested.")


class OpenAIErrorBody(BaseModel):
    """Cause of an error."""

    message: str = Field(description="One sentence: what was wrong and what to do.")
    type: str = Field(description="Class of the error, such as `invalid_request_error`.")
    param: str | None = Field(description="Parameter at fault.")
    code: str = Field(description="Error code; the API reference lists all.")


class OpenAIError(BaseModel):
    """Error."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "The request is not valid. temperature: Input should be less than or equal to 1.",
                        "type": "invalid_request_error",
                        "param": "temperature",
                        "code": "invalid_request",
                    }
                }
            ]
        }
    )

    error: OpenAIErrorBody


# From the core.


def from_transcript(
    transcript: Transcript,
    response_format: ResponseFormat,
    *,
    task: str = "transcribe",
    temperature: float = 0.0,
    granularities: frozenset[str] = SEGMENTS,
) -> dict[str, Any] | str:
    """A transcript in `response_format`: a JSON object, or text."""
    if response_format == "json":
        return {"text": plain(transcript), "usage": _usage(transcript)}
    if response_format == "verbose_json":
        return _verbose(transcript, task, temperature, granularities or SEGMENTS)
    return plain(transcript) if response_format == "text" else FORMATS[response_format].render(transcript)


def status_of(problem: RequestError) -> int:
    """HTTP status of an error: 400 for every invalid request, 404 for an unknown model."""
    return 404 if problem.code == "model_unavailable" else problem.plain_status


def error_body(problem: RequestError) -> dict[str, Any]:
    """An error as an `OpenAIErrorBody`."""
    status = status_of(problem)
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = problem.fields[0][0] if problem.fields else None
    return {"message": problem.message, "type": kind, "param": param, "code": CODES.get(problem.code, problem.code)}


def plain(transcript: Transcript) -> str:
    """The whole text on one line, as the deltas of a stream add up to it."""
    return " ".join(" ".join(segment.text.split()) for segment in transcript.segments)


def _verbose(transcript: Transcript, task: str, temperature: float, granularities: frozenset[str]) -> dict[str, Any]:
    """`verbose_json` with `segment`s, `word`s or both. Details that no engine keeps (tokens, the probability of silence)
    are empty or 0."""
    body: dict[str, Any] = {
        "task": task,
        "language": LANGUAGES.get(transcript.language or "", transcript.language or "unknown"),
        "duration": round(transcript.duration_s, 3),
        "text": plain(transcript),
        "usage": _usage(transcript),
    }
    if "segment" in granularities:
        body["segments"] = [_segment(segment, temperature) for segment in transcript.segments]
    if "word" in granularities:
        words = (word for segment in transcript.segments for word in segment.words or ())
        body["words"] = [{"word": word.text.strip(), "start": word.start, "end": word.end} for word in words]
    return body


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

"""Transcripts -> Koldan's result, styled by the job's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from batching.types import Segment, Transcript, Word
from serve_app.dialects.koldan.text import language_tag, split_punctuation, strip_punctuation
from serve_app.dialects.koldan.wire_requests import KoldanTranscriptionOptions
from serve_app.models.job import Job


def from_transcript(job: Job, transcript: Transcript) -> dict[str, Any]:
    """`KoldanResult` of a transcript. Confidence is the segments' mean, weighted by duration."""
    options = KoldanTranscriptionOptions.model_validate_json(job.spec.echo["transcription"])
    diarization: Mapping[str, Any] = orjson.loads(job.spec.echo["diarization"]) or {}
    labels = {mapping["channel"]: mapping["label"] for mapping in diarization.get("channelMapping", ())}
    segments = transcript.segments
    weights = [max(s.end - s.start, 1e-3) for s in segments]
    total = sum(s.confidence * w for s, w in zip(segments, weights, strict=True))
    return {
        "text": " ".join(_style(s.text, options) for s in segments),
        "detectedLanguages": list(dict.fromkeys(language_tag(s.language) for s in segments if s.language)),
        "confidence": round(total / sum(weights), 4) if segments else None,
        "duration": transcript.duration_s,
        "segments": [_segment(s, options, labels) for s in segments],
    }


def _style(text: str, options: KoldanTranscriptionOptions) -> str:
    text = " ".join(text.split()) if options.punctuation else strip_punctuation(text)
    return text if options.capitalization else text.lower()


def _segment(segment: Segment, options: KoldanTranscriptionOptions, labels: Mapping[int, str]) -> dict[str, Any]:
    channel = segment.channel
    return {
        "start": segment.start,
        "end": segment.end,
        "text": _style(segment.text, options),
        "confidence": segment.confidence,
        "language": language_tag(segment.language) if segment.language else None,
        "speaker": None if channel is None else labels.get(channel, f"SPEAKER_{channel:02}"),
        "channel": channel,
        "words": [_word(word, options) for word in segment.words or ()],
    }


def _word(word: Word, options: KoldanTranscriptionOptions) -> dict[str, Any]:
    text, punctuation = split_punctuation(word.text)
    return {
        "word": text.lower(),
        "start": word.start,
        "end": word.end,
        "confidence": word.confidence,
        "punctuation": (punctuation or None) if options.punctuation else None,
        "capitalization": text if options.capitalization else None,
    }

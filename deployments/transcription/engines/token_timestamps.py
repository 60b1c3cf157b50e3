"""Timestamp tokens of Whisper, and words aligned to segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from batching.sentence_split import count_letters, mean_confidence
from batching.types import Word
from deployments.transcription.engines.base import Decode

TIME_STEP = 0.02  # seconds between two timestamp tokens


def split_at_timestamps(
    tokens: Sequence[int], first_timestamp: int, seconds: float, capped: bool = False
) -> tuple[list[tuple[float, float, list[int]]], float | None]:
    """Split tokens at timestamps → (start, end, tokens) of each sentence, and the end of the text in seconds, None if it
    goes on to the clip's end."""
    # In `<|a|> text <|b|><|b|> text` the last sentence goes on at the end of the clip; if the text is `capped`, it is
    # better decoded again.
    sentences: list[tuple[float, float, list[int]]] = []
    begin, words, last = 0.0, list[int](), None
    for token in tokens:
        if token < first_timestamp:
            words.append(token)
            continue
        time = min((token - first_timestamp) * TIME_STEP, seconds)
        if words:
            sentences.append((begin, max(time, begin), words))
            words, last = [], time
        begin = time
    if words and not (capped and sentences):
        sentences.append((begin, seconds, words))
        last = None
    return sentences, last


def with_words(decode: Decode, aligned: Sequence[dict[str, Any]]) -> Decode:
    """Assign a clip's aligned words to its segments in order."""
    # By count of letters, not by spaces: some languages have none, and not every word follows one.
    queue = [word for word in aligned if word["word"].strip()]
    segments = []
    for segment in decode.segments:
        length, words = count_letters(segment.text), list[Word]()
        while queue and sum(count_letters(w.text) for w in words) < length:
            word = queue.pop(0)
            words.append(
                Word(
                    word["word"].strip(),
                    round(float(word["start"]), 3),
                    round(float(word["end"]), 3),
                    round(float(word["probability"]), 3),
                )
            )
        if words:
            # After a pause, alignment tends to place the first word too early; the timestamp is more precise.
            first = words[0]
            words[0] = replace(first, start=max(first.start, min(round(segment.start, 3), first.end)))
        confidence = mean_confidence(words) if words else segment.confidence
        segments.append(replace(segment, confidence=confidence, words=tuple(words)))
    return replace(decode, segments=tuple(segments))

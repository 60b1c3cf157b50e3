"""Whisper's tokens → sentences with times, and aligned words → the sentences that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from batching.sentence_split import confidence, letters
from batching.types import Word
from deployments.transcription.engines.base import Decode

TIME_STEP = 0.02
"""Seconds that one timestamp token stands for."""


def split_at_timestamps(
    tokens: Sequence[int], first_timestamp: int, seconds: float, capped: bool = False
) -> tuple[list[tuple[float, float, list[int]]], float | None]:
    """Cut tokens at Whisper's timestamps → (start, end, tokens) of each sentence, and where the text stops in seconds:
    None where it goes on to the clip's end. `<|a|> text <|b|><|b|> text` with nothing after it is a sentence that was
    still going on when the clip ended; if it was `capped`, one that is better heard again."""
    sentences: list[tuple[float, float, list[int]]] = []
    begin, words, last = 0.0, list[int](), None
    for token in tokens:
        if token < first_timestamp:
            words.append(token)
            continue
        moment = min((token - first_timestamp) * TIME_STEP, seconds)
        if words:
            sentences.append((begin, max(moment, begin), words))
            words, last = [], moment
        begin = moment
    if words and not (capped and sentences):
        sentences.append((begin, seconds, words))
        last = None
    return sentences, last


def with_words(decode: Decode, aligned: Sequence[dict[str, Any]]) -> Decode:
    """Hand out a clip's aligned words to its segments, in order, by their share of the text (without its spaces: some
    languages have none, and not every word follows one)."""
    queue = [word for word in aligned if word["word"].strip()]
    segments = []
    for segment in decode.segments:
        length, words = letters(segment.text), list[Word]()
        while queue and sum(letters(w.text) for w in words) < length:
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
            # After a pause the alignment tends to begin the first word in it; the timestamp knows better.
            first = words[0]
            words[0] = replace(first, start=max(first.start, min(round(segment.start, 3), first.end)))
        sure = confidence(words) if words else segment.confidence
        segments.append(replace(segment, confidence=sure, words=tuple(words)))
    return replace(decode, segments=tuple(segments))

"""How a text is written, apart from what it says: its punctuation, its capitals, and the tags of its language."""

from __future__ import annotations

import re
import unicodedata

INSIDE = "'\u2019-"
"""Marks that belong to a word when they stand within it."""
TO_WHISPER = {"iw": "he", "in": "id", "ji": "yi", "jv": "jw", "nb": "no", "fil": "tl", "cmn": "zh", "arb": "ar"}
"""Tags of languages that Whisper knows by another code."""
FROM_WHISPER = {"jw": "jv"}


def code_of(tag: str) -> str:
    """A BCP 47 tag (`en-US`, `zh-Hans-CN`) → the code of its language as Whisper has it."""
    primary = re.split(r"[-_]", tag.strip(), maxsplit=1)[0].lower()
    return TO_WHISPER.get(primary, primary)


def tag_of(code: str) -> str:
    """The other way."""
    return FROM_WHISPER.get(code, code)


def bare(word: str) -> tuple[str, str]:
    """A word as it was written → the word itself, and the marks that follow it."""
    word = word.strip()
    end = len(word)
    while end and _is_mark(word[end - 1]):
        end -= 1
    begin = 0
    while begin < end and _is_mark(word[begin]):
        begin += 1
    return word[begin:end], word[end:]


def unpunctuated(text: str) -> str:
    """The text without its marks, but those within words."""
    return " ".join(found for word in text.split() if (found := _without(word)))


def _without(word: str) -> str:
    inner, _ = bare(word)
    return "".join(letter for letter in inner if letter in INSIDE or not _is_mark(letter))


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "P"

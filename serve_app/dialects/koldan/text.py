"""How a text is written, apart from what it says: its punctuation, its capitals, and the tags of its language."""

from __future__ import annotations

import re
import unicodedata

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
    """The text without its marks, but those within words and numbers."""
    return " ".join(said for word in text.split() if (said := bare(word)[0]))


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "P"

"""Text conventions: BCP 47 tags, punctuation marks."""

from __future__ import annotations

import re
import unicodedata

# BCP 47 primary subtags that Whisper knows by another code.
TO_WHISPER = {"iw": "he", "in": "id", "ji": "yi", "jv": "jw", "nb": "no", "fil": "tl", "cmn": "zh", "arb": "ar"}
FROM_WHISPER = {"jw": "jv"}


def language_code(tag: str) -> str:
    """BCP 47 tag (`en-US`) -> Whisper language code."""
    primary = re.split(r"[-_]", tag.strip(), maxsplit=1)[0].lower()
    return TO_WHISPER.get(primary, primary)


def language_tag(code: str) -> str:
    """Whisper language code -> BCP 47 tag."""
    return FROM_WHISPER.get(code, code)


def split_punctuation(word: str) -> tuple[str, str]:
    """Word -> (word without outer punctuation, punctuation after it)."""
    word = word.strip()
    end = len(word)
    while end and _is_punctuation(word[end - 1]):
        end -= 1
    start = 0
    while start < end and _is_punctuation(word[start]):
        start += 1
    return word[start:end], word[end:]


def strip_punctuation(text: str) -> str:
    """Remove punctuation, except inside words and numbers."""
    return " ".join(stripped for word in text.split() if (stripped := split_punctuation(word)[0]))


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] == "P"

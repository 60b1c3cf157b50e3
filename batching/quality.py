"""Is a decode to be believed, and if not, what to try next. Thresholds are those of the Whisper paper's section 4.5."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SPARSE = "sparse"
LADDER = (0.4, 0.8)
"""Temperatures to try, one after another, while the decode is doubtful."""
BEAM = 5
ENGLISH_BELOW, SHORT_BELOW, LONG_BELOW, SHORT_S = -0.6, -0.2, -0.3, 19.0
"""The mean log-probability from which on a greedy decode is left as it is: in English; in other languages, in a window of at
most `SHORT_S` and in a longer one. A beam mends little above the first in English, in French, German or Chinese a tenth to a
quarter of what is wrong (measured with base); over a long context it costs several times what it does over a short one."""
FIRST_UNSPACED = "\u0e00"
"""From Thai on, most of the scripts in Unicode put no spaces between words."""
LONGEST_PHRASE, LOOP_TURNS, LOOP_LENGTH = 8, 4, 8
"""A loop: a phrase of so many words at most, said so often in a row, so many words in all."""


@dataclass(frozen=True, slots=True)
class Try:
    """A way to decode: at a temperature, or with a beam; with all of the encoder's context (`whole`), or no more of it than
    the audio is likely to need."""

    temperature: float = 0.0
    beam: int = 1
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Text that compresses better than `compression` repeats itself, as does one with a loop in it; a mean log-probability
    below `log_probability` is a guess; a guess with `no_speech` above its bound, or over less than `blip_s` that were taken
    for speech, was no speech at all; nobody says more than `tokens_per_s`, and who speaks for `sparse_s` or longer says more
    than `sparse_tokens_per_s`."""

    compression: float = 2.4
    log_probability: float = -1.0
    no_speech: float = 0.6
    blip_s: float = 1.0
    tokens_per_s: float = 16.0
    sparse_tokens_per_s: float = 1.0
    sparse_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`flags` name what is doubtful; `silent` says that the text is to be dropped."""

    flags: tuple[str, ...]
    silent: bool

    @property
    def doubtful(self) -> bool:
        """Whether another try is worth its cost."""
        return bool(self.flags) and not self.silent

    @property
    def only_sparse(self) -> bool:
        """Whether all that is strange is that so little was said: it may be the encoder's short context, or a voice detected
        where there is none; to insist would invite invented words."""
        return self.flags == (SPARSE,)


GREEDY = Try()


def compression_ratio(text: str) -> float:
    """Bytes of `text` over bytes of its zlib form: about 1.5 for prose, over 2.4 for loops; 0 for no text."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def loops(text: str) -> bool:
    """Whether a phrase is said over and over: of words, or of letters where a language puts no spaces."""
    words = text.split()
    letters = "".join(words)
    spaced = sum(letter < FIRST_UNSPACED for letter in letters) > len(letters) / 2
    units = words if spaced else list(letters)
    for length in range(1, LONGEST_PHRASE + 1):
        run = 0
        for one, other in zip(units, units[length:], strict=False):
            run = run + 1 if one == other else 0
            if run + length >= max(LOOP_TURNS * length, LOOP_LENGTH):
                return True
    return False


def judge(
    text: str,
    *,
    log_probability: float,
    no_speech: float,
    tokens: int,
    seconds: float,
    detected_s: float = math.inf,
    speech_s: float = 0.0,
    capped: bool = False,
    thresholds: Thresholds | None = None,
) -> Verdict:
    """Judge the decode of a window of `seconds`, `detected_s` of them speech, that gave over `speech_s` of it a text of
    `tokens` tokens with a mean `log_probability`; `capped` says that it was cut off there."""
    limits = thresholds or Thresholds()
    flags = []
    if compression_ratio(text) > limits.compression or loops(text):
        flags.append("repetitive")
    if capped:
        flags.append("cut_off")
    guess = log_probability < limits.log_probability
    if guess:
        flags.append("low_probability")
    if tokens > max(24.0, seconds * limits.tokens_per_s):
        flags.append("too_many_tokens")
    if text and speech_s >= limits.sparse_s and tokens < speech_s * limits.sparse_tokens_per_s:
        flags.append(SPARSE)
    silent = guess and (no_speech > limits.no_speech or detected_s < limits.blip_s)
    return Verdict(tuple(flags), silent)


def worth_a_search(
    log_probability: float, no_speech: float, language: str, seconds: float, below: float | None = None
) -> bool:
    """Whether a greedy decode is to be searched with a beam as well while its encoding is at hand, which costs a fraction of
    what another try would: one `below` so much, or below what suits its language and length. Not over silence: a beam finds
    likelier words for it, and then they look heard."""
    usual = ENGLISH_BELOW if language == "en" else SHORT_BELOW if seconds <= SHORT_S else LONG_BELOW
    return log_probability < (usual if below is None else below) and no_speech <= Thresholds().no_speech


def tries(temperature: float = 0.0) -> Iterator[Try]:
    """What to try, one after another, while the decode is doubtful."""
    yield Try(temperature)
    yield Try(temperature, whole=True)
    yield from (Try(hotter, whole=True) for hotter in LADDER if hotter > temperature)
    yield Try(beam=BEAM, whole=True)

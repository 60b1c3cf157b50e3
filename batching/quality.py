"""Judges decodes and plans fallbacks (Radford et al. 2022, section 4.5)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SPARSE = "sparse"
FALLBACK_TEMPERATURES = (0.4, 0.8)
BEAM_SIZE = 5
# A greedy decode with a mean log-probability above its bound is not searched with a beam: in English; in other languages
# in windows of at most SHORT_S, and in longer ones. Above the first a beam corrects little in English, but 10 to 25 % of
# the errors in French, German and Chinese (base); over a long context it costs several times as much as over a short one.
ENGLISH_BELOW, SHORT_BELOW, LONG_BELOW, SHORT_S = -0.6, -0.2, -0.3, 19.0
FIRST_UNSPACED = "\u0e00"  # from Thai on, most scripts in Unicode put no spaces between words
# A loop is a phrase of at most this many words, repeated in a row at least this often and over this many words.
LONGEST_PHRASE, LOOP_REPEATS, LOOP_LENGTH = 8, 4, 8


@dataclass(frozen=True, slots=True)
class Strategy:
    """Decoding strategy."""

    temperature: float = 0.0  # of sampling; 0: greedy or beam search
    beam_size: int = 1
    full_context: bool = False  # encode all 30 s, not only as much as the audio probably needs


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Bounds beyond which a decode is doubtful."""

    compression: float = 2.4  # highest compression ratio of text that does not repeat itself
    log_probability: float = -1.0  # lowest mean log-probability of a text that is more than a guess
    no_speech: float = 0.6  # a guess with a higher no-speech probability is silence
    blip_s: float = 1.0  # a guess over less detected speech is silence
    tokens_per_s: float = 16.0  # fastest speech
    sparse_tokens_per_s: float = 1.0  # slowest speech, over at least `sparse_s`
    sparse_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of `judge`."""

    flags: tuple[str, ...]  # names of the doubts
    silent: bool  # no speech: the text is dropped

    @property
    def doubtful(self) -> bool:
        return bool(self.flags) and not self.silent

    @property
    def only_sparse(self) -> bool:
        # The cause may be a short encoder context, or a false positive of speech detection: beyond a retry with full
        # context, insisting would invite hallucination.
        return self.flags == (SPARSE,)


GREEDY = Strategy()


def compression_ratio(text: str) -> float:
    """UTF-8 size over zlib size: about 1.5 for prose, over 2.4 for loops."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def has_loop(text: str) -> bool:
    """Whether a phrase is repeated over and over."""
    words = text.split()
    letters = "".join(words)
    spaced = sum(letter < FIRST_UNSPACED for letter in letters) > len(letters) / 2
    units = words if spaced else list(letters)  # letters in languages without spaces
    for length in range(1, LONGEST_PHRASE + 1):
        run = 0
        for unit, later in zip(units, units[length:], strict=False):
            run = run + 1 if unit == later else 0
            if run + length >= max(LOOP_REPEATS * length, LOOP_LENGTH):
                return True
    return False


def judge(
    text: str,
    *,
    log_probability: float,  # mean over the tokens
    no_speech: float,  # probability
    tokens: int,
    seconds: float,  # of audio
    detected_s: float = math.inf,  # detected speech in the whole window
    speech_s: float = 0.0,  # detected speech that the text covers
    capped: bool = False,  # the text reached its token limit
    thresholds: Thresholds | None = None,
) -> Verdict:
    limits = thresholds or Thresholds()
    flags = []
    if compression_ratio(text) > limits.compression or has_loop(text):
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


def needs_beam_search(
    log_probability: float, no_speech: float, language: str, seconds: float, below: float | None = None
) -> bool:
    """Whether to search a greedy decode with a beam too; `below` overrides the usual bound."""
    # At once, while the encoder output is at hand: far cheaper than a fallback.
    usual = ENGLISH_BELOW if language == "en" else SHORT_BELOW if seconds <= SHORT_S else LONG_BELOW
    # Not over silence: beam search makes hallucinations over silence look confident.
    return log_probability < (usual if below is None else below) and no_speech <= Thresholds().no_speech


def strategies(temperature: float = 0.0) -> Iterator[Strategy]:
    """Strategies to try while a decode is doubtful."""
    yield Strategy(temperature)
    yield Strategy(temperature, full_context=True)
    yield from (Strategy(hotter, full_context=True) for hotter in FALLBACK_TEMPERATURES if hotter > temperature)
    yield Strategy(beam_size=BEAM_SIZE, full_context=True)

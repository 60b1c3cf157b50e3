"""Verdicts on decodes, and the fallbacks of doubtful ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching.quality import (
    BEAM_SIZE,
    FALLBACK_TEMPERATURES,
    Strategy,
    Thresholds,
    Verdict,
    compression_ratio,
    has_loop,
    judge,
    needs_beam_search,
    strategies,
)

PROSE = "Mister Quilter is the apostle of the middle classes, and we are glad to welcome his gospel."
LOOP = "Thank you for watching. " * 12


def verdict(
    text: str = PROSE,
    *,
    log_probability: float = -0.3,
    no_speech: float = 0.05,
    tokens: int = 20,
    seconds: float = 6.0,
    thresholds: Thresholds | None = None,
) -> Verdict:
    """Verdict on a good decode, but for the arguments of the test."""
    return judge(
        text,
        log_probability=log_probability,
        no_speech=no_speech,
        tokens=tokens,
        seconds=seconds,
        thresholds=thresholds,
    )


def test_a_good_decode_is_not_doubtful() -> None:
    assert verdict() == Verdict((), silent=False)
    assert not verdict().doubtful


def test_a_text_that_repeats_itself_is_doubtful() -> None:
    assert verdict(LOOP).flags == ("repetitive",)
    assert verdict(LOOP).doubtful


def test_a_guess_is_doubtful() -> None:
    assert verdict(log_probability=-1.01).flags == ("low_probability",)
    assert verdict(log_probability=-1.01).doubtful


@pytest.mark.parametrize(("tokens", "seconds", "flags"), [(160, 10.0, ()), (161, 10.0, ("too_many_tokens",))])
def test_more_tokens_than_anybody_can_speak_are_doubtful(tokens: int, seconds: float, flags: tuple[str, ...]) -> None:
    assert verdict(tokens=tokens, seconds=seconds).flags == flags


@pytest.mark.parametrize(("tokens", "flags"), [(24, ()), (25, ("too_many_tokens",))])
def test_a_short_window_may_hold_a_few_tokens_more(tokens: int, flags: tuple[str, ...]) -> None:
    assert verdict(tokens=tokens, seconds=0.5).flags == flags


def test_every_doubt_has_a_flag() -> None:
    assert set(verdict(LOOP, log_probability=-2, tokens=500).flags) == {"repetitive", "low_probability", "too_many_tokens"}


def test_a_value_on_its_bound_is_not_doubtful() -> None:
    exact = Thresholds(compression=compression_ratio(PROSE), log_probability=-0.5, tokens_per_s=10)
    assert verdict(PROSE, log_probability=-0.5, tokens=60, seconds=6, thresholds=exact).flags == ()


def test_thresholds_can_be_set() -> None:
    strict = Thresholds(compression=0.5, log_probability=-0.1, no_speech=0.9, tokens_per_s=1)
    assert verdict(tokens=30, thresholds=strict).flags == ("repetitive", "low_probability", "too_many_tokens")
    assert not verdict(no_speech=0.8, thresholds=strict).silent


def test_a_guess_over_silence_is_dropped_without_a_fallback() -> None:
    silence = verdict(log_probability=-1.5, no_speech=0.61)
    assert silence.silent
    assert not silence.doubtful


@pytest.mark.parametrize(("log_probability", "no_speech"), [(-0.3, 0.99), (-1.5, 0.6), (-1.0, 0.99)])
def test_neither_a_confident_text_nor_a_guess_over_speech_is_silence(log_probability: float, no_speech: float) -> None:
    assert not verdict(log_probability=log_probability, no_speech=no_speech).silent


def test_an_empty_text_does_not_repeat_itself() -> None:
    assert compression_ratio("") == 0
    assert verdict("").flags == ()


@pytest.mark.parametrize(
    "text",
    [
        "no " * 8,
        "I know. " * 4,
        "it is what it is and " * 4,
        "well, and then " + "thank you. " * 4 + "Goodbye.",
        "哈哈哈哈哈哈哈哈哈",
    ],
)
def test_a_phrase_repeated_over_and_over_is_a_loop(text: str) -> None:
    assert has_loop(text)
    assert verdict(text).flags == ("repetitive",)


@pytest.mark.parametrize(
    "text", ["", "no", "no " * 7, "very very good", "I know. I know. I know.", PROSE, PROSE * 2, "是的，我知道，谢谢。"]
)
def test_a_phrase_repeated_two_or_three_times_is_no_loop(text: str) -> None:
    assert not has_loop(text)


@pytest.mark.parametrize(
    ("text", "tokens", "speech_s", "flags"),
    [("the fierce", 2, 3.8, ("sparse",)), ("the fierce", 2, 1.9, ()), ("a slow poem", 4, 4.0, ()), ("", 0, 9.0, ())],
)
def test_a_text_that_is_much_shorter_than_its_speech_is_doubtful(
    text: str, tokens: int, speech_s: float, flags: tuple[str, ...]
) -> None:
    verdict = judge(text, log_probability=-0.3, no_speech=0.0, tokens=tokens, seconds=10.0, speech_s=speech_s)
    assert verdict.flags == flags
    assert verdict.only_sparse == bool(flags)


def test_a_text_at_its_token_limit_is_doubtful() -> None:
    verdict = judge(PROSE, log_probability=-0.3, no_speech=0.0, tokens=40, seconds=6.0, capped=True)
    assert verdict.flags == ("cut_off",)
    assert verdict.doubtful


@pytest.mark.parametrize(
    ("log_probability", "no_speech", "language", "seconds", "worth"),
    [
        (-0.61, 0.0, "en", 5.0, True),
        (-0.6, 0.0, "en", 5.0, False),
        (-0.21, 0.0, "fr", 19.0, True),
        (-0.2, 0.0, "fr", 19.0, False),
        (-0.3, 0.0, "fr", 19.1, False),
        (-0.31, 0.0, "fr", 28.0, True),
        # Over silence, beam search makes hallucinations look confident.
        (-1.5, 0.61, "en", 5.0, False),
        (-1.5, 0.6, "fr", 5.0, True),
    ],
)
def test_an_unlikely_text_needs_a_beam_search(
    log_probability: float, no_speech: float, language: str, seconds: float, worth: bool
) -> None:
    assert needs_beam_search(log_probability, no_speech, language, seconds) is worth


@pytest.mark.parametrize(("below", "worth"), [(-0.5, False), (-0.4, False), (-0.3, True), (0.0, True)])
def test_the_bound_of_beam_search_can_be_set(below: float, worth: bool) -> None:
    assert needs_beam_search(-0.4, 0.0, "en", 5.0, below) is worth
    assert not needs_beam_search(-0.4, 0.9, "en", 5.0, below)


@pytest.mark.parametrize(("detected_s", "silent"), [(0.9, True), (1.0, False)])
def test_a_guess_over_a_blip_of_speech_is_silence(detected_s: float, silent: bool) -> None:
    def blip(log_probability: float) -> Verdict:
        return judge(
            "So", log_probability=log_probability, no_speech=0.1, tokens=1, seconds=2.0, detected_s=detected_s, speech_s=0.5
        )

    assert blip(-1.1).silent is silent
    assert not blip(-0.9).silent


def test_prose_compresses_less_than_a_loop() -> None:
    assert 0 < compression_ratio(PROSE) < Thresholds().compression < compression_ratio(LOOP)


def test_compression_is_measured_in_bytes() -> None:
    assert compression_ratio("да" * 40) > compression_ratio("da" * 40)


def test_fallbacks_are_full_context_then_higher_temperatures_then_beam_search() -> None:
    tried = list(strategies())
    assert tried[:2] == [Strategy(), Strategy(full_context=True)]
    assert [strategy.temperature for strategy in tried[2:-1]] == list(FALLBACK_TEMPERATURES)
    assert tried[-1] == Strategy(beam_size=BEAM_SIZE, full_context=True)


@given(st.floats(0, 1))
def test_temperatures_only_rise_from_the_requested_one(temperature: float) -> None:
    tried = list(strategies(temperature))
    assert [strategy.temperature for strategy in tried[:2]] == [temperature, temperature]
    assert all(strategy.temperature > temperature for strategy in tried[2:-1])

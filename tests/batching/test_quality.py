"""Is a decode to be believed, and what to try next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching.quality import BEAM, LADDER, Thresholds, Try, Verdict, compression_ratio, judge, loops, tries, worth_a_search

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
    """The verdict on a good decode, but for what the test says."""
    return judge(
        text,
        log_probability=log_probability,
        no_speech=no_speech,
        tokens=tokens,
        seconds=seconds,
        thresholds=thresholds,
    )


def test_a_good_decode_is_believed() -> None:
    assert verdict() == Verdict((), silent=False)
    assert not verdict().doubtful


def test_a_text_that_repeats_itself_is_doubtful() -> None:
    assert verdict(LOOP).flags == ("repetitive",)
    assert verdict(LOOP).doubtful


def test_a_guess_is_doubtful() -> None:
    assert verdict(log_probability=-1.01).flags == ("low_probability",)
    assert verdict(log_probability=-1.01).doubtful


@pytest.mark.parametrize(("tokens", "seconds", "flags"), [(160, 10.0, ()), (161, 10.0, ("too_many_tokens",))])
def test_more_tokens_than_anybody_can_say_are_doubtful(tokens: int, seconds: float, flags: tuple[str, ...]) -> None:
    assert verdict(tokens=tokens, seconds=seconds).flags == flags


@pytest.mark.parametrize(("tokens", "flags"), [(24, ()), (25, ("too_many_tokens",))])
def test_a_short_window_may_hold_a_few_tokens_more(tokens: int, flags: tuple[str, ...]) -> None:
    assert verdict(tokens=tokens, seconds=0.5).flags == flags


def test_every_doubt_is_named() -> None:
    assert set(verdict(LOOP, log_probability=-2, tokens=500).flags) == {"repetitive", "low_probability", "too_many_tokens"}


def test_what_lies_on_a_bound_is_believed() -> None:
    exact = Thresholds(compression=compression_ratio(PROSE), log_probability=-0.5, tokens_per_s=10)
    assert verdict(PROSE, log_probability=-0.5, tokens=60, seconds=6, thresholds=exact).flags == ()


def test_thresholds_can_be_set() -> None:
    strict = Thresholds(compression=0.5, log_probability=-0.1, no_speech=0.9, tokens_per_s=1)
    assert verdict(tokens=30, thresholds=strict).flags == ("repetitive", "low_probability", "too_many_tokens")
    assert not verdict(no_speech=0.8, thresholds=strict).silent


def test_a_guess_over_silence_is_dropped_and_not_tried_again() -> None:
    silence = verdict(log_probability=-1.5, no_speech=0.61)
    assert silence.silent
    assert not silence.doubtful


@pytest.mark.parametrize(("log_probability", "no_speech"), [(-0.3, 0.99), (-1.5, 0.6), (-1.0, 0.99)])
def test_neither_a_sure_text_nor_a_guess_over_speech_is_silence(log_probability: float, no_speech: float) -> None:
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
def test_a_phrase_said_over_and_over_is_a_loop(text: str) -> None:
    assert loops(text)
    assert verdict(text).flags == ("repetitive",)


@pytest.mark.parametrize(
    "text", ["", "no", "no " * 7, "very very good", "I know. I know. I know.", PROSE, PROSE * 2, "是的，我知道，谢谢。"]
)
def test_what_people_say_twice_or_thrice_is_none(text: str) -> None:
    assert not loops(text)


@pytest.mark.parametrize(
    ("text", "tokens", "speech_s", "flags"),
    [("the fierce", 2, 3.8, ("sparse",)), ("the fierce", 2, 1.9, ()), ("a slow poem", 4, 4.0, ()), ("", 0, 9.0, ())],
)
def test_a_text_that_is_much_shorter_than_its_speech_is_doubtful(
    text: str, tokens: int, speech_s: float, flags: tuple[str, ...]
) -> None:
    found = judge(text, log_probability=-0.3, no_speech=0.0, tokens=tokens, seconds=10.0, speech_s=speech_s)
    assert found.flags == flags
    assert found.only_sparse == bool(flags)


def test_what_was_cut_off_is_doubtful() -> None:
    found = judge(PROSE, log_probability=-0.3, no_speech=0.0, tokens=40, seconds=6.0, capped=True)
    assert found.flags == ("cut_off",)
    assert found.doubtful


@pytest.mark.parametrize(
    ("log_probability", "no_speech", "language", "seconds", "worth"),
    [
        (-0.61, 0.0, "en", 5.0, True),
        (-0.6, 0.0, "en", 5.0, False),
        (-0.21, 0.0, "fr", 19.0, True),
        (-0.2, 0.0, "fr", 19.0, False),
        (-0.3, 0.0, "fr", 19.1, False),
        (-0.31, 0.0, "fr", 28.0, True),
        # Over silence a beam would find likelier words, which nobody said.
        (-1.5, 0.61, "en", 5.0, False),
        (-1.5, 0.6, "fr", 5.0, True),
    ],
)
def test_what_is_unlikely_is_worth_a_search(
    log_probability: float, no_speech: float, language: str, seconds: float, worth: bool
) -> None:
    assert worth_a_search(log_probability, no_speech, language, seconds) is worth


@pytest.mark.parametrize(("below", "worth"), [(-0.5, False), (-0.4, False), (-0.3, True), (0.0, True)])
def test_what_is_worth_a_search_can_be_said(below: float, worth: bool) -> None:
    assert worth_a_search(-0.4, 0.0, "en", 5.0, below) is worth
    assert not worth_a_search(-0.4, 0.9, "en", 5.0, below)


@pytest.mark.parametrize(("detected_s", "silent"), [(0.9, True), (1.0, False)])
def test_a_guess_about_a_blip_of_speech_was_no_speech(detected_s: float, silent: bool) -> None:
    def found(log_probability: float) -> Verdict:
        return judge(
            "So", log_probability=log_probability, no_speech=0.1, tokens=1, seconds=2.0, detected_s=detected_s, speech_s=0.5
        )

    assert found(-1.1).silent is silent
    assert not found(-0.9).silent


def test_prose_compresses_less_than_a_loop() -> None:
    assert 0 < compression_ratio(PROSE) < Thresholds().compression < compression_ratio(LOOP)


def test_compression_is_measured_in_bytes() -> None:
    assert compression_ratio("да" * 40) > compression_ratio("da" * 40)


def test_what_is_doubtful_is_tried_with_all_context_then_hotter_then_with_a_beam() -> None:
    found = list(tries())
    assert found[:2] == [Try(), Try(whole=True)]
    assert [each.temperature for each in found[2:-1]] == list(LADDER)
    assert found[-1] == Try(beam=BEAM, whole=True)


@given(st.floats(0, 1))
def test_a_hot_start_is_only_made_hotter(asked: float) -> None:
    found = list(tries(asked))
    assert [each.temperature for each in found[:2]] == [asked, asked]
    assert all(each.temperature > asked for each in found[2:-1])

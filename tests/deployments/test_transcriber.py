"""Transcriber stage: shared batches, fallbacks, remainders, and isolation of failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from batching.quality import BEAM_SIZE, Strategy
from batching.types import SAMPLE_RATE, Segment, Span, Window, Word
from deployments.errors import EngineFailed, StageLost
from deployments.health import UNKNOWN_S, Stalled
from deployments.messages import DecodeOptions, DecodeStarted, EngineInfo, TranscribeRequest, WindowResult
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import PcmWriter
from deployments.transcription import stage
from deployments.transcription.engines.base import Clip, Decode
from deployments.transcription.stage import Transcriber
from tests.lib.recordings import s16le, tone

CONFIDENT, DOUBTFUL = -0.2, -2.0


def decode_of(
    text: str, *, log_probability: float = CONFIDENT, no_speech: float = 0.0, tokens: int = 5, ends_at: float | None = None
) -> Decode:
    """Decode of one sentence, from 0.5 s to 1.5 s of its clip."""
    words = (Word(text.strip(), 0.5, 1.5, 0.9),)
    segments = (Segment(0, 0.5, 1.5, text, 0.9, "en", words),) if text else ()
    return Decode(segments, "en", log_probability, no_speech, tokens, ends_at)


class ScriptedEngine:
    """Engine that decodes by a function and records its batches; it waits for the gate before each."""

    def __init__(self, answer: Callable[[Clip], Decode], batch: int = 4) -> None:
        self.info = EngineInfo("scripted", "cpu", "none", ("en",))
        self.workers, self.batch, self.batch_s = 1, batch, 30.0 * batch
        self.answer = answer
        self.batches: list[list[Clip]] = []
        self.gate = Event()
        self.gate.set()

    def kind(self, clip: Clip) -> Hashable:
        return clip.strategy

    def decode(self, clips: Sequence[Clip]) -> list[Decode]:
        self.gate.wait(10)
        self.batches.append(list(clips))
        return [self.answer(clip) for clip in clips]

    @property
    def clips(self) -> list[Clip]:
        """All clips in the order in which they were decoded."""
        return [clip for batch in self.batches for clip in batch]


def window(start: float, end: float, index: int = 0) -> Window:
    """Speech from `start` to `end` seconds."""
    span = Span(int(start * SAMPLE_RATE), int(end * SAMPLE_RATE))
    return Window(index, span.start, span.end, (span,))


def request(window: Window, job: str = "job", options: DecodeOptions | None = None) -> TranscribeRequest:
    return TranscribeRequest(job, "tenant", 0, "pcm", window, options or DecodeOptions())


@pytest.fixture
def stored(artifacts: Artifacts) -> Artifacts:
    """Twenty seconds of audio, each second louder than the one before."""
    writer = PcmWriter(artifacts, "pcm")
    for second in range(20):
        writer.write(s16le(tone(1.0, peak=0.02 * (second + 1))))
    writer.finish()
    return artifacts


def loudness(clip: Clip) -> int:
    """Number of a clip's loudest second, from 1."""
    return round(float(np.abs(clip.audio).max()) / 0.02)


async def transcribe(stored: Artifacts, engine: ScriptedEngine, request: TranscribeRequest) -> WindowResult:
    return await Transcriber(stored, engine).transcribe(request)


async def queued(stored: Artifacts) -> None:
    """Return when all requests so far wait for the engine: one thread reads their audio, in order."""
    await asyncio.sleep(0)
    await stored.threads.run(int)


@pytest.fixture
def one_reader_thread(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts.threads, "_pool", ThreadPoolExecutor(1))


async def test_a_decode_has_its_share_of_the_batchs_time(stored: Artifacts, one_reader_thread: None) -> None:
    def slow(clip: Clip) -> Decode:
        time.sleep(0.1)
        return decode_of(" hello")

    transcriber = Transcriber(stored, ScriptedEngine(slow))
    windows = [window(start, start + 2.0, index) for index, start in enumerate((0.0, 4.0))]
    results = await asyncio.gather(*(transcriber.transcribe(request(window)) for window in windows))
    assert all(0.09 < result.decode_s < 0.19 for result in results)


async def test_a_window_decodes_its_own_audio_with_times_on_the_sources_clock(stored: Artifacts) -> None:
    engine = ScriptedEngine(lambda _: decode_of(" hello"))
    result = await transcribe(stored, engine, request(window(7.0, 9.5, index=3)))
    assert (len(engine.clips[0].audio), loudness(engine.clips[0])) == (2.5 * SAMPLE_RATE, 10)
    (segment,) = result.segments
    assert (segment.start, segment.end, segment.text) == (7.5, 8.5, " hello")
    assert segment.words == (Word("hello", 7.5, 8.5, 0.9),)
    assert (result.index, result.language, result.device) == (3, "en", "cpu")


async def test_windows_of_several_jobs_share_a_batch(stored: Artifacts, one_reader_thread: None) -> None:
    engine = ScriptedEngine(lambda clip: decode_of(f"{loudness(clip)}"))
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    tasks = [asyncio.create_task(transcriber.transcribe(request(window(i, i + 1), f"job-{i}"))) for i in range(5)]
    await queued(stored)
    engine.gate.set()
    results = await asyncio.gather(*tasks)
    # The first starts at once, alone or with those submitted in the same turn; the rest share the next batch.
    assert len(engine.batches) == 2
    assert max(map(len, engine.batches)) >= 3
    assert [result.segments[0].text for result in results] == ["1", "2", "3", "4", "5"]
    assert (await transcriber.stats())["items"] == 5


async def test_clips_of_different_kinds_share_no_batch(stored: Artifacts, one_reader_thread: None) -> None:
    engine = ScriptedEngine(lambda _: decode_of("yes"))
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    warm = DecodeOptions(temperature=0.4)
    options = [DecodeOptions(), warm, DecodeOptions(language="de"), warm]
    tasks = [asyncio.create_task(transcriber.transcribe(request(window(i, i + 1), "job", o))) for i, o in enumerate(options)]
    await queued(stored)
    engine.gate.set()
    await asyncio.gather(*tasks)
    assert all(len({clip.strategy for clip in batch}) == 1 for batch in engine.batches)


async def test_a_doubtful_decode_falls_back_to_higher_temperatures_until_it_is_not(stored: Artifacts) -> None:
    engine = ScriptedEngine(
        lambda c: decode_of("guess", log_probability=DOUBTFUL) if c.strategy.temperature < 0.4 else decode_of("sure")
    )
    result = await transcribe(stored, engine, request(window(0, 3)))
    assert [clip.strategy.temperature for clip in engine.clips] == [0.0, 0.4]
    assert [(s.text, s.flags) for s in result.segments] == [("sure", ())]


async def test_the_most_likely_of_doubtful_decodes_counts_and_is_flagged(stored: Artifacts) -> None:
    likely = {0.0: -1.9, 0.4: -1.2, 0.8: -1.5}
    engine = ScriptedEngine(
        lambda c: decode_of(f"at {c.strategy.temperature}", log_probability=likely[c.strategy.temperature])
    )
    result = await transcribe(stored, engine, request(window(0, 3)))
    assert [(clip.strategy.temperature, clip.strategy.beam_size) for clip in engine.clips] == [
        (0.0, 1),
        (0.4, 1),
        (0.8, 1),
        (0.0, BEAM_SIZE),
    ]
    assert [(s.text, s.flags) for s in result.segments] == [("at 0.4", ("low_probability",))]


async def test_text_that_repeats_itself_loses_to_less_likely_text(stored: Artifacts) -> None:
    engine = ScriptedEngine(
        lambda c: (
            decode_of("and so " * 40) if c.strategy.temperature < 0.4 else decode_of("and so", log_probability=DOUBTFUL)
        )
    )
    result = await transcribe(stored, engine, request(window(0, 3)))
    assert [s.text for s in result.segments] == ["and so"]


async def test_fallbacks_have_no_lower_temperature_than_requested(stored: Artifacts) -> None:
    engine = ScriptedEngine(lambda _: decode_of("guess", log_probability=DOUBTFUL))
    await transcribe(stored, engine, request(window(0, 3), options=DecodeOptions(temperature=1.0)))
    assert [(clip.strategy.temperature, clip.strategy.beam_size) for clip in engine.clips] == [(1.0, 1), (0.0, BEAM_SIZE)]


async def test_the_first_fallback_of_a_short_context_is_the_full_context(stored: Artifacts) -> None:
    def answer(clip: Clip) -> Decode:
        return (
            decode_of("sure")
            if clip.strategy.full_context
            else replace(decode_of("guess", log_probability=DOUBTFUL), full_context=False)
        )

    engine = ScriptedEngine(answer)
    result = await transcribe(stored, engine, request(window(0, 3)))
    assert [clip.strategy for clip in engine.clips] == [Strategy(), Strategy(full_context=True)]
    assert [(s.text, s.flags) for s in result.segments] == [("sure", ())]


async def test_a_sparse_text_is_decoded_again_with_full_context_and_no_further(stored: Artifacts) -> None:
    engine = ScriptedEngine(lambda clip: replace(decode_of("hm", tokens=1), full_context=clip.strategy.full_context))
    result = await transcribe(stored, engine, request(window(0, 5)))
    assert [clip.strategy for clip in engine.clips] == [Strategy(), Strategy(full_context=True)]
    assert [(s.text, s.flags) for s in result.segments] == [("hm", ("sparse",))]


async def test_a_text_that_stops_early_is_judged_by_the_speech_before_its_end(stored: Artifacts) -> None:
    engine = ScriptedEngine(
        lambda clip: decode_of("one two three", tokens=3, ends_at=3.0 if len(clip.audio) > 4 * SAMPLE_RATE else None)
    )
    await transcribe(stored, engine, request(window(0, 6)))
    assert [clip.strategy for clip in engine.clips] == [Strategy(), Strategy()]


async def test_a_fallback_without_doubts_wins_over_a_more_likely_doubtful_decode(stored: Artifacts) -> None:
    def answer(clip: Clip) -> Decode:
        if clip.strategy.full_context:
            return decode_of("all that was said", log_probability=-0.9, tokens=6)
        return replace(decode_of("hm", log_probability=-0.1, tokens=1), full_context=False)

    result = await transcribe(stored, ScriptedEngine(answer), request(window(0, 5)))
    assert [(s.text, s.flags) for s in result.segments] == [("all that was said", ())]


async def test_a_text_at_its_token_limit_is_doubtful(stored: Artifacts) -> None:
    engine = ScriptedEngine(lambda clip: replace(decode_of("and so"), capped=not clip.strategy.temperature))
    result = await transcribe(stored, engine, request(window(0, 3)))
    assert [clip.strategy.temperature for clip in engine.clips] == [0.0, 0.4]
    assert result.segments[0].flags == ()


async def test_a_guess_over_a_blip_is_dropped_but_not_over_the_remainder_of_a_long_window(stored: Artifacts) -> None:
    def answer(clip: Clip) -> Decode:
        if len(clip.audio) > 4 * SAMPLE_RATE:
            return decode_of("one two three four five six", tokens=6, ends_at=5.2)
        return decode_of("so", log_probability=DOUBTFUL)

    assert (await transcribe(stored, ScriptedEngine(answer), request(window(0, 0.8)))).segments == ()
    whole = await transcribe(stored, ScriptedEngine(answer), request(window(0, 6)))
    assert [segment.text for segment in whole.segments] == ["one two three four five six", "so"]


async def test_silence_gives_no_segments_and_no_fallback(stored: Artifacts) -> None:
    engine = ScriptedEngine(lambda _: decode_of("Thank you.", log_probability=DOUBTFUL, no_speech=0.9))
    result = await transcribe(stored, engine, request(window(0, 3)))
    assert result.segments == ()
    assert len(engine.clips) == 1


async def test_text_that_stops_early_is_resumed_where_it_stopped(stored: Artifacts) -> None:
    answers = iter([decode_of("one", ends_at=4.0), decode_of("two", ends_at=3.0), decode_of("three")])
    engine = ScriptedEngine(lambda _: next(answers))
    result = await transcribe(stored, engine, request(window(2.0, 14.0)))
    assert [len(clip.audio) / SAMPLE_RATE for clip in engine.clips] == [12.0, 8.0, 5.0]
    assert [(s.text, s.start, s.end) for s in result.segments] == [
        ("one", 2.5, 3.5),
        ("two", 6.5, 7.5),
        ("three", 9.5, 10.5),
    ]
    assert [s.words and s.words[0].start for s in result.segments] == [2.5, 6.5, 9.5]


@pytest.mark.parametrize("ends_at", [None, 0.0, 0.5, 5.6, 6.0])
async def test_nothing_is_resumed_without_progress_or_without_speech_left(stored: Artifacts, ends_at: float | None) -> None:
    engine = ScriptedEngine(lambda _: decode_of("all", ends_at=ends_at))
    result = await transcribe(stored, engine, request(window(2.0, 8.0)))
    assert [s.text for s in result.segments] == ["all"]
    assert len(engine.clips) == 1


async def test_an_engine_failure_affects_only_its_window(stored: Artifacts, one_reader_thread: None) -> None:
    def answer(clip: Clip) -> Decode:
        if loudness(clip) == 3:
            raise RuntimeError("secret /path")
        return decode_of(f"{loudness(clip)}")

    engine = ScriptedEngine(answer)
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    tasks = [asyncio.create_task(transcriber.transcribe(request(window(i, i + 1), f"job-{i}"))) for i in range(5)]
    await queued(stored)
    engine.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    texts = [r.segments[0].text if isinstance(r, WindowResult) else type(r) for r in results]
    assert texts == ["1", "2", EngineFailed, "4", "5"]
    assert "secret" not in str(results[2])


async def test_a_cancelled_request_leaves_the_queue(stored: Artifacts, one_reader_thread: None) -> None:
    engine = ScriptedEngine(lambda clip: decode_of(f"{loudness(clip)}"), batch=1)
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    tasks = [asyncio.create_task(transcriber.transcribe(request(window(i, i + 1), f"job-{i}"))) for i in range(3)]
    await queued(stored)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert (await transcriber.stats())["dropped"] == 1
    engine.gate.set()
    assert [(await tasks[i]).segments[0].text for i in (0, 2)] == ["1", "3"]
    assert [loudness(clip) for clip in engine.clips] == [1, 3]


async def test_a_stream_yields_decode_started_and_then_the_result(stored: Artifacts, one_reader_thread: None) -> None:
    engine = ScriptedEngine(lambda _: decode_of(" hello"))
    engine.gate.clear()
    messages = Transcriber(stored, engine).stream(request(window(1, 2)))
    assert await anext(messages) == DecodeStarted()
    engine.gate.set()
    result = await anext(messages)
    assert isinstance(result, WindowResult)
    assert result.segments[0].text == " hello"
    with pytest.raises(StopAsyncIteration):
        await anext(messages)


async def test_a_waiting_window_yields_nothing_and_leaves_with_its_reader(
    stored: Artifacts, one_reader_thread: None
) -> None:
    engine = ScriptedEngine(lambda _: decode_of(" hello"))
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    first = transcriber.stream(request(window(1, 2)))
    assert await anext(first) == DecodeStarted()
    second = transcriber.stream(request(window(2, 3)))
    waiting = asyncio.ensure_future(anext(second))
    await queued(stored)  # it has begun to read
    await queued(stored)  # it has read
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    engine.gate.set()
    assert isinstance(await anext(first), WindowResult)
    assert len(engine.clips) == 1
    assert (await transcriber.stats())["dropped"] == 1


async def test_a_stream_raises_what_the_decode_raises(stored: Artifacts) -> None:
    def fail(clip: Clip) -> Decode:
        raise RuntimeError("no")

    with pytest.raises(EngineFailed):
        async for _ in Transcriber(stored, ScriptedEngine(fail)).stream(request(window(1, 2))):
            pass


def full(limit: int) -> Callable[[int], None]:
    """Memory for so many clips at once."""

    def allocate(clips: int) -> None:
        if clips > limit:
            raise RuntimeError("CUDA failed with error out of memory")

    return allocate


class SmallDevice(ScriptedEngine):
    """Engine that runs out of memory."""

    def __init__(self, allocate: Callable[[int], None], batch: int = 8) -> None:
        super().__init__(lambda clip: decode_of(f"{loudness(clip)}"), batch)
        self.allocate = allocate

    def decode(self, clips: Sequence[Clip]) -> list[Decode]:
        decodes = super().decode(clips)
        self.allocate(len(clips))
        return decodes


async def test_a_batch_that_found_no_memory_makes_all_later_ones_smaller(stored: Artifacts, one_reader_thread: None) -> None:
    engine = SmallDevice(full(3))
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    tasks = [asyncio.create_task(transcriber.transcribe(request(window(i, i + 1), f"job-{i}"))) for i in range(18)]
    await queued(stored)
    engine.gate.set()
    results = await asyncio.gather(*tasks)
    assert [result.segments[0].text for result in results] == [str(i + 1) for i in range(18)]
    assert (engine.batch, engine.batch_s) == (2, 60.0)
    sizes = [len(batch) for batch in engine.batches]
    assert sum(size > 3 for size in sizes) <= 3  # one batch and its halves
    assert max(sizes[-4:]) <= 2
    assert all(0 < result.fill <= 1 for result in results)


async def test_a_clip_that_finds_no_memory_waits_for_it(stored: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MEMORY_WAITS_S", (0.01, 0.01))
    limits = iter([0, 0, 1])
    engine = SmallDevice(lambda clips: full(next(limits))(clips))
    result = await transcribe(stored, engine, request(window(1, 2)))
    assert result.segments[0].text == "2"
    assert len(engine.batches) == 3
    assert engine.batch == 8


async def test_a_clip_without_memory_goes_to_another_worker(stored: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MEMORY_WAITS_S", (0.01, 0.01))
    with pytest.raises(StageLost, match="no memory") as lost:
        await transcribe(stored, SmallDevice(full(0)), request(window(1, 2)))
    assert lost.value.transient


async def test_a_batch_that_hangs_fails_the_health_check(stored: Artifacts) -> None:
    now = 0.0
    engine = ScriptedEngine(lambda _: decode_of(" hello"))
    engine.gate.clear()
    transcriber = Transcriber(stored, engine, clock=lambda: now)
    await transcriber.check_health()
    messages = transcriber.stream(request(window(1, 2)))
    assert await anext(messages) == DecodeStarted()
    await asyncio.sleep(0)
    now = UNKNOWN_S - 1
    await transcriber.check_health()
    now = UNKNOWN_S + 1
    with pytest.raises(Stalled, match="a batch of 1 clips"):
        await transcriber.check_health()
    engine.gate.set()
    assert isinstance(await anext(messages), WindowResult)
    await transcriber.check_health()


async def test_the_load_is_the_windows_in_hand_beside_two_batches(stored: Artifacts) -> None:
    engine = ScriptedEngine(lambda _: decode_of(" hello"), batch=2)
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    tasks = [asyncio.create_task(transcriber.transcribe(request(window(i, i + 1)))) for i in range(6)]
    await asyncio.sleep(0)
    assert transcriber.load == 1.5
    engine.gate.set()
    await asyncio.gather(*tasks)
    assert transcriber.load == 0

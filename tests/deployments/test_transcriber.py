"""Windows → segments: shared batches, doubtful decodes, text that stops early, and trouble that hurts one alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from batching.quality import BEAM, Try
from batching.types import SAMPLE_RATE, Segment, Span, Window, Word
from deployments.errors import EngineFailed
from deployments.messages import Begun, DecodeOptions, EngineInfo, TranscribeRequest, WindowResult
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import PcmWriter
from deployments.transcription.engines.base import Clip, Decode
from deployments.transcription.stage import Transcriber
from tests.lib.recordings import s16le, tone

SURE, DOUBTFUL = -0.2, -2.0


def said(
    text: str, *, log_probability: float = SURE, no_speech: float = 0.0, tokens: int = 5, ends_at: float | None = None
) -> Decode:
    """A decode of one sentence, from 0.5 s to 1.5 s of its clip."""
    words = (Word(text.strip(), 0.5, 1.5, 0.9),)
    segments = (Segment(0, 0.5, 1.5, text, 0.9, "en", words),) if text else ()
    return Decode(segments, "en", log_probability, no_speech, tokens, ends_at)


class Scripted:
    """An engine that answers each clip by a function and remembers its batches; the gate holds it before each."""

    def __init__(self, answer: Callable[[Clip], Decode], batch: int = 4) -> None:
        self.info = EngineInfo("scripted", "cpu", "none", ("en",))
        self.workers, self.batch, self.batch_s = 1, batch, 30.0 * batch
        self.answer = answer
        self.batches: list[list[Clip]] = []
        self.gate = Event()
        self.gate.set()

    def kind(self, clip: Clip) -> Hashable:
        return clip.how

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


def asked(which: Window, job: str = "job", options: DecodeOptions | None = None) -> TranscribeRequest:
    return TranscribeRequest(job, "tenant", 0, "pcm", which, options or DecodeOptions())


@pytest.fixture
def stored(artifacts: Artifacts) -> Artifacts:
    """Twenty seconds of audio, each second louder than the one before."""
    writer = PcmWriter(artifacts, "pcm")
    for second in range(20):
        writer.write(s16le(tone(1.0, peak=0.02 * (second + 1))))
    writer.finish()
    return artifacts


def loudness(clip: Clip) -> int:
    """The number of the loudest second that a clip holds, from 1."""
    return round(float(np.abs(clip.audio).max()) / 0.02)


async def one(stored: Artifacts, engine: Scripted, request: TranscribeRequest) -> WindowResult:
    return await Transcriber(stored, engine).transcribe(request)


async def queued() -> None:
    """Return when all that was asked for before waits for the engine: audio is read by one thread, in order."""
    await asyncio.sleep(0)
    await asyncio.to_thread(int)


@pytest.fixture
async def one_reader() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))


async def test_a_decode_takes_its_share_of_its_batchs_time(stored: Artifacts, one_reader: None) -> None:
    def slow(clip: Clip) -> Decode:
        time.sleep(0.1)
        return said(" hello")

    transcriber = Transcriber(stored, Scripted(slow))
    windows = [window(start, start + 2.0, index) for index, start in enumerate((0.0, 4.0))]
    results = await asyncio.gather(*(transcriber.transcribe(asked(each)) for each in windows))
    assert all(0.09 < result.decode_s < 0.19 for result in results)


async def test_a_window_hears_its_own_audio_and_answers_on_the_sources_clock(stored: Artifacts) -> None:
    engine = Scripted(lambda _: said(" hello"))
    result = await one(stored, engine, asked(window(7.0, 9.5, index=3)))
    assert (len(engine.clips[0].audio), loudness(engine.clips[0])) == (2.5 * SAMPLE_RATE, 10)
    (segment,) = result.segments
    assert (segment.start, segment.end, segment.text) == (7.5, 8.5, " hello")
    assert segment.words == (Word("hello", 7.5, 8.5, 0.9),)
    assert (result.index, result.language, result.device) == (3, "en", "cpu")


async def test_windows_of_several_jobs_share_a_batch(stored: Artifacts, one_reader: None) -> None:
    engine = Scripted(lambda clip: said(f"{loudness(clip)}"))
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    asking = [asyncio.create_task(transcriber.transcribe(asked(window(i, i + 1), f"job-{i}"))) for i in range(5)]
    await queued()
    engine.gate.set()
    results = await asyncio.gather(*asking)
    # The first went at once, alone or with whoever came with it; the rest waited together.
    assert len(engine.batches) == 2
    assert max(map(len, engine.batches)) >= 3
    assert [result.segments[0].text for result in results] == ["1", "2", "3", "4", "5"]
    assert (await transcriber.counts())["items"] == 5


async def test_what_the_engine_keeps_apart_shares_no_batch(stored: Artifacts, one_reader: None) -> None:
    engine = Scripted(lambda _: said("yes"))
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    warm = DecodeOptions(temperature=0.4)
    options = [DecodeOptions(), warm, DecodeOptions(language="de"), warm]
    asking = [asyncio.create_task(transcriber.transcribe(asked(window(i, i + 1), "job", o))) for i, o in enumerate(options)]
    await queued()
    engine.gate.set()
    await asyncio.gather(*asking)
    assert all(len({clip.how for clip in batch}) == 1 for batch in engine.batches)


async def test_a_doubtful_decode_is_tried_hotter_until_it_is_believable(stored: Artifacts) -> None:
    engine = Scripted(lambda c: said("guess", log_probability=DOUBTFUL) if c.how.temperature < 0.4 else said("sure"))
    result = await one(stored, engine, asked(window(0, 3)))
    assert [clip.how.temperature for clip in engine.clips] == [0.0, 0.4]
    assert [(s.text, s.flags) for s in result.segments] == [("sure", ())]


async def test_of_doubtful_decodes_the_likeliest_counts_and_is_flagged(stored: Artifacts) -> None:
    likely = {0.0: -1.9, 0.4: -1.2, 0.8: -1.5}
    engine = Scripted(lambda c: said(f"at {c.how.temperature}", log_probability=likely[c.how.temperature]))
    result = await one(stored, engine, asked(window(0, 3)))
    assert [(clip.how.temperature, clip.how.beam) for clip in engine.clips] == [(0.0, 1), (0.4, 1), (0.8, 1), (0.0, BEAM)]
    assert [(s.text, s.flags) for s in result.segments] == [("at 0.4", ("low_probability",))]


async def test_text_that_repeats_itself_loses_to_less_likely_text(stored: Artifacts) -> None:
    engine = Scripted(
        lambda c: said("and so " * 40) if c.how.temperature < 0.4 else said("and so", log_probability=DOUBTFUL)
    )
    result = await one(stored, engine, asked(window(0, 3)))
    assert [s.text for s in result.segments] == ["and so"]


async def test_a_hot_start_is_made_no_cooler(stored: Artifacts) -> None:
    engine = Scripted(lambda _: said("guess", log_probability=DOUBTFUL))
    await one(stored, engine, asked(window(0, 3), options=DecodeOptions(temperature=1.0)))
    assert [(clip.how.temperature, clip.how.beam) for clip in engine.clips] == [(1.0, 1), (0.0, BEAM)]


async def test_a_doubtful_decode_of_a_short_context_is_tried_with_all_of_it_first(stored: Artifacts) -> None:
    def answer(clip: Clip) -> Decode:
        return said("sure") if clip.how.whole else replace(said("guess", log_probability=DOUBTFUL), whole=False)

    engine = Scripted(answer)
    result = await one(stored, engine, asked(window(0, 3)))
    assert [clip.how for clip in engine.clips] == [Try(), Try(whole=True)]
    assert [(s.text, s.flags) for s in result.segments] == [("sure", ())]


async def test_a_sparse_text_is_heard_again_with_all_context_and_no_further(stored: Artifacts) -> None:
    engine = Scripted(lambda clip: replace(said("hm", tokens=1), whole=clip.how.whole))
    result = await one(stored, engine, asked(window(0, 5)))
    assert [clip.how for clip in engine.clips] == [Try(), Try(whole=True)]
    assert [(s.text, s.flags) for s in result.segments] == [("hm", ("sparse",))]


async def test_a_text_that_stops_early_is_measured_by_the_speech_before_its_end(stored: Artifacts) -> None:
    engine = Scripted(
        lambda clip: said("one two three", tokens=3, ends_at=3.0 if len(clip.audio) > 4 * SAMPLE_RATE else None)
    )
    await one(stored, engine, asked(window(0, 6)))
    assert [clip.how for clip in engine.clips] == [Try(), Try()]


async def test_a_later_try_that_is_believable_wins_over_a_likelier_doubtful_one(stored: Artifacts) -> None:
    def answer(clip: Clip) -> Decode:
        if clip.how.whole:
            return said("all that was said", log_probability=-0.9, tokens=6)
        return replace(said("hm", log_probability=-0.1, tokens=1), whole=False)

    result = await one(stored, Scripted(answer), asked(window(0, 5)))
    assert [(s.text, s.flags) for s in result.segments] == [("all that was said", ())]


async def test_a_text_that_was_cut_off_is_doubtful(stored: Artifacts) -> None:
    engine = Scripted(lambda clip: replace(said("and so"), capped=not clip.how.temperature))
    result = await one(stored, engine, asked(window(0, 3)))
    assert [clip.how.temperature for clip in engine.clips] == [0.0, 0.4]
    assert result.segments[0].flags == ()


async def test_a_guess_about_a_blip_is_dropped_but_not_one_about_what_a_long_window_has_left(stored: Artifacts) -> None:
    def answer(clip: Clip) -> Decode:
        if len(clip.audio) > 4 * SAMPLE_RATE:
            return said("one two three four five six", tokens=6, ends_at=5.2)
        return said("so", log_probability=DOUBTFUL)

    assert (await one(stored, Scripted(answer), asked(window(0, 0.8)))).segments == ()
    whole = await one(stored, Scripted(answer), asked(window(0, 6)))
    assert [segment.text for segment in whole.segments] == ["one two three four five six", "so"]


async def test_what_was_no_speech_gives_no_segments_and_is_not_tried_again(stored: Artifacts) -> None:
    engine = Scripted(lambda _: said("Thank you.", log_probability=DOUBTFUL, no_speech=0.9))
    result = await one(stored, engine, asked(window(0, 3)))
    assert result.segments == ()
    assert len(engine.clips) == 1


async def test_text_that_stops_early_is_resumed_where_it_stopped(stored: Artifacts) -> None:
    answers = iter([said("one", ends_at=4.0), said("two", ends_at=3.0), said("three")])
    engine = Scripted(lambda _: next(answers))
    result = await one(stored, engine, asked(window(2.0, 14.0)))
    assert [len(clip.audio) / SAMPLE_RATE for clip in engine.clips] == [12.0, 8.0, 5.0]
    assert [(s.text, s.start, s.end) for s in result.segments] == [
        ("one", 2.5, 3.5),
        ("two", 6.5, 7.5),
        ("three", 9.5, 10.5),
    ]
    assert [s.words and s.words[0].start for s in result.segments] == [2.5, 6.5, 9.5]


@pytest.mark.parametrize("ends_at", [None, 0.0, 0.5, 5.6, 6.0])
async def test_nothing_is_resumed_without_headway_or_without_speech_left(stored: Artifacts, ends_at: float | None) -> None:
    engine = Scripted(lambda _: said("all", ends_at=ends_at))
    result = await one(stored, engine, asked(window(2.0, 8.0)))
    assert [s.text for s in result.segments] == ["all"]
    assert len(engine.clips) == 1


async def test_an_engine_that_fails_on_one_window_fails_that_alone(stored: Artifacts, one_reader: None) -> None:
    def answer(clip: Clip) -> Decode:
        if loudness(clip) == 3:
            raise RuntimeError("secret /path")
        return said(f"{loudness(clip)}")

    engine = Scripted(answer)
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    asking = [asyncio.create_task(transcriber.transcribe(asked(window(i, i + 1), f"job-{i}"))) for i in range(5)]
    await queued()
    engine.gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    texts = [r.segments[0].text if isinstance(r, WindowResult) else type(r) for r in results]
    assert texts == ["1", "2", EngineFailed, "4", "5"]
    assert "secret" not in str(results[2])


async def test_a_request_that_is_cancelled_leaves(stored: Artifacts, one_reader: None) -> None:
    engine = Scripted(lambda clip: said(f"{loudness(clip)}"), batch=1)
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    asking = [asyncio.create_task(transcriber.transcribe(asked(window(i, i + 1), f"job-{i}"))) for i in range(3)]
    await queued()
    asking[1].cancel()
    await asyncio.wait([asking[1]])
    assert (await transcriber.counts())["dropped"] == 1
    engine.gate.set()
    assert [(await asking[i]).segments[0].text for i in (0, 2)] == ["1", "3"]
    assert [loudness(clip) for clip in engine.clips] == [1, 3]


async def test_a_stream_says_that_a_windows_turn_has_come_and_then_its_result(stored: Artifacts, one_reader: None) -> None:
    engine = Scripted(lambda _: said(" hello"))
    engine.gate.clear()
    messages = Transcriber(stored, engine).stream(asked(window(1, 2)))
    assert await anext(messages) == Begun()
    engine.gate.set()
    result = await anext(messages)
    assert isinstance(result, WindowResult)
    assert result.segments[0].text == " hello"
    with pytest.raises(StopAsyncIteration):
        await anext(messages)


async def test_a_window_that_waits_says_nothing_and_leaves_with_its_reader(stored: Artifacts, one_reader: None) -> None:
    engine = Scripted(lambda _: said(" hello"))
    engine.gate.clear()
    transcriber = Transcriber(stored, engine)
    first = transcriber.stream(asked(window(1, 2)))
    assert await anext(first) == Begun()
    second = transcriber.stream(asked(window(2, 3)))
    waiting = asyncio.ensure_future(anext(second))
    await queued()  # it has begun to read
    await queued()  # it has read
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    engine.gate.set()
    assert isinstance(await anext(first), WindowResult)
    assert len(engine.clips) == 1
    assert (await transcriber.counts())["dropped"] == 1


async def test_a_stream_raises_what_the_decode_raises(stored: Artifacts) -> None:
    def fail(clip: Clip) -> Decode:
        raise RuntimeError("no")

    with pytest.raises(EngineFailed):
        async for _ in Transcriber(stored, Scripted(fail)).stream(asked(window(1, 2))):
            pass

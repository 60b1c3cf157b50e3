"""Windows with uncertain language detection: the text must not depend on the order in which they finish."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from batching.types import Segment
from deployments.messages import TranscribeRequest, WindowResult
from serve_app.models.job import JobSpec, Phase
from serve_app.runner.channel_state import decode_with_language_retry
from tests.lib.app import ME, App

GUARD_S = 10


def result(language: str | None, language_probability: float, *, says: bool = True) -> WindowResult:
    segments = (Segment(0, 0.0, 1.0, " word", 1.0, language),) if says else ()
    return WindowResult(0, segments, language, "cpu", language_probability)


class Recording:
    """Windows that decode to `alone` without a likely language, once the test lets them."""

    def __init__(self, alone: Sequence[WindowResult]) -> None:
        self._alone = alone
        self._turns = [asyncio.Event() for _ in alone]
        self.requests: list[tuple[int, str | None]] = []
        self.tasks: list[asyncio.Task[WindowResult]] = []
        for index in range(len(alone)):
            self.tasks.append(asyncio.create_task(self._window(index, tuple(self.tasks))))

    async def _window(self, index: int, earlier: Sequence[asyncio.Task[WindowResult]]) -> WindowResult:
        async def decode(likely: str | None) -> WindowResult:
            self.requests.append((index, likely))
            await self._turns[index].wait()
            return result(likely, 0.0) if likely else self._alone[index]

        return await decode_with_language_retry(decode, None, earlier)

    async def in_order(self, order: Sequence[int]) -> list[tuple[str | None, float]]:
        """Let them finish one after another."""
        async with asyncio.timeout(GUARD_S):
            for index in order:
                await asyncio.sleep(0)
                self._turns[index].set()
                await asyncio.sleep(0)
            return [(done.language, done.language_probability) for done in await asyncio.gather(*self.tasks)]


@pytest.mark.parametrize("order", list(permutations(range(4))))
async def test_uncertain_windows_use_the_language_of_the_first_window_with_text(order: Sequence[int]) -> None:
    alone = [result("ru", 0.9, says=False), result("de", 0.9), result("en", 0.3), result("fr", 0.8)]
    recording = Recording(alone)
    assert await recording.in_order(order) == [("ru", 0.9), ("de", 0.9), ("de", 0.0), ("fr", 0.8)]
    assert sorted(recording.requests, key=str) == [(0, None), (1, None), (2, "de"), (2, None), (3, None)]


async def test_an_uncertain_guess_equal_to_the_fallback_is_not_decoded_twice() -> None:
    recording = Recording([result("de", 0.9), result("de", 0.3)])
    assert await recording.in_order([1, 0]) == [("de", 0.9), ("de", 0.0)]
    assert (1, "de") not in recording.requests


async def test_the_first_window_keeps_its_uncertain_language() -> None:
    recording = Recording([result("en", 0.2), result("de", 0.3)])
    assert await recording.in_order([0, 1]) == [("en", 0.2), ("en", 0.0)]


async def test_without_an_earlier_window_with_text_a_window_keeps_its_language() -> None:
    recording = Recording([result(None, 0.0, says=False), result("de", 0.3)])
    assert await recording.in_order([1, 0]) == [(None, 0.0), ("de", 0.3)]


async def test_a_window_with_a_likely_language_is_decoded_once() -> None:
    requests: list[str | None] = []

    async def decode(likely: str | None) -> WindowResult:
        requests.append(likely)
        return result(likely, 0.0)

    assert (await decode_with_language_retry(decode, "sv", ())).language == "sv"
    assert requests == ["sv"]


async def test_a_window_cancelled_while_it_waits_cancels_no_other() -> None:
    recording = Recording([result("de", 0.9), result("en", 0.3)])
    await asyncio.sleep(0)
    recording._turns[1].set()
    for _ in range(3):
        await asyncio.sleep(0)
    recording.tasks[1].cancel()
    await asyncio.wait([recording.tasks[1]])
    recording._turns[0].set()
    assert (await recording.tasks[0]).language == "de"


async def test_no_window_waits_for_the_first_and_an_uncertain_one_uses_its_language(app: App, sample: Path) -> None:
    transcribe_window = app.stages.transcribe
    others, requests = asyncio.Event(), set[tuple[int, str | None]]()

    async def transcribe(model: str, request: TranscribeRequest, on_start: object = None) -> WindowResult:
        index, likely = request.window.index, request.options.likely_language
        requests.add((index, likely))
        if index == 0:
            await others.wait()
        done = await transcribe_window(model, request)
        if index == 2:
            others.set()
            return replace(done, language=likely or "en", language_probability=0.0 if likely else 0.3)
        return replace(done, language="de", language_probability=0.9)

    app.stages.transcribe = transcribe  # type: ignore[method-assign]
    job = await app.ended(job_id := await app.submit(sample, JobSpec("fake", segment_duration=6.0)))
    assert job.phase is Phase.COMPLETED
    assert {(0, None), (1, None), (2, None), (2, "de")} <= requests
    segments = (await app.jobs.transcript(ME, job_id)).segments
    assert {s.language_probability for s in segments} == {0.9, 0.0}

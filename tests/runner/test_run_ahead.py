"""Jobs whose decode may run ahead by some seconds only: they pause, go on, resume and end as others do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from batching.types import SAMPLE_RATE, Window
from deployments.errors import StorageUnavailable
from deployments.messages import TranscodeProgress, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.committed_place import CommittedPlace
from deployments.transcoding import run_ahead
from serve_app.models.event import EventKind
from serve_app.models.job import JobSpec, Phase
from serve_app.models.storage_paths import pcm_prefix, progress_key
from serve_app.runner import place_publisher
from serve_app.runner.deadlines import DeadlineRules, TimedStages
from serve_app.runner.place_publisher import PlacePublisher
from tests.lib.app import ME, App, PlainStages
from tests.lib.media import decode_at_once, side_by_side, wav
from tests.lib.poll import until
from tests.lib.recordings import s16le, tone

AHEAD_S = 60.0
SPEC = JobSpec("fake", segment_duration=6.0)
PLANNED_S = 66.0  # audio whose windows are not handed out: its part of PCM is not full, its window not closed
PROGRESS_S = 1.0


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_publisher, "AHEAD_S", AHEAD_S)
    for name in ("POLL_S", "LONGEST_POLL_S", "MESSAGE_S"):
        monkeypatch.setattr(run_ahead, name, 0.02)


@pytest.fixture(scope="module")
def pcm(ffmpeg: str, sample: Path) -> bytes:
    """The sample recording for five minutes."""
    return (decode_at_once(ffmpeg, sample) * 6)[: 2 * 300 * SAMPLE_RATE]


def record_messages(stages: PlainStages) -> list[TranscodeProgress]:
    """Messages of all streams from now on, as Ray's streams deliver them: as fast as they come."""
    plain, seen = stages.windows, list[TranscodeProgress]()

    async def windows(request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        queue: asyncio.Queue[TranscodeProgress | None] = asyncio.Queue()

        async def pump() -> None:
            async for message in plain(request):
                seen.append(message)
                queue.put_nowait(message)
            queue.put_nowait(None)

        pumping = asyncio.create_task(pump())
        try:
            while message := await queue.get():
                yield message
        finally:
            pumping.cancel()
            await asyncio.wait([pumping])

    stages.windows = windows  # type: ignore[method-assign]
    return seen


async def until_paused(seen: list[TranscodeProgress]) -> float:
    """Wait until the latest decode pauses; its place."""
    await until(lambda: len(seen) > 2 and seen[-1].decoded_s == seen[-3].decoded_s and not seen[-1].finished)
    return seen[-1].decoded_s


async def texts(app: App, job_id: str) -> list[tuple[float, float, int | None]]:
    return [(s.start, s.end, s.channel) for s in (await app.jobs.transcript(ME, job_id)).segments]


async def test_a_job_pauses_its_decode_and_completes_as_without_a_bound(
    app: App, pcm: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record_messages(app.stages)
    app.stages.gate = asyncio.Semaphore(0)
    job_id = await app.submit(wav(pcm), SPEC)
    assert AHEAD_S < await until_paused(seen) <= AHEAD_S + PLANNED_S + 5
    app.stages.gate = asyncio.Semaphore(1000)
    await app.runner.stop()  # with the calls that wait at the first gate
    await app.runner.start()
    assert (await app.ended(job_id)).phase is Phase.COMPLETED
    monkeypatch.setattr(place_publisher, "AHEAD_S", 1e6)
    other = await app.submit(wav(pcm), SPEC)
    await app.ended(other)
    assert await texts(app, job_id) == await texts(app, other)


async def test_the_place_is_deleted_with_the_audio(app: App, pcm: bytes) -> None:
    job_id = await app.submit(wav(pcm), replace(SPEC, private=True))
    await until(lambda: places(app, job_id))
    assert (await app.ended(job_id)).phase is Phase.COMPLETED
    await until(lambda: not app.artifacts.keys(pcm_prefix(job_id)))


async def test_a_job_that_pauses_goes_on_by_itself_as_it_commits(app: App, pcm: bytes) -> None:
    seen = record_messages(app.stages)
    gate = app.stages.gate = asyncio.Semaphore(0)
    job_id = await app.submit(wav(pcm), SPEC)
    place = await until_paused(seen)
    while not seen[-1].finished:
        gate.release()
        await asyncio.sleep(0.01)
    assert place < seen[-1].decoded_s == 300.0
    for _ in range(1000):
        gate.release()
    assert (await app.ended(job_id)).phase is Phase.COMPLETED


async def test_a_resumed_job_stores_its_place_at_once(app: App, pcm: bytes) -> None:
    gate = app.stages.gate = asyncio.Semaphore(0)
    job_id = await app.submit(wav(pcm), SPEC)
    for _ in range(4):
        gate.release()
    await app.until(job_id, EventKind.SEGMENT, 4)
    await app.runner.stop()
    job = await app.jobs.get(ME, job_id)
    assert 0 < job.audio_done_s < AHEAD_S
    await app.runner.start()
    await until(lambda: len(places(app, job_id)) == 2)
    assert places(app, job_id)[-1].seconds == pytest.approx(job.audio_done_s, abs=0.001)


def places(app: App, job_id: str) -> list[CommittedPlace]:
    """Committed places that are stored, by the claim's token."""
    prefix = progress_key(job_id, 0).removesuffix("0")
    keys = [key for key in app.artifacts.keys(pcm_prefix(job_id)) if key.startswith(prefix)]
    return [CommittedPlace.load(app.artifacts, key) for key in sorted(keys, key=lambda k: int(k.rpartition(".")[2]))]


@pytest.mark.parametrize("channels", [False, True])
async def test_a_long_silence_stops_no_decode(app: App, pcm: bytes, channels: bool) -> None:
    speech, silence = pcm[: 2 * 20 * SAMPLE_RATE], bytes(2 * 150 * SAMPLE_RATE)
    recording = speech + silence + speech
    source = side_by_side(recording, speech + bytes(len(recording) - len(speech))) if channels else wav(recording)
    job_id = await app.submit(source, JobSpec("fake", segment_duration=6.0, channels=channels))
    async with asyncio.timeout(60):
        job = await app.ended(job_id)
    assert (job.phase, job.audio_done_s) == (Phase.COMPLETED, 190.0)
    assert max(start for start, _, _ in await texts(app, job_id)) > 170


async def test_audio_without_speech_is_decoded_to_its_end(app: App) -> None:
    job_id = await app.submit(wav(s16le(tone(150.0))), SPEC)
    async with asyncio.timeout(60):
        assert (await app.ended(job_id)).phase is Phase.COMPLETED


async def test_the_deadline_of_progress_does_not_end_a_pause(artifacts: Artifacts, ffmpeg: str, pcm: bytes) -> None:
    artifacts.put("it", wav(pcm))
    stages = TimedStages(PlainStages(artifacts, ffmpeg), DeadlineRules(progress_s=PROGRESS_S))
    request = TranscodeRequest("it", "pcm", 6.0, 3600.0, ahead_s=AHEAD_S, progress_key="pcm/committed.1")
    loop, paused_at, last_s = asyncio.get_running_loop(), 0.0, -1.0
    messages = stages.windows(request)
    async for message in messages:
        if message.decoded_s != last_s:
            last_s, paused_at = message.decoded_s, loop.time()
        if loop.time() - paused_at > 2 * PROGRESS_S:
            break
    assert last_s < 300.0
    await messages.aclose()


def window(start_s: float, index: int = 0) -> Window:
    return Window(index, int(start_s * SAMPLE_RATE), int((start_s + 6) * SAMPLE_RATE), ())


class Refusing(Artifacts):
    """Storage that is away."""

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        raise StorageUnavailable("The storage is away.")


async def until_stored(publisher: PlacePublisher, artifacts: Artifacts, seconds: float) -> None:
    await until(lambda: CommittedPlace.load(artifacts, publisher.key).seconds == seconds)


async def test_the_place_is_the_earliest_window_in_flight_or_the_end_of_what_was_received(artifacts: Artifacts) -> None:
    publisher = PlacePublisher(artifacts, "committed", "job", 0.0)
    async with publisher.published():
        publisher.received(20.0)
        publisher.dispatched(window(20.0))
        publisher.received(22.0)
        publisher.dispatched(window(22.0, 1))
        publisher.received(100.0)
        publisher.committed()
        await until_stored(publisher, artifacts, 22.0)
        publisher.committed()
        await until_stored(publisher, artifacts, 100.0)
        publisher.received(0.0)  # a stream that began anew
        publisher.received(116.0)
        await until_stored(publisher, artifacts, 116.0)


async def test_small_moves_are_stored_by_and_by(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = PlacePublisher(artifacts, "committed", "job", 0.0)
    monkeypatch.setattr(place_publisher, "REFRESH_S", 0.05)
    async with publisher.published():
        publisher.received(1.0)
        await until_stored(publisher, artifacts, 1.0)
        writes = CommittedPlace.load(artifacts, "committed").writes
        await until(lambda: CommittedPlace.load(artifacts, "committed").writes >= writes + 3)  # signs of life


async def test_a_short_job_stores_no_place(app: App, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_publisher, "AHEAD_S", 1800.0)
    job_id = await app.submit(sample, JobSpec("fake"))
    assert (await app.ended(job_id)).phase is Phase.COMPLETED
    assert places(app, job_id) == []


async def test_a_place_that_cannot_be_stored_is_logged_and_stored_later(
    tmp_path: Path, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = Refusing(tmp_path.as_uri())
    publisher = PlacePublisher(refusing, "committed", "job", 12.0)
    monkeypatch.setattr(place_publisher, "REFRESH_S", 0.05)
    async with publisher.published():
        await until(lambda: "committed place not stored" in caplog.text)
        monkeypatch.setattr(refusing, "put", artifacts.put)
        await until_stored(publisher, artifacts, 12.0)
    assert "job_id=job" in caplog.text

"""Jobs whose channels are transcribed separately: words and order of each channel, also after failures."""

from __future__ import annotations

import io
import wave
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from batching.types import SAMPLE_RATE, Segment
from deployments.messages import TranscribeRequest
from deployments.storage.artifacts import Artifacts
from serve_app.formats import FORMATS
from serve_app.models.event import Event, EventKind, Progress
from serve_app.models.job import ChannelCheckpoint, Job, JobSpec, Phase
from serve_app.models.lease import Commit
from serve_app.runner.channel_state import ChannelStates
from serve_app.runner.limits import RunnerLimits
from serve_app.store.redis_store import Store
from tests.lib.app import ME, App, open_app
from tests.lib.media import decode_at_once, side_by_side

SEPARATE = JobSpec("fake", channels=True, segment_duration=6.0)


@pytest.fixture(scope="module")
def voices(ffmpeg: str, sample: Path) -> tuple[bytes, bytes]:
    """Two halves of the sample."""
    whole = decode_at_once(ffmpeg, sample)
    half = len(whole) // 4 * 2
    return whole[:half], whole[half:]


@pytest.fixture(scope="module")
def stereo(voices: tuple[bytes, bytes]) -> bytes:
    """Both voices at once, left and right, longer than one PCM part."""
    left, right = voices
    return side_by_side(left * 3, bytes(2 * 4 * SAMPLE_RATE) + right * 3)


def segments_of(events: list[Event]) -> list[dict[str, Any]]:
    return [orjson.loads(event.data) for event in events if event.kind is EventKind.SEGMENT]


def streamed_segments(events: list[Event]) -> list[dict[str, Any]]:
    """Segments of a stream; their ids count up, and the times of each channel increase."""
    streamed = segments_of(events)
    assert [segment["id"] for segment in streamed] == list(range(len(streamed)))
    for channel in (0, 1):
        own = [segment for segment in streamed if segment["channel"] == channel]
        assert all(before["end"] <= after["start"] for before, after in pairwise(own))
    return streamed


async def transcribed(app: App, source: bytes | Path, spec: JobSpec = SEPARATE) -> tuple[Job, tuple[Segment, ...]]:
    """A completed job, and its segments."""
    job = await app.ended(job_id := await app.submit(source, spec))
    assert job.phase is Phase.COMPLETED, job.error
    return job, (await app.jobs.transcript(ME, job_id)).segments


def without_position(segment: Segment) -> Segment:
    return replace(segment, id=0, channel=None)


async def test_each_channel_has_the_words_that_it_would_have_alone(
    app: App, stereo: bytes, voices: tuple[bytes, bytes]
) -> None:
    _, together = await transcribed(app, stereo)
    samples = np.frombuffer(stereo[44:], "<i2").reshape(-1, 2)
    for channel in (0, 1):
        _, alone = await transcribed(app, side_by_side(samples[:, channel].tobytes()), replace(SEPARATE, channels=False))
        own = [without_position(segment) for segment in together if segment.channel == channel]
        assert own == [without_position(segment) for segment in alone]
        assert len(own) > 10


async def test_stream_ids_count_up_and_the_transcript_is_sorted_by_time(app: App, stereo: bytes) -> None:
    job_id = await app.submit(stereo, SEPARATE)
    streamed = streamed_segments(await app.follow(job_id))
    transcript = await app.jobs.transcript(ME, job_id)
    starts = [segment.start for segment in transcript.segments]
    assert starts == sorted(starts)
    assert sorted(segment.id for segment in transcript.segments) == [segment["id"] for segment in streamed]
    assert {segment.channel for segment in transcript.segments} == {0, 1}
    cues = FORMATS["srt"].render(transcript).split("\n\n")
    assert [cue.strip().split("\n")[0] for cue in cues] == [str(n + 1) for n in range(len(streamed))]


async def test_progress_increases_to_the_end(app: App, stereo: bytes) -> None:
    job_id = await app.submit(stereo, SEPARATE)
    events = await app.follow(job_id)
    progress = [orjson.loads(event.data) for event in events if event.kind is EventKind.PROGRESS]
    done = [p["audio_done_s"] for p in progress if "audio_done_s" in p]
    job = await app.jobs.get(ME, job_id)
    assert job.audio_total_s is not None
    assert done == sorted(done)
    assert len(done) > 10
    assert done[-1] <= job.audio_total_s == job.audio_done_s
    assert job.audio_total_s == pytest.approx(90.1, abs=0.2)
    assert job.audio_channels == 2


async def test_the_number_of_windows_in_flight_does_not_change_the_text(
    app: App, store: Store, artifacts: Artifacts, ffmpeg: str, stereo: bytes
) -> None:
    _, many = await transcribed(app, stereo)
    await app.runner.stop()
    async with open_app(store, artifacts, ffmpeg, limits=RunnerLimits(windows=1)) as slow:
        _, one = await transcribed(slow, stereo)
    assert many == one


async def test_a_job_that_fails_in_the_middle_continues_from_its_checkpoint(app: App, stereo: bytes) -> None:
    _, whole = await transcribed(app, stereo)
    app.stages.decoded.clear()
    failures = iter([RuntimeError("a crash")])
    app.stages.trouble = lambda request: next(failures, None) if request.window.index == 9 else None
    job_id = await app.submit(stereo, SEPARATE)
    streamed_segments(await app.follow(job_id))
    job = await app.jobs.get(ME, job_id)
    assert (job.phase, next(failures, None)) == (Phase.COMPLETED, None)
    assert (await app.jobs.transcript(ME, job_id)).segments == whole
    assert app.stages.decoded.count(0) == 1


async def test_another_runner_continues_a_job_that_was_given_back(
    app: App, store: Store, artifacts: Artifacts, ffmpeg: str, stereo: bytes
) -> None:
    _, whole = await transcribed(app, stereo)
    for count in (1, 4, 7):
        async with open_app(store, artifacts, ffmpeg) as first:
            await app.runner.stop()
            job_id = await first.submit(stereo, SEPARATE)
            before = await first.until(job_id, EventKind.SEGMENT, count)
            await first.runner.stop()
        async with open_app(store, artifacts, ffmpeg) as second:
            events = await second.follow(job_id)
            assert (await second.jobs.get(ME, job_id)).phase is Phase.COMPLETED
            assert (await second.jobs.transcript(ME, job_id)).segments == whole
        assert events[: len(before)] == before
        streamed_segments(events)


async def test_channel_states_are_restored_from_the_checkpoint(app: App, store: Store) -> None:
    await app.runner.stop()
    job_id = await app.submit_without_upload(JobSpec("fake", channels=True))
    claim = await store.leases.claim("test")
    assert claim
    committed = [ChannelCheckpoint(80_000, 4.5, {"de": 4.0}), ChannelCheckpoint(40_000, 2.125, {"en": 0.5, "fr": 1.5})]
    for window, state in enumerate(committed):
        progress = Progress(5.0, None, window + 1, None, None)
        await store.leases.commit(claim, Commit(window, (), 4.5, None, "cpu", progress, channel=window, state=state))
    job = await store.jobs.get(job_id)
    assert job
    states = ChannelStates(job, windows_in_flight=1)
    assert [(states.of(n).end_s, states.of(n).vote.likely(9)) for n in range(3)] == [(4.5, "de"), (2.125, "fr"), (0.0, None)]
    assert [states.of(n).until for n in range(3)] == [80_000, 40_000, 0]
    assert (states.end_s, states.language) == (4.5, "de")


async def test_each_channel_has_its_own_language(app: App, stereo: bytes) -> None:
    likely: dict[int | None, set[str | None]] = {0: set(), 1: set()}
    decode = app.stages.transcribe

    async def transcribe(model: str, request: TranscribeRequest, on_start: object = None) -> Any:
        likely[request.window.channel].add(request.options.likely_language)
        result = await decode(model, request)
        return replace(result, language="fr" if request.window.channel else "de")

    app.stages.transcribe = transcribe  # type: ignore[method-assign]
    await transcribed(app, stereo)
    assert likely == {0: {None, "de"}, 1: {None, "fr"}}


async def test_equal_channels_are_both_transcribed(app: App, voices: tuple[bytes, bytes]) -> None:
    _, segments = await transcribed(app, side_by_side(voices[0], voices[0]))
    left, right = ([without_position(s) for s in segments if s.channel == channel] for channel in (0, 1))
    assert left
    assert left == right
    assert [segment.channel for segment in segments][:2] == [0, 1]


async def test_a_silent_channel_has_no_segments(app: App, voices: tuple[bytes, bytes]) -> None:
    job, segments = await transcribed(app, side_by_side(bytes(len(voices[0])), voices[0]))
    assert {segment.channel for segment in segments} == {1}
    assert job.audio_channels == 2


async def test_a_mono_file_is_channel_0(app: App, sample: Path) -> None:
    job, segments = await transcribed(app, sample)
    _, mixed = await transcribed(app, sample, replace(SEPARATE, channels=False))
    assert {segment.channel for segment in segments} == {0}
    assert [replace(segment, channel=None) for segment in segments] == list(mixed)
    assert job.audio_channels == 1


async def test_too_many_channels_fail_the_job_by_name(app: App) -> None:
    job = await app.ended(await app.submit(side_by_side(*[bytes(32_000)] * 12), SEPARATE))
    assert job.error
    assert (job.error.code, job.attempts) == ("unsupported_media", 1)
    assert "12 channels" in job.error.message


async def test_a_cancel_stops_a_job_with_separate_channels(app: App, stereo: bytes) -> None:
    job_id = await app.submit(stereo, SEPARATE)
    await app.until(job_id, EventKind.SEGMENT)
    await app.jobs.cancel(ME, job_id)
    assert (await app.ended(job_id)).phase in (Phase.CANCELLED, Phase.COMPLETED)


async def test_the_decoded_audio_is_a_wav_file_with_its_channels(app: App, stereo: bytes) -> None:
    job, _ = await transcribed(app, stereo)
    file = await app.jobs.results.file(job, "audio.wav")
    whole = b"".join(app.jobs.results.content(file, 0, file.size))
    assert whole == stereo
    with wave.open(io.BytesIO(whole)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 2, 2)
    part = 44 + 4 * 60 * SAMPLE_RATE
    for start, length in ((0, 10), (43, 4), (45, 1), (46, 3), (part - 3, 7), (part + 1, 100_001), (file.size - 5, 5)):
        assert b"".join(app.jobs.results.content(file, start, length)) == whole[start : start + length]


async def test_the_mp3_copy_is_an_artifact_until_the_job_is_deleted(app: App, stereo: bytes) -> None:
    job, segments = await transcribed(app, stereo, replace(SEPARATE, listening=True))
    _, plain = await transcribed(app, stereo)
    assert segments == plain
    file = await app.jobs.results.file(job, "listening.mp3")
    assert (file.content_type, file.key) == ("audio/mpeg", job.listening)
    whole = b"".join(app.jobs.results.content(file, 0, file.size))
    assert len(whole) == file.size == pytest.approx(8000 * (job.audio_total_s or 0), abs=800)
    assert b"".join(app.jobs.results.content(file, 1000, 77)) == whole[1000:1077]
    await app.jobs.delete(ME, job.id)
    assert app.artifacts.size(file.key) is None


async def test_a_retried_job_has_its_mp3_copy(app: App, stereo: bytes) -> None:
    failures = iter([RuntimeError("a crash")])
    app.stages.trouble = lambda request: next(failures, None) if request.window.index == 4 else None
    job, _ = await transcribed(app, stereo, replace(SEPARATE, listening=True))
    assert next(failures, None) is None
    assert "listening.mp3" in {file.name for file in await app.jobs.results.files(job)}


async def test_a_job_without_the_option_has_no_mp3_copy(app: App, stereo: bytes) -> None:
    job, _ = await transcribed(app, stereo)
    assert {file.name for file in await app.jobs.results.files(job)} == {"source", "transcript.jsonl", "audio.wav"}


@pytest.mark.parametrize("channels", [False, True])
async def test_the_declared_length_is_recorded_once_and_before_the_real_one(
    app: App, stereo: bytes, monkeypatch: pytest.MonkeyPatch, channels: bool
) -> None:
    noted: list[str] = []
    note_audio = app.store.leases.note_audio

    async def spy(claim: Any, **facts: Any) -> bool:
        noted.extend(f"{name}={value}" for name, value in facts.items() if value is not None)
        return await note_audio(claim, **facts)

    monkeypatch.setattr(app.store.leases, "note_audio", spy)
    job, _ = await transcribed(app, stereo, replace(SEPARATE, channels=channels))
    assert noted[0] == f"declared_s={round(job.audio_total_s or 0, 2)}"
    assert sum(note.startswith("declared_s") for note in noted) == 1
    assert sum(note.startswith("total_s") for note in noted) == 1

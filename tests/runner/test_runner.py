"""Jobs through the stages: completion, failures, fallbacks, cancels, requeues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from batching.types import SAMPLE_RATE, Window
from deployments.errors import EngineFailed, PoisonPill, StageDied, StageLost, StageUnavailable
from deployments.messages import TranscodeProgress, TranscodeRequest, TranscribeRequest
from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.models.event import EventKind
from serve_app.models.job import JobSpec, Phase
from serve_app.models.lease import LeaseRules
from serve_app.models.principal import Principal
from serve_app.models.storage_paths import job_folder
from serve_app.runner.limits import RunnerLimits
from serve_app.runner.sweeper import Sweeper
from serve_app.store.redis_store import Store
from tests.lib.app import ME, App, open_app
from tests.lib.recordings import s16le, tone

MANY_WINDOWS = JobSpec("fake", segment_duration=6.0)


async def test_a_job_ends_with_a_transcript_on_the_sources_clock(app: App, sample: Path) -> None:
    job = await app.ended(job_id := await app.submit(sample, MANY_WINDOWS))
    assert job.phase is Phase.COMPLETED
    assert (job.attempts, job.device, job.language) == (1, "cpu", "en")
    assert job.audio_total_s == pytest.approx(57.4, abs=0.1)
    assert job.audio_done_s == job.audio_total_s
    transcript = await app.jobs.transcript(ME, job_id)
    starts = [s.start for s in transcript.segments]
    assert starts == sorted(starts)
    assert transcript.segments[-1].end <= transcript.duration_s
    assert {a.name for a in await app.jobs.results.files(job)} == {"source", "transcript.jsonl", "audio.wav"}


async def test_the_same_recording_gives_the_same_segments_as_often_as_it_is_sent(app: App, sample: Path) -> None:
    jobs = [await app.submit(sample, MANY_WINDOWS) for _ in range(4)]
    for job_id in jobs:
        await app.ended(job_id)
    transcripts = [await app.jobs.transcript(ME, job_id) for job_id in jobs]
    assert all(t == transcripts[0] for t in transcripts)


async def test_segments_have_the_facts_of_their_window(app: App, sample: Path) -> None:
    planned: list[Window] = []
    app.stages.trouble = lambda request: planned.append(request.window)
    await app.ended(job_id := await app.submit(sample, MANY_WINDOWS))
    segments = (await app.jobs.transcript(ME, job_id)).segments
    assert {s.seek for s in segments} <= {round(window.start / SAMPLE_RATE, 3) for window in planned}
    assert all(s.seek is not None and s.seek <= s.start for s in segments)
    assert {s.language_probability for s in segments} == {1.0}
    assert all(s.decode_s is not None and s.decode_s >= 0 for s in segments)


async def test_words_have_times_when_requested(app: App, sample: Path) -> None:
    await app.ended(job_id := await app.submit(sample, JobSpec("fake", word_timestamps=True)))
    segments = (await app.jobs.transcript(ME, job_id)).segments
    assert all(s.words and s.start <= s.words[0].start <= s.words[-1].end <= s.end + 0.001 for s in segments)


async def test_words_decoded_only_for_stitching_are_not_returned(app: App, sample: Path) -> None:
    requests: list[TranscribeRequest] = []
    app.stages.trouble = lambda request: requests.append(request)
    plain = app.stages.windows

    async def breathless(request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        async for planned in plain(request):
            windows = tuple(replace(w, joined=w.index == 3, cut=w.end if w.index == 2 else None) for w in planned.windows)
            yield replace(planned, windows=windows)

    app.stages.windows = breathless  # type: ignore[method-assign]
    await app.ended(job_id := await app.submit(sample, MANY_WINDOWS))
    assert sorted(r.window.index for r in requests if r.options.word_timestamps) == [2, 3]
    segments = (await app.jobs.transcript(ME, job_id)).segments
    assert segments
    assert all(s.words is None for s in segments)


async def test_silence_is_a_completed_job_without_segments(app: App, artifacts: Artifacts) -> None:
    job = await app.ended(job_id := await app.submit(wav(s16le(0 * tone(3.0)))))
    assert job.phase is Phase.COMPLETED
    assert (await app.jobs.transcript(ME, job_id)).segments == ()


def wav(pcm: bytes) -> bytes:
    """A WAV file of s16le at 16 kHz."""
    head = b"RIFF" + (36 + len(pcm)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    head += b"\1\0\1\0" + SAMPLE_RATE.to_bytes(4, "little") + (2 * SAMPLE_RATE).to_bytes(4, "little") + b"\2\0\x10\0"
    return head + b"data" + len(pcm).to_bytes(4, "little") + pcm


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (b"", "unsupported_media"),
        (b"not audio at all", "unsupported_media"),
        (wav(b""), "no_audio"),
        (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "unsupported_media"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", "unsupported_media"),
    ],
)
async def test_a_bad_source_fails_with_its_error_code_and_is_not_retried(app: App, source: bytes, code: str) -> None:
    job = await app.ended(await app.submit(source))
    assert job.phase is Phase.FAILED
    assert job.error
    assert job.error.code == code
    assert job.error.message.endswith(".")
    assert job.attempts == 1


async def test_audio_that_is_too_long_fails_by_its_decoded_length(store: Store, artifacts: Artifacts, ffmpeg: str) -> None:
    async with open_app(store, artifacts, ffmpeg, limits=RunnerLimits(max_audio_s=5.0)) as app:
        job = await app.ended(await app.submit(wav(s16le(tone(6.0)))))
    assert job.error
    assert job.error.code == "audio_too_long"


async def test_a_missing_upload_fails_with_its_error_code(app: App) -> None:
    job = await app.ended(await app.submit_without_upload(JobSpec("fake")))
    assert job.error
    assert job.error.code == "source_not_found"


async def test_an_attempt_that_fails_is_retried_from_the_checkpoint(app: App, sample: Path) -> None:
    failures = iter([RuntimeError("a crash")])
    app.stages.trouble = lambda request: next(failures, None) if request.window.index == 3 else None
    job = await app.ended(job_id := await app.submit(sample, MANY_WINDOWS))
    assert (job.phase, next(failures, None)) == (Phase.COMPLETED, None)
    ids = [orjson.loads(e.data)["id"] for e in await app.follow(job_id) if e.kind is EventKind.SEGMENT]
    assert ids == list(range(len(ids)))
    # What was committed before the failure was not decoded again.
    assert app.stages.decoded.count(0) == 1


async def test_an_engine_that_always_fails_fails_the_job_after_its_attempts(app: App, sample: Path) -> None:
    app.stages.trouble = lambda _: EngineFailed("The model stumbled.")
    job = await app.ended(await app.submit(sample, JobSpec("fake", max_attempts=2)))
    assert (job.phase, job.attempts) == (Phase.FAILED, 2)
    assert job.error
    assert job.error.code == "engine_failed"


async def test_a_fallback_model_replaces_one_that_fails(app: App, sample: Path) -> None:
    app.stages.broken = {"fake"}
    spec = JobSpec("missing", fallbacks=("fake", "nowhere", "second"), max_attempts=1)
    job = await app.ended(await app.submit(sample, spec))
    assert (job.phase, job.model, job.attempts) == (Phase.COMPLETED, "second", 1)
    assert (job.spec.model, job.spec.fallbacks, job.spec.requested_model) == ("fake", ("second",), "missing")
    assert set(app.stages.used) == {"fake", "second"}


async def test_a_fallback_model_continues_from_the_checkpoint(app: App, sample: Path) -> None:
    def trouble(request: TranscribeRequest) -> Exception | None:
        return EngineFailed("No.") if request.window.index == 3 and app.stages.used[-1] == "fake" else None

    app.stages.trouble = trouble
    job = await app.ended(job_id := await app.submit(sample, replace(MANY_WINDOWS, fallbacks=("second",))))
    assert (job.phase, job.model) == (Phase.COMPLETED, "second")
    ids = [orjson.loads(e.data)["id"] for e in await app.follow(job_id) if e.kind is EventKind.SEGMENT]
    assert ids == list(range(len(ids)))
    assert app.stages.decoded.count(0) == 1


@pytest.mark.parametrize("problem", [PoisonPill("It kills."), StageUnavailable("Nobody is there.")])
async def test_a_fallback_model_replaces_one_that_kills_workers_or_has_no_replica(
    app: App, sample: Path, problem: Exception
) -> None:
    app.stages.trouble = lambda _: problem if app.stages.used[-1] == "fake" else None
    job = await app.ended(await app.submit(sample, JobSpec("fake", fallbacks=("second",), max_attempts=1)))
    assert (job.phase, job.model) == (Phase.COMPLETED, "second")


async def test_a_job_fails_when_all_its_models_fail(app: App, sample: Path) -> None:
    app.stages.broken = {"fake", "second"}
    job = await app.ended(await app.submit(sample, JobSpec("fake", fallbacks=("second",), max_attempts=1)))
    assert (job.phase, job.model) == (Phase.FAILED, "second")
    assert job.error
    assert job.error.code == "engine_failed"


async def test_a_lost_stage_costs_no_attempt(app: App, sample: Path) -> None:
    losses = iter([StageLost("gone"), StageLost("gone")])
    app.stages.trouble = lambda _: next(losses, None)
    job = await app.ended(await app.submit(sample))
    assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)


async def test_a_window_that_kills_its_workers_fails_its_job_and_no_other(app: App, sample: Path) -> None:
    """At first it takes the windows of its batch along; from then on it is decoded alone."""
    bad = await app.submit(sample, replace(MANY_WINDOWS, prompt="deadly"))
    deaths: list[bool] = []

    def trouble(request: TranscribeRequest) -> Exception | None:
        if request.options.prompt == "deadly" and request.window.index == 0:
            deaths.append(request.exclusive)
            return StageDied("gone")
        # The other windows of its batch die with it the first time.
        return StageDied("gone") if len(deaths) == 1 and not request.exclusive else None

    app.stages.trouble = trouble
    good = [await app.submit(sample, MANY_WINDOWS) for _ in range(2)]
    job = await app.ended(bad)
    assert job.error
    assert (job.phase, job.error.code, job.attempts) == (Phase.FAILED, "engine_failed", 1)
    assert deaths == [False, True, True]
    assert [(await app.ended(job_id)).phase for job_id in good] == [Phase.COMPLETED] * 2


async def test_workers_lost_for_other_reasons_charge_no_stall(app: App, sample: Path) -> None:
    windows, deaths = app.stages.windows, 0

    async def shared(request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        nonlocal deaths
        deaths += 1
        if deaths <= LeaseRules().max_stalls:
            raise StageLost("gone")
        async for planned in windows(request):
            yield planned

    app.stages.windows = shared  # type: ignore[method-assign]
    job = await app.ended(await app.submit(sample, JobSpec("fake", max_attempts=1)))
    assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)


async def test_a_transcoder_that_always_dies_fails_the_job_by_its_stalls(app: App, sample: Path) -> None:
    app.stages.windows = dying  # type: ignore[method-assign]
    job = await app.ended(await app.submit(sample, JobSpec("fake", max_attempts=1)))
    assert job.error
    assert (job.phase, job.error.code) == (Phase.FAILED, "internal")
    assert "workers" in job.error.message


async def dying(request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
    if request:
        raise StageDied("gone")
    yield TranscodeProgress((), 0.0, finished=True)


async def test_an_internal_error_is_logged_and_not_shown(app: App, sample: Path, caplog: pytest.LogCaptureFixture) -> None:
    app.stages.trouble = lambda _: RuntimeError("secret /path")
    job = await app.ended(await app.submit(sample, JobSpec("fake", max_attempts=1)))
    assert job.error
    assert job.error.code == "internal"
    assert "secret" not in job.error.message
    assert "secret /path" in caplog.text


async def test_a_cancel_stops_a_running_job_and_its_decodes(app: App, sample: Path) -> None:
    app.stages.gate = asyncio.Semaphore(1)
    job_id = await app.submit(sample, MANY_WINDOWS)
    await app.until(job_id, EventKind.SEGMENT)
    await app.jobs.cancel(ME, job_id)
    job = await app.ended(job_id)
    assert (job.phase, job.error and job.error.code) == (Phase.CANCELLED, "cancelled")
    assert app.stages.decoded == [0]
    for _ in range(100):
        app.stages.gate.release()
    assert (await app.ended(await app.submit(sample))).phase is Phase.COMPLETED


async def test_a_runner_that_stops_gives_its_jobs_back_and_another_continues(
    app: App, store: Store, artifacts: Artifacts, ffmpeg: str, sample: Path
) -> None:
    app.stages.gate = asyncio.Semaphore(3)
    job_id = await app.submit(sample, MANY_WINDOWS)
    before = await app.until(job_id, EventKind.SEGMENT, 3)
    await app.runner.stop()
    job = await app.jobs.get(ME, job_id)
    assert (job.phase, job.attempts) == (Phase.QUEUED, 0)
    async with open_app(store, artifacts, ffmpeg) as another:
        events = await another.follow(job_id)
        assert (await another.jobs.get(ME, job_id)).phase is Phase.COMPLETED
        assert min(another.stages.decoded) == job.checkpoint.next_window
    assert events[: len(before)] == before
    ids = [orjson.loads(e.data)["id"] for e in events if e.kind is EventKind.SEGMENT]
    assert ids == list(range(len(ids)))


async def test_a_runner_stops_although_redis_fails_during_a_claim(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    claiming, failing = asyncio.Event(), asyncio.Event()

    async def claim(*_: object) -> None:
        claiming.set()
        await failing.wait()
        raise StoreUnavailable("gone")

    monkeypatch.setattr(app.store.leases, "claim", claim)
    await claiming.wait()
    stopping = asyncio.create_task(app.runner.stop())
    await asyncio.sleep(0)
    failing.set()
    async with asyncio.timeout(10):
        await stopping


async def test_a_background_loop_that_ends_is_logged_and_makes_the_runner_unhealthy(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def listen(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    await app.runner.stop()
    monkeypatch.setattr(app.store.events, "listen", listen)
    await app.runner.start()
    while "ValueError: a bug" not in caplog.text:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert not app.runner.healthy


async def test_a_job_that_cannot_be_settled_is_logged_and_left_to_its_lease(
    app: App, sample: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = asyncio.Event()

    async def finish(*_: object, **__: object) -> bool:
        failed.set()
        raise ValueError("a bug")

    monkeypatch.setattr(app.store.leases, "finish", finish)
    job_id = await app.submit(sample)
    await failed.wait()
    while app.runner.jobs:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert f"job_id={job_id}" in caplog.text


async def test_no_more_windows_are_in_flight_than_allowed(
    store: Store, artifacts: Artifacts, ffmpeg: str, sample: Path
) -> None:
    async with open_app(store, artifacts, ffmpeg, limits=RunnerLimits(windows=2)) as app:
        started: set[int] = set()
        largest = 0

        def look(request: TranscribeRequest) -> None:
            nonlocal largest
            started.add(request.window.index)
            largest = max(largest, len(started) - len(app.stages.decoded))

        app.stages.trouble = look
        await app.ended(await app.submit(sample, MANY_WINDOWS))
    assert 1 <= largest <= 4


async def test_a_deleted_job_leaves_no_file(app: App, artifacts: Artifacts, sample: Path) -> None:
    await app.ended(job_id := await app.submit(sample))
    assert artifacts.keys(job_folder(job_id))
    await app.jobs.delete(ME, job_id)
    assert artifacts.keys(job_folder(job_id)) == []


async def test_expired_results_are_deleted(app: App, artifacts: Artifacts, sample: Path) -> None:
    job_id = await app.submit(sample, JobSpec("fake", result_ttl_s=0))
    while await app.store.jobs.get(job_id):  # noqa: ASYNC110 - the sweeper tells nobody
        await asyncio.sleep(0.02)
    while artifacts.keys(job_folder(job_id)):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_a_running_job_cannot_be_deleted(app: App, sample: Path) -> None:
    app.stages.gate = asyncio.Semaphore(0)
    job_id = await app.submit(sample)
    with pytest.raises(RequestError) as refused:
        await app.jobs.delete(ME, job_id)
    assert refused.value.code == "conflict"


async def test_other_owners_and_tenants_do_not_see_a_job(app: App, sample: Path) -> None:
    job_id = await app.submit(sample)
    for stranger in (Principal("another", "t"), Principal("me", "another")):
        with pytest.raises(RequestError) as refused:
            await app.jobs.get(stranger, job_id)
        assert refused.value.code == "not_found"


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (JobSpec("unknown"), "model_unavailable"),
        (JobSpec("fake", language="xx"), "language_unsupported"),
        (JobSpec("second", task="translate"), "feature_unavailable"),
        (JobSpec("fake", diarize=True), "feature_unavailable"),
        (JobSpec("fake", redact=True), "feature_unavailable"),
        (JobSpec("fake", label_audio=True), "feature_unavailable"),
        (JobSpec("fake", webhook="http://a/b"), "source_forbidden"),
        (JobSpec("nothing", fallbacks=("nowhere",)), "model_unavailable"),
        (JobSpec("fake", url="file:///etc/hostname"), "source_forbidden"),
        (JobSpec("fake", url="http://user:word@host/a"), "source_forbidden"),
    ],
)
async def test_an_unsupported_request_is_refused_with_its_error_code(app: App, spec: JobSpec, code: str) -> None:
    with pytest.raises(RequestError) as refused:
        await app.submit_without_upload(spec)
    assert refused.value.code == code


async def test_runners_can_be_stopped_at_any_moment_and_lose_nothing(
    store: Store, artifacts: Artifacts, ffmpeg: str, sample: Path
) -> None:
    async with open_app(store, artifacts, ffmpeg, limits=RunnerLimits(jobs=0)) as idle:
        jobs = [await idle.submit(sample, MANY_WINDOWS) for _ in range(4)]
    for moment in range(12):
        async with open_app(store, artifacts, ffmpeg):
            await asyncio.sleep(moment * 0.02)  # stops at different moments
        assert not [j for j in await store.jobs.get_many(jobs) if j and j.phase not in (Phase.QUEUED, Phase.COMPLETED)]
    async with open_app(store, artifacts, ffmpeg) as app:
        for job_id in jobs:
            job = await app.ended(job_id)
            assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)
            ids = [orjson.loads(e.data)["id"] for e in await app.follow(job_id) if e.kind is EventKind.SEGMENT]
            assert ids == list(range(len(ids)))


async def test_sweepers_can_run_concurrently(app: App, artifacts: Artifacts, sample: Path) -> None:
    others = [Sweeper(app.store, artifacts, period_s=3600, stream_grace_s=3600) for _ in range(4)]
    for _ in range(5):
        job_id = await app.submit(sample, JobSpec("fake", result_ttl_s=1))
        await app.ended(job_id)
    while (await app.store.jobs.page("me", "t", limit=1))[0]:
        await asyncio.gather(*(other.sweep() for other in others))

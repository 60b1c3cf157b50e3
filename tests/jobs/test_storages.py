"""Jobs over each kind of artifact storage: a folder, and buckets of an object storage."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.errors import SourceForbidden, SourceNotFound, SourceTooLarge
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import Buckets, parse_s3_url
from deployments.ingestion.safe_http import SafeHttp
from deployments.ingestion.stage import Ingestion
from deployments.messages import FetchRequest
from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError
from serve_app.models.event import EventKind
from serve_app.models.job import JobSpec, Phase
from serve_app.models.storage_paths import job_folder
from serve_app.store.redis_store import Store
from tests.lib.app import ME, App, open_app
from tests.lib.s3 import KEY, REGION, SECRET, Storage

MANY_WINDOWS = JobSpec("fake", segment_duration=6.0)


@pytest.fixture(params=["file", "s3"])
async def app(
    request: pytest.FixtureRequest, store: Store, ffmpeg: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[App]:
    server: Storage = request.getfixturevalue("s3")
    folder = Artifacts((tmp_path / "artifacts").as_uri())
    credentials(server, monkeypatch)
    async with open_app(
        store, folder if request.param == "file" else server.artifacts(), ffmpeg, allow=("s3://recordings",)
    ) as app:
        yield app


def credentials(server: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that an operator sets."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.host}")


async def test_a_recording_is_transcribed_and_has_its_artifacts(app: App, sample: Path) -> None:
    job = await app.ended(job_id := await app.submit(sample, MANY_WINDOWS))
    assert job.phase is Phase.COMPLETED
    assert len((await app.jobs.transcript(ME, job_id)).segments) > 5
    files = {file.name: file for file in await app.jobs.results.files(job)}
    assert set(files) == {"source", "transcript.jsonl", "audio.wav"}
    for file in files.values():
        assert len(b"".join(app.jobs.results.content(file, 0, file.size))) == file.size
    source = files["source"]
    assert b"".join(app.jobs.results.content(source, 0, source.size)) == sample.read_bytes()


async def test_the_decoded_audio_is_one_wav_file_in_any_ranges(app: App, sample: Path) -> None:
    job = await app.ended(await app.submit(sample, MANY_WINDOWS))
    file = await app.jobs.results.file(job, "audio.wav")
    whole = b"".join(app.jobs.results.content(file, 0, file.size))
    with wave.open(io.BytesIO(whole)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
        assert sound.getnframes() == pytest.approx(57.4 * 16_000, abs=1600)
        assert any(sound.readframes(16_000 * 5))
    for start, length in ((0, 10), (40, 10), (43, 2), (44, 1), (100_001, 77), (file.size - 5, 5)):
        assert b"".join(app.jobs.results.content(file, start, length)) == whole[start : start + length]


async def test_separate_channels_and_the_mp3_copy_are_stored_too(app: App, sample: Path) -> None:
    spec = replace(MANY_WINDOWS, channels=True, listening=True)
    job = await app.ended(await app.submit(sample, spec))
    assert job.phase is Phase.COMPLETED
    files = {file.name: file for file in await app.jobs.results.files(job)}
    mp3 = b"".join(app.jobs.results.content(files["listening.mp3"], 0, files["listening.mp3"].size))
    assert len(mp3) / 8000 == pytest.approx(57.4, abs=0.1)
    audio = b"".join(app.jobs.results.content(files["audio.wav"], 0, files["audio.wav"].size))
    assert len(audio) == files["audio.wav"].size


async def test_a_job_is_cancelled_and_deleted(app: App, sample: Path) -> None:
    job_id = await app.submit(sample, MANY_WINDOWS)
    await app.until(job_id, EventKind.SEGMENT)
    await app.jobs.cancel(ME, job_id)
    assert (await app.ended(job_id)).phase in (Phase.CANCELLED, Phase.COMPLETED)
    await app.jobs.delete(ME, job_id)
    assert app.artifacts.keys(job_folder(job_id)) == []
    with pytest.raises(RequestError):
        await app.jobs.get(ME, job_id)


async def test_a_file_without_audio_is_unsupported_media(app: App) -> None:
    job = await app.ended(await app.submit(b"this is no sound"))
    assert job.error
    assert (job.phase, job.error.code) == (Phase.FAILED, "unsupported_media")


async def test_an_object_of_a_bucket_is_a_source(app: App, s3: Storage, sample: Path) -> None:
    s3.client.create_bucket(Bucket="recordings")
    s3.client.put_object(Bucket="recordings", Key="meetings/one two.flac", Body=sample.read_bytes())
    s3.client.create_bucket(Bucket="secrets")
    s3.client.put_object(Bucket="secrets", Key="x.flac", Body=sample.read_bytes())
    job = await app.ended(await app.submit_without_upload(JobSpec("fake", url="s3://recordings/meetings/one two.flac")))
    assert job.phase is Phase.COMPLETED
    job = await app.ended(await app.submit_without_upload(JobSpec("fake", url="s3://recordings/nothing.flac")))
    assert job.error
    assert job.error.code == "source_not_found"
    for url in ("s3://secrets/x.flac", "s3://recordings-other/x.flac"):
        with pytest.raises(RequestError, match="not allowed"):
            await app.submit_without_upload(JobSpec("fake", url=url))
        with pytest.raises(SourceForbidden):
            await app.stages.fetch(FetchRequest(url, "jobs/j/source", 1 << 20))


@pytest.mark.parametrize(
    "url",
    [
        "s3://recordings",
        "s3://recordings/",
        "s3:///x",
        "s3://recordings/x?endpoint_override=127.0.0.1:6379",
        "s3://key:secret@recordings/x",
        "s3://Recordings/x",
        "s3://recordings:80/x",
        "s3://../x",
        "s3://recordings/../other/x",
        "s3://recordings/a//b",
        "s3://recordings/a/./b",
        "s3://[x/k",
        "s3://a\u2100b/k",
        "https://recordings/x",
    ],
)
def test_a_malformed_object_url_is_refused(url: str) -> None:
    with pytest.raises(SourceForbidden):
        parse_s3_url(url)


async def test_an_object_that_is_too_large_is_not_read(
    s3: Storage, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials(s3, monkeypatch)
    bucket = s3.bucket()
    s3.client.put_object(Bucket=bucket, Key="x", Body=bytes(100))
    allowed = AllowList.parse([f"s3://{bucket}"])
    ingestion = Ingestion(artifacts, SafeHttp(allowed), Buckets(allowed))
    with pytest.raises(SourceTooLarge):
        await ingestion.fetch(FetchRequest(f"s3://{bucket}/x", "jobs/j/source", 99))
    with pytest.raises(SourceNotFound):
        await ingestion.fetch(FetchRequest(f"s3://{bucket}/y", "jobs/j/source", 99))
    assert artifacts.keys("jobs") == []
    assert (await ingestion.fetch(FetchRequest(f"s3://{bucket}/x", "jobs/j/source", 100))).size == 100

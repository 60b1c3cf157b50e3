"""Audio artifacts over HTTP: the decoded channels as WAV, and the MP3 copy."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import httpx
import pytest

from serve_app.http.auth import ANONYMOUS
from serve_app.models.job import JobSpec
from tests.lib.media import decode_at_once, side_by_side
from tests.service.conftest import Served


@pytest.fixture
async def job(served: Served, ffmpeg: str, sample: Path) -> str:
    """Completed job of a two-channel recording."""
    voice = decode_at_once(ffmpeg, sample)
    jobs = served.app.jobs
    async with jobs.draft(ANONYMOUS) as draft:
        served.app.artifacts.put(draft.source, side_by_side(voice, bytes(2 * 16_000 * 3) + voice))
        made = await draft.submit(JobSpec("fake", channels=True, listening=True))
    async for _ in await jobs.follow(ANONYMOUS, made.id, "0"):
        pass
    return made.id


async def get(served: Served, job_id: str, name: str, byte_range: str = "") -> httpx.Response:
    headers = {"Range": byte_range} if byte_range else {}
    return await served.http.get(f"/v1/jobs/{job_id}/artifacts/{name}", headers=headers)


async def test_files_are_listed_and_sent_whole_and_in_ranges(served: Served, job: str) -> None:
    files = {file["name"]: file for file in (await served.http.get(f"/v1/jobs/{job}")).json()["artifacts"]}
    types = {name: files[name]["content_type"] for name in ("audio.wav", "listening.mp3")}
    assert types == {"audio.wav": "audio/wav", "listening.mp3": "audio/mpeg"}
    for name, content_type in types.items():
        whole = await get(served, job, name)
        assert (whole.status_code, whole.headers["content-type"]) == (200, content_type)
        assert len(whole.content) == files[name]["size"]
        part = await get(served, job, name, "bytes=1001-2003")
        assert (part.status_code, part.content) == (206, whole.content[1001:2004])
        assert part.headers["content-range"] == f"bytes 1001-2003/{files[name]['size']}"
        assert (await get(served, job, name, "bytes=-7")).content == whole.content[-7:]
        assert (await get(served, job, name, f"bytes={files[name]['size']}-")).status_code == 416


async def test_the_wav_file_has_both_channels(served: Served, job: str) -> None:
    with wave.open(io.BytesIO((await get(served, job, "audio.wav")).content)) as sound:
        assert (sound.getnchannels(), sound.getframerate()) == (2, 16_000)
        assert sound.getnframes() / 16_000 == pytest.approx(60.4, abs=0.1)


async def test_subtitles_are_ordered_by_time_and_numbered(served: Served, job: str) -> None:
    cues = (await served.http.get(f"/v1/jobs/{job}/transcript", params={"format": "srt"})).text.strip().split("\n\n")
    assert [cue.split("\n")[0] for cue in cues] == [str(n + 1) for n in range(len(cues))]
    starts = [cue.split("\n")[1].split(" --> ")[0] for cue in cues]
    assert starts == sorted(starts)
    segments = (await served.http.get(f"/v1/jobs/{job}/transcript")).json()["segments"]
    assert {segment["channel"] for segment in segments} == {0, 1}

"""Uploads to Speech is Cheap: an answer that is given while what it answers arrives."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest

from serve_app.dialects.speechischeap.routes import PREFIX
from serve_app.dialects.speechischeap.upload_progress import HELD_BYTES
from serve_app.http.auth import ANONYMOUS
from serve_app.jobs.quotas import TenantLimits
from serve_app.local.valkey import Valkey
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.lib.slow_upload import END, fields, file, posting
from tests.service.conftest import MAX_UPLOAD_BYTES, Served

PIECE = 64 << 10


@pytest.fixture(scope="session")
def wave(ffmpeg: str, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The sample as a file that takes a while to send."""
    path = tmp_path_factory.mktemp("wave") / "talk.wav"
    subprocess.run([ffmpeg, "-loglevel", "error", "-i", sample, "-ar", "16000", path], check=True)
    return path.read_bytes()


async def post(served: Served, content: bytes, **options: str) -> httpx.Response:
    return await served.http.post(f"{PREFIX}/", files={"input_file": ("talk.wav", content)}, data=options)


def events(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [event.json() for event in httpx_sse.EventSource(answer).iter_sse()]


def uploads(told: list[Any]) -> list[int]:
    return [each["bytes_uploaded"] for each in told if each.get("type") == "upload"]


async def over(served: Served, job_id: str) -> Any:
    async for _ in await served.app.jobs.follow(ANONYMOUS, job_id, "0"):
        pass
    return (await served.http.get(f"{PREFIX}/{job_id}")).json()


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def nothing(served: Served) -> bool:
    """Whether nothing of any job is there, what is half written included."""
    return not served.app.artifacts.folders("jobs")


async def test_an_upload_is_a_stream_that_ends_with_the_job(served: Served, sample: Path) -> None:
    content = sample.read_bytes()
    told = events(await post(served, content, can_parse_words="true", minimum_confidence="0", language=""))
    assert told[0] == {"type": "upload", "message": "Uploading...", "bytes_uploaded": 0}
    assert uploads(told)[-1] == len(content)
    assert set(told[-1]) == {"id", "output", "status"}
    assert (told[-1]["output"], told[-1]["status"]) == ({}, "PENDING")
    body = await over(served, told[-1]["id"])
    assert body["status"] == "COMPLETED"
    assert all(segment["words"] for segment in body["output"]["segments"])


async def test_an_upload_may_be_followed_by_the_jobs_own_stream(served: Served, wave: bytes) -> None:
    told = events(await post(served, wave, can_stream_output="true", segment_duration="6"))
    kinds = [each["type"] for each in told]
    assert kinds[0] == "upload"
    after = kinds.index("initial")
    assert set(kinds[:after]) == {"upload"}
    assert uploads(told)[-1] == len(wave)
    assert told[after]["request"] == {"can_stream_output": True, "segment_duration": 6.0}
    assert set(kinds[after:]) == {"initial", "progress", "segment", "final"}
    assert kinds[-1] == "final"


async def test_an_upload_may_be_followed_by_subtitles(served: Served, wave: bytes) -> None:
    answer = await post(served, wave, can_stream_output="true", output_format="srt")
    data = [event.data for event in httpx_sse.EventSource(answer).iter_sse()]
    cues = [each for each in data if not each.startswith("{")]
    assert cues[0].startswith("1\n00:00:")
    assert len(cues) >= 10


async def test_the_sum_of_a_repeated_upload_is_one_job(served: Served, sample: Path) -> None:
    served.http.headers["Idempotency-Key"] = "once"
    first, second = [events(await post(served, sample.read_bytes()))[-1]["id"] for _ in range(2)]
    assert first == second


async def test_events_come_while_the_body_does(served: Served, wave: bytes) -> None:
    head, half = fields(can_stream_output="true") + file(), len(wave) // 2
    async with posting(served.url + PREFIX, len(head + wave + END)) as wire, asyncio.timeout(30):
        await wire.send(head, wave[:half])
        assert await wire.status() == 200
        told = wire.events()
        seen = [await anext(told)]
        for sent in range(half, len(wave), len(wave) // 8):  # of what comes after `sent` nothing is even sent
            known = seen[-1]["bytes_uploaded"]
            while seen[-1]["bytes_uploaded"] == known:
                seen.append(await anext(told))
            assert known < seen[-1]["bytes_uploaded"] <= sent
            await wire.send(wave[sent : sent + len(wave) // 8])
        await wire.send(END)
        rest = [event async for event in told]
    assert uploads(seen) == sorted(uploads(seen))
    assert rest[-1] == {"type": "final"}
    assert [each["type"] for each in rest].count("initial") == 1


async def test_an_uploader_that_is_cut_off_leaves_nothing(
    served: Served, wave: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for sent in (PIECE, HELD_BYTES + PIECE):
        async with posting(served.url + PREFIX, len(file() + wave + END)) as wire, asyncio.timeout(20):
            await wire.send(file(), wave[:sent])
            await eventually(lambda: not nothing(served))
            if sent > HELD_BYTES:
                assert await wire.status() == 200
                await anext(wire.events())
        await eventually(lambda: nothing(served))
    assert (await served.app.jobs.page(ANONYMOUS, limit=1, cursor=None))[0] == []
    assert not caplog.records


async def test_a_reader_that_leaves_after_the_body_stops_nothing(served: Served, wave: bytes) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    head = fields(can_stream_output="true") + file()
    async with posting(served.url + PREFIX, len(head + wave + END)) as wire, asyncio.timeout(20):
        await wire.send(head, wave, END)
        assert await wire.status() == 200
        async for event in wire.events():
            if event["type"] == "initial":
                break
    for _ in range(20):
        served.app.stages.gate.release()
    jobs, _ = await served.app.jobs.page(ANONYMOUS, limit=1, cursor=None)
    assert (await over(served, jobs[0].id))["status"] == "COMPLETED"


# What is refused before the stream, and what within it.


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"nonsense": "1"}, "nonsense"),
        ({"language": "xx"}, "xx"),
        ({"output_format": "pdf"}, "output_format"),
        ({"can_parse_speakers": "true"}, "can_parse_speakers"),
        ({"input_url": "https://example.com/x"}, "input_url"),
    ],
)
@pytest.mark.parametrize("length", [1000, HELD_BYTES * 4])
async def test_fields_that_come_first_are_refused_in_plain_text(
    served: Served, options: dict[str, str], named: str, length: int
) -> None:
    answer = await post(served, bytes(length), **options)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert named in answer.text
    await eventually(lambda: nothing(served))


async def test_fields_that_come_last_are_refused_in_the_stream_of_a_long_upload(served: Served) -> None:
    for length, plain in ((1000, True), (HELD_BYTES * 4, False)):
        body = file() + bytes(length) + b"\r\n" + fields(can_label_audio="true").rstrip(b"\r\n") + END
        headers = {"Content-Type": "multipart/form-data; boundary=edge-7"}
        answer = await served.http.post(PREFIX, content=body, headers=headers)
        if plain:
            assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
            told = answer.text
        else:
            *_, last = events(answer)
            assert last["type"] == "error"
            told = last["message"]
        assert told.startswith("The option can_label_audio is refused")
        await eventually(lambda: nothing(served))


async def test_a_file_is_required(served: Served) -> None:
    answer = await served.http.post(PREFIX, files={"language": (None, "en")})
    assert (answer.status_code, answer.text) == (400, 'Missing required "input_file" parameter')
    assert nothing(served)


async def test_a_body_that_is_no_form_is_refused(served: Served) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = await served.http.post(PREFIX, content=b"no form", headers={"Content-Type": kind})
        assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert nothing(served)


async def test_what_is_too_large_is_a_413_where_it_says_so_and_an_error_where_it_turns_out(served: Served) -> None:
    told = await post(served, bytes(MAX_UPLOAD_BYTES + (2 << 20)))
    assert (told.status_code, told.headers["content-type"]) == (413, "text/plain; charset=utf-8")
    *_, last = events(await post(served, bytes(MAX_UPLOAD_BYTES + 1)))
    assert last == {"type": "error", "message": f"The file is larger than the {MAX_UPLOAD_BYTES} bytes allowed."}
    await eventually(lambda: nothing(served))


async def test_a_form_that_breaks_off_is_told_in_the_stream(served: Served) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=edge-7"}
    answer = await served.http.post(PREFIX, content=file() + bytes(HELD_BYTES * 2), headers=headers)
    *_, last = events(answer)
    assert last["type"] == "error"
    await eventually(lambda: nothing(served))


async def test_a_spent_quota_is_a_429_before_the_stream(served: Served, wave: bytes) -> None:
    await over(served, events(await post(served, wave))[-1]["id"])
    served.app.jobs._quotas._limits = TenantLimits(minutes_per_month=0.5)
    answer = await post(served, wave)
    assert (answer.status_code, answer.headers["content-type"]) == (429, "text/plain; charset=utf-8")
    assert "retry-after" in answer.headers


@pytest.fixture
async def strangers(valkey: Valkey) -> AsyncIterator[dict[str, int]]:
    """Keys that may not upload, and what they are told."""
    redis = connect(valkey.url)
    yield {"wrong": 401, await ApiKeys(redis).create("r", "t", ["speech:transcriptions:read"]): 403}
    await redis.aclose()


async def test_who_may_not_is_told_before_the_body_has_come(served: Served, strangers: dict[str, int]) -> None:
    for key, status in strangers.items():
        url = served.url + PREFIX
        async with posting(url, 1 << 20, Authorization=f"Bearer {key}") as wire, asyncio.timeout(30):
            await wire.send(file())
            assert await wire.status() == status
            assert wire.headers["content-type"].startswith("text/plain")
            assert await wire.text()
    assert nothing(served)

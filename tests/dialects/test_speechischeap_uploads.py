"""Uploads to Speech is Cheap: a response that starts before the request body is complete."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest

from serve_app.dialects.speechischeap.routes import PREFIX
from serve_app.dialects.speechischeap.upload_progress import BYTES_BEFORE_RESPONSE
from serve_app.http.auth import ANONYMOUS
from serve_app.jobs.quotas import TenantLimits
from serve_app.local.valkey import Valkey
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.lib.shared_api import SharedApi
from tests.lib.slow_upload import END, fields, file, posting
from tests.service.conftest import MAX_UPLOAD_BYTES, Served

PIECE = 64 << 10


@pytest.fixture(scope="session")
def wave(ffmpeg: str, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Sample as a WAV file, large enough to be sent in pieces."""
    path = tmp_path_factory.mktemp("wave") / "talk.wav"
    subprocess.run([ffmpeg, "-loglevel", "error", "-i", sample, "-ar", "16000", path], check=True)
    return path.read_bytes()


async def post(served: Served, content: bytes, **options: str) -> httpx.Response:
    return await served.http.post(f"{PREFIX}/", files={"input_file": ("talk.wav", content)}, data=options)


def events(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [event.json() for event in httpx_sse.EventSource(answer).iter_sse()]


def uploads(payloads: list[Any]) -> list[int]:
    return [payload["bytes_uploaded"] for payload in payloads if payload.get("type") == "upload"]


async def ended(served: Served, job_id: str) -> Any:
    async for _ in await served.app.jobs.follow(ANONYMOUS, job_id, "0"):
        pass
    return (await served.http.get(f"{PREFIX}/{job_id}")).json()


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def no_files(served: Served) -> bool:
    """Whether no job has any files, incomplete ones included."""
    return not served.app.artifacts.folders("jobs") and not served.app.artifacts.keys("parts")


async def test_the_response_to_an_upload_is_a_stream_that_ends_with_the_job(served: Served, sample: Path) -> None:
    content = sample.read_bytes()
    payloads = events(await post(served, content, can_parse_words="true", minimum_confidence="0", language=""))
    assert payloads[0] == {"type": "upload", "message": "Uploading...", "bytes_uploaded": 0}
    assert uploads(payloads)[-1] == len(content)
    assert set(payloads[-1]) == {"id", "output", "status"}
    assert (payloads[-1]["output"], payloads[-1]["status"]) == ({}, "PENDING")
    body = await ended(served, payloads[-1]["id"])
    assert body["status"] == "COMPLETED"
    assert all(segment["words"] for segment in body["output"]["segments"])


async def test_the_stream_may_go_on_with_the_jobs_events(served: Served, wave: bytes) -> None:
    payloads = events(await post(served, wave, can_stream_output="true", segment_duration="6"))
    kinds = [payload["type"] for payload in payloads]
    assert kinds[0] == "upload"
    after = kinds.index("initial")
    assert set(kinds[:after]) == {"upload"}
    assert uploads(payloads)[-1] == len(wave)
    assert payloads[after]["request"] == {"can_stream_output": True, "segment_duration": 6.0}
    assert set(kinds[after:]) == {"initial", "progress", "segment", "final"}
    assert kinds[-1] == "final"


async def test_the_stream_may_go_on_with_subtitles(served: Served, wave: bytes) -> None:
    answer = await post(served, wave, can_stream_output="true", output_format="srt")
    data = [event.data for event in httpx_sse.EventSource(answer).iter_sse()]
    cues = [text for text in data if not text.startswith("{")]
    assert cues[0].startswith("1\n00:00:")
    assert len(cues) >= 10


async def test_a_repeated_upload_makes_one_job(served: Served, sample: Path) -> None:
    served.http.headers["Idempotency-Key"] = "once"
    first, second = [events(await post(served, sample.read_bytes()))[-1]["id"] for _ in range(2)]
    assert first == second


async def test_events_are_sent_while_the_body_arrives(served: Served, wave: bytes) -> None:
    head, half = fields(can_stream_output="true") + file(), len(wave) // 2
    async with posting(served.url + PREFIX, len(head + wave + END)) as upload, asyncio.timeout(30):
        await upload.send(head, wave[:half])
        assert await upload.status() == 200
        stream = upload.events()
        seen = [await anext(stream)]
        for sent in range(half, len(wave), len(wave) // 8):
            before = seen[-1]["bytes_uploaded"]
            while seen[-1]["bytes_uploaded"] == before:
                seen.append(await anext(stream))
            assert before < seen[-1]["bytes_uploaded"] <= sent
            await upload.send(wave[sent : sent + len(wave) // 8])
        await upload.send(END)
        rest = [event async for event in stream]
    assert uploads(seen) == sorted(uploads(seen))
    assert rest[-1] == {"type": "final"}
    assert [event["type"] for event in rest].count("initial") == 1


async def test_an_interrupted_upload_leaves_nothing(served: Served, wave: bytes, caplog: pytest.LogCaptureFixture) -> None:
    for sent in (PIECE, BYTES_BEFORE_RESPONSE + PIECE):
        async with posting(served.url + PREFIX, len(file() + wave + END)) as upload, asyncio.timeout(20):
            await upload.send(file(), wave[:sent])
            await eventually(lambda: not no_files(served))
            if sent > BYTES_BEFORE_RESPONSE:
                assert await upload.status() == 200
                await anext(upload.events())
        await eventually(lambda: no_files(served))
    assert (await served.app.jobs.page(ANONYMOUS, limit=1, cursor=None))[0] == []
    assert not caplog.records


async def test_a_client_that_disconnects_after_the_body_does_not_stop_the_job(served: Served, wave: bytes) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    head = fields(can_stream_output="true") + file()
    async with posting(served.url + PREFIX, len(head + wave + END)) as upload, asyncio.timeout(20):
        await upload.send(head, wave, END)
        assert await upload.status() == 200
        async for event in upload.events():
            if event["type"] == "initial":
                break
    for _ in range(20):
        served.app.stages.gate.release()
    jobs, _ = await served.app.jobs.page(ANONYMOUS, limit=1, cursor=None)
    assert (await ended(served, jobs[0].id))["status"] == "COMPLETED"


# Refusals, before the stream or within it.


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
@pytest.mark.parametrize("length", [1000, BYTES_BEFORE_RESPONSE * 4])
async def test_bad_fields_before_the_file_are_refused_with_a_status(
    served: Served, options: dict[str, str], named: str, length: int
) -> None:
    answer = await post(served, bytes(length), **options)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert named in answer.text
    await eventually(lambda: no_files(served))


async def test_bad_fields_after_a_long_file_are_refused_in_the_stream(served: Served) -> None:
    for length, plain in ((1000, True), (BYTES_BEFORE_RESPONSE * 4, False)):
        body = file() + bytes(length) + b"\r\n" + fields(can_label_audio="true").rstrip(b"\r\n") + END
        headers = {"Content-Type": "multipart/form-data; boundary=edge-7"}
        answer = await served.http.post(PREFIX, content=body, headers=headers)
        if plain:
            assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
            message = answer.text
        else:
            *_, last = events(answer)
            assert last["type"] == "error"
            message = last["message"]
        assert message.startswith("The option can_label_audio is refused")
        await eventually(lambda: no_files(served))


async def test_a_file_is_required(served: Served) -> None:
    answer = await served.http.post(PREFIX, files={"language": (None, "en")})
    assert (answer.status_code, answer.text) == (400, 'Missing required "input_file" parameter')
    assert no_files(served)


async def test_a_body_that_is_not_a_form_is_refused(served: Served) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = await served.http.post(PREFIX, content=b"no form", headers={"Content-Type": kind})
        assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert no_files(served)


async def test_a_large_upload_is_a_413_by_its_length_and_an_error_in_the_stream_otherwise(served: Served) -> None:
    response = await post(served, bytes(MAX_UPLOAD_BYTES + (2 << 20)))
    assert (response.status_code, response.headers["content-type"]) == (413, "text/plain; charset=utf-8")
    *_, last = events(await post(served, bytes(MAX_UPLOAD_BYTES + 1)))
    assert last == {"type": "error", "message": f"The file is larger than the {MAX_UPLOAD_BYTES} bytes allowed."}
    await eventually(lambda: no_files(served))


async def test_an_incomplete_form_is_an_error_in_the_stream(served: Served) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=edge-7"}
    answer = await served.http.post(PREFIX, content=file() + bytes(BYTES_BEFORE_RESPONSE * 2), headers=headers)
    *_, last = events(answer)
    assert last["type"] == "error"
    await eventually(lambda: no_files(served))


async def test_a_body_that_stops_coming_ends_the_stream_with_an_error(served: Served, shared_api: SharedApi) -> None:
    shared_api.bind(replace(served.context, body_idle_s=0.3), served.auth, served.app.store)
    head = file() + bytes(BYTES_BEFORE_RESPONSE + 1)
    async with posting(served.url + PREFIX, 1 << 20) as upload, asyncio.timeout(30):
        await upload.send(head)
        assert await upload.status() == 200
        payloads = [payload async for payload in upload.events()]
    assert payloads[-1]["type"] == "error"
    assert "Nothing of the body came" in payloads[-1]["message"]
    assert no_files(served)


async def test_an_exhausted_quota_is_a_429_before_the_stream(served: Served, wave: bytes) -> None:
    await ended(served, events(await post(served, wave))[-1]["id"])
    served.app.jobs._quotas._limits = TenantLimits(minutes_per_month=0.5)
    answer = await post(served, wave)
    assert (answer.status_code, answer.headers["content-type"]) == (429, "text/plain; charset=utf-8")
    assert "retry-after" in answer.headers


@pytest.fixture
async def weak_keys(valkey: Valkey) -> AsyncIterator[dict[str, int]]:
    """Keys that may not upload, and the status they get."""
    redis = connect(valkey.url)
    yield {"wrong": 401, await ApiKeys(redis).create("r", "t", ["speech:transcriptions:read"]): 403}
    await redis.aclose()


async def test_authentication_errors_do_not_wait_for_the_body(served: Served, weak_keys: dict[str, int]) -> None:
    for key, status in weak_keys.items():
        url = served.url + PREFIX
        async with posting(url, 1 << 20, Authorization=f"Bearer {key}") as upload, asyncio.timeout(30):
            await upload.send(file())
            assert await upload.status() == status
            assert upload.headers["content-type"].startswith("text/plain")
            assert await upload.text()
    assert no_files(served)

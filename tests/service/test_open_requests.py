"""Requests that stay open: streams and waiting calls are bounded per tenant, and unknown parameters are refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.errors import RequestError
from serve_app.jobs.tenant_slots import TenantSlots
from serve_app.models.principal import Principal
from tests.lib.raw_request import captured, opened
from tests.lib.shared_api import SharedApi
from tests.service.conftest import Served

ANONYMOUS = Principal("anonymous", "default")


@pytest.fixture
async def job_id(served: Served, sample: Path) -> str:
    """A job that does not end, and one stream for each tenant."""
    served.app.stages.gate = asyncio.Semaphore(0)
    served.app.jobs._streams = TenantSlots(1, "event streams")
    return str((await served.http.post("/v1/jobs", files={"file": ("talk.flac", sample.read_bytes())})).json()["id"])


async def jobs(served: Served) -> list[Any]:
    """The caller's jobs."""
    listed: list[Any] = (await served.http.get("/v1/jobs")).json()["jobs"]
    return listed


async def until_free(served: Served) -> None:
    """Wait until the tenant has a slot again."""
    async with asyncio.timeout(20):
        while True:
            try:
                served.app.jobs.stream_slot(ANONYMOUS).release()
            except RequestError:
                await asyncio.sleep(0.02)
            else:
                return


async def test_event_streams_are_bounded_and_released(served: Served, job_id: str) -> None:
    path = f"/v1/jobs/{job_id}/events"
    for _ in range(3):
        async with served.http.stream("GET", path) as stream:
            assert stream.status_code == 200
            refused = await served.http.get(path)
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert int(refused.headers["retry-after"]) > 0
        await until_free(served)


async def test_a_refused_stream_takes_no_slot(served: Served, job_id: str) -> None:
    for _ in range(3):
        assert (await served.http.get("/v1/jobs/none/events")).status_code == 404
    async with served.http.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        assert stream.status_code == 200


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_waiting_calls_of_openais_api_count_too(served: Served, job_id: str, sample: Path, stream: str) -> None:
    async def send(http: httpx.AsyncClient) -> httpx.Response:
        files = {"file": ("talk.flac", sample.read_bytes())}
        return await http.post("/v1/audio/transcriptions", data={"model": "whisper-1", "stream": stream}, files=files)

    request = await captured(served.http, send)
    async with opened(request) as waiting:
        await waiting.send(request.content)
        async with asyncio.timeout(20):
            while len(await jobs(served)) < 2:  # noqa: ASYNC110 - no event tells of the call's job
                await asyncio.sleep(0.02)
        refused = await send(served.http)
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert len(await jobs(served)) == 2
    await until_free(served)


async def test_a_stream_of_speech_is_cheap_counts_too(served: Served, job_id: str, sample: Path) -> None:
    form = {"can_stream_output": "true"}
    async with served.http.stream("GET", f"/v1/jobs/{job_id}/events"):
        response = await served.http.post("/v2/jobs", data=form, files={"input_file": ("t.wav", sample.read_bytes()[:1000])})
        assert response.status_code == 429
    assert len(await jobs(served)) == 1


async def test_refused_calls_leave_no_slot_taken(served: Served, job_id: str) -> None:
    served.app.jobs._streams = TenantSlots(1, "event streams")
    for _ in range(3):
        form = {"model": "nothing", "stream": "true"}
        response = await served.http.post("/v1/audio/transcriptions", data=form, files={"file": ("t", b"x")})
        assert response.json()["error"]["code"] == "model_not_found"
        for options in ({"data": {"can_stream_output": "true", "language": "xx"}}, {"json": {"can_stream_output": True}}):
            files = {"input_file": ("t", b"x")} if "data" in options else None
            response = await served.http.post("/v2/jobs", files=files, **options)
            assert response.status_code == 400
    served.app.jobs.stream_slot(ANONYMOUS).release()


async def test_a_long_json_body_is_refused_before_it_is_sent(served: Served) -> None:
    for path in ("/v1/jobs", "/v1/transcripts", "/v2/jobs"):
        request = await captured(served.http, lambda http, path=path: http.post(path, json={}))  # type: ignore[misc]
        async with opened(request, Expect="100-continue", Content_Length="2000000") as upload, asyncio.timeout(20):
            assert await upload.status() == 400
            assert upload.headers["connection"] == "close"


@pytest.mark.parametrize(
    "path", ["/v1/jobs?phase=completed", "/v1/jobs/x?a=1", "/v1/jobs/x/transcript?fromat=srt", "/v1/models?a=1"]
)
async def test_an_unknown_parameter_is_refused_by_name(served: Served, path: str) -> None:
    response = await served.http.get(path)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert repr(path.partition("?")[2].partition("=")[0]) in response.json()["detail"]
    assert response.json()["errors"]


async def test_a_misspelt_parameter_deletes_nothing(served: Served, sample: Path) -> None:
    job_id = await served.app.submit(sample)
    await served.app.ended(job_id)
    assert (await served.http.delete(f"/v1/jobs/{job_id}?prge=false")).status_code == 422
    assert await served.app.store.jobs.get(job_id)


async def test_a_raw_upload_is_refused_before_its_body(served: Served) -> None:
    async def post(http: httpx.AsyncClient, query: str = "") -> httpx.Response:
        return await http.post(f"/v1/jobs{query}", content=b"sound", headers={"Content-Type": "audio/wav"})

    for query, status in (("?model=nothing", 422), ("?nonsense=1", 422), ("?filename=" + "x" * 300, 422), ("", 413)):
        request = await captured(served.http, lambda http, query=query: post(http, query))  # type: ignore[misc]
        length = "5" if query else "99999999999"
        async with opened(request, Expect="100-continue", Content_Length=length) as upload, asyncio.timeout(20):
            assert await upload.status() == status
    assert (await served.http.post("/v1/jobs", content=b"", headers={"Content-Type": "audio/wav"})).status_code == 422


async def test_a_json_body_that_stops_is_cut_off_as_well(served: Served, shared_api: SharedApi) -> None:
    shared_api.bind(replace(served.context, body_idle_s=0.2), served.auth, served.app.store)
    for path in ("/v1/jobs", "/v1/transcripts", "/v2/jobs"):
        request = await captured(served.http, lambda http, path=path: http.post(path, json={"a": 1}))  # type: ignore[misc]
        async with opened(request, Content_Length="500") as upload, asyncio.timeout(20):
            await upload.send(request.content)
            assert await upload.status() == 408


async def test_no_body_is_read_before_the_key_is_checked(served: Served) -> None:
    path = "/v1/webhooks/secrets/rotate"
    request = await captured(served.http, lambda http: http.post(path, json={"overlap_s": 60}))
    async with opened(request, Expect="100-continue", Content_Length="99999999999") as upload, asyncio.timeout(20):
        assert await upload.status() == 403
        assert upload.headers["connection"] == "close"

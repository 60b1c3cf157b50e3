"""The native API over a real socket, as a client sees it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve_app.local.valkey import Valkey
from serve_app.models.storage_paths import job_folder
from serve_app.store.connection import connect
from tests.lib.app import QUEUE_LIMIT
from tests.lib.web_server import answer as reply
from tests.lib.web_server import serving
from tests.service.conftest import MAX_UPLOAD_BYTES, Served

Event = tuple[str, str, Any]


async def upload(served: Served, path: Path, **fields: Any) -> dict[str, Any]:
    with path.open("rb") as file:
        response = await served.http.post("/v1/jobs", files={"file": (path.name, file)}, data=fields)
    assert response.status_code == 202, response.text
    body: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/jobs/{body['id']}"
    return body


async def follow(served: Served, job_id: str, last: str = "", count: int | None = None) -> list[Event]:
    headers = {"Last-Event-ID": last} if last else {}
    events: list[Event] = []
    async with httpx_sse.aconnect_sse(served.http, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as source:
        assert source.response.headers["x-accel-buffering"] == "no"
        assert source.response.headers["cache-control"] == "no-cache"
        async for event in source.aiter_sse():
            if event.data:
                events.append((event.id, event.event, event.json()))
            if count is not None and len(events) == count:
                break
    return events


async def finished(served: Served, job_id: str) -> dict[str, Any]:
    await follow(served, job_id)
    body: dict[str, Any] = (await served.http.get(f"/v1/jobs/{job_id}")).json()
    return body


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check an error and return its problem details (RFC 9457)."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:murmuration:error:{code}")
    assert body["title"]
    assert body["detail"].endswith(".")
    return body


async def test_an_upload_becomes_a_transcript(served: Served, sample: Path) -> None:
    job = await upload(served, sample, language="en", metadata='{"ticket": "7"}', segment_duration="10")
    assert (job["phase"], job["metadata"], job["language"]) == ("queued", {"ticket": "7"}, "en")
    job = await finished(served, job["id"])
    assert job["phase"] == "completed"
    assert job["duration_s"] == pytest.approx(57.4, abs=0.1)
    assert job["progress"]["audio_done_s"] == job["duration_s"]
    assert job["completed_at"] >= job["started_at"] >= job["created_at"]
    assert job["options"]["segment_duration"] == 10.0
    transcript = (await served.http.get(f"/v1/jobs/{job['id']}/transcript")).json()
    assert transcript["segments"]
    assert transcript["text"] == " ".join(s["text"] for s in transcript["segments"])


@pytest.mark.parametrize(
    ("format", "content_type", "begins"),
    [
        ("json", "application/json", "{"),
        ("text", "text/plain; charset=utf-8", ""),
        ("srt", "application/x-subrip; charset=utf-8", "1\n00:00:0"),
        ("vtt", "text/vtt; charset=utf-8", "WEBVTT\n\n00:00:0"),
        ("tsv", "text/tab-separated-values; charset=utf-8", "start\tend\ttext\n"),
    ],
)
async def test_a_transcript_is_rendered_in_every_format(
    served: Served, sample: Path, format: str, content_type: str, begins: str
) -> None:
    job = await upload(served, sample)
    await finished(served, job["id"])
    response = await served.http.get(f"/v1/jobs/{job['id']}/transcript", params={"format": format})
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    assert response.text.startswith(begins)


async def test_segments_stream_during_the_job_and_come_once_over_several_connections(served: Served, sample: Path) -> None:
    served.app.stages.gate = asyncio.Semaphore(2)
    job = await upload(served, sample, segment_duration="6")
    first = await follow(served, job["id"], count=6)
    assert "segment" in [kind for _, kind, _ in first]
    assert (await served.http.get(f"/v1/jobs/{job['id']}")).json()["phase"] == "transcribing"
    for _ in range(100):
        served.app.stages.gate.release()
    rest = await follow(served, job["id"], last=first[-1][0])
    assert first + rest == await follow(served, job["id"])
    assert rest[-1][1] == "done"
    ids = [data["id"] for _, kind, data in first + rest if kind == "segment"]
    assert ids == list(range(len(ids)))


async def test_an_invalid_last_event_id_is_refused(served: Served, sample: Path) -> None:
    job = await upload(served, sample)
    refused = await served.http.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": "../etc"})
    problem(refused, 400, "malformed")


async def test_a_source_is_fetched_from_its_url(served: Served, sample: Path) -> None:
    async with serving() as site:
        site.replies["/talk.flac"] = reply(200, sample.read_bytes())
        sent = await served.http.post("/v1/jobs", json={"source": {"url": site.url("/talk.flac")}})
        assert sent.status_code == 202
        job = await finished(served, sent.json()["id"])
    assert job["phase"] == "completed"
    assert [a["name"] for a in job["artifacts"]] == ["source", "transcript.jsonl", "audio.wav"]


async def test_a_source_that_does_not_exist_fails_the_job_by_code(served: Served) -> None:
    async with serving() as site:
        sent = await served.http.post("/v1/jobs", json={"source": {"url": site.url("/none")}})
        job = await finished(served, sent.json()["id"])
    assert (job["phase"], job["error"]["code"]) == ("failed", "source_not_found")
    problem(await served.http.get(f"/v1/jobs/{job['id']}/transcript"), 409, "conflict")


async def test_an_artifact_is_served_whole_and_in_ranges(served: Served, sample: Path) -> None:
    job = await finished(served, (await upload(served, sample))["id"])
    source = next(a for a in job["artifacts"] if a["name"] == "source")
    assert source["size"] == sample.stat().st_size
    assert (await served.http.get(source["url"])).content == sample.read_bytes()
    part = await served.http.get(source["url"], headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, sample.read_bytes()[5:10])
    assert part.headers["content-range"] == f"bytes 5-9/{source['size']}"
    beyond = await served.http.get(source["url"], headers={"Range": f"bytes={source['size']}-"})
    assert beyond.status_code == 416
    problem(await served.http.get(source["url"] + "x"), 404, "not_found")


async def test_a_listing_pages_through_all_jobs_by_cursor(served: Served, sample: Path) -> None:
    sent = [(await upload(served, sample))["id"] for _ in range(5)]
    listed: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await served.http.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        listed += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
    assert listed == sent[::-1]


async def test_a_job_is_cancelled_and_then_deleted(served: Served, sample: Path) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    job = await upload(served, sample)
    problem(await served.http.delete(f"/v1/jobs/{job['id']}"), 409, "conflict")
    assert (await served.http.post(f"/v1/jobs/{job['id']}/cancel")).status_code == 202
    assert (await finished(served, job["id"]))["phase"] == "cancelled"
    assert (await served.http.delete(f"/v1/jobs/{job['id']}")).status_code == 204
    problem(await served.http.get(f"/v1/jobs/{job['id']}"), 404, "not_found")
    assert served.app.artifacts.keys(job_folder(job["id"])) == []


async def test_a_completed_job_cannot_be_cancelled(served: Served, sample: Path) -> None:
    job = await finished(served, (await upload(served, sample))["id"])
    problem(await served.http.post(f"/v1/jobs/{job['id']}/cancel"), 409, "conflict")


async def test_a_failed_job_can_be_retried_while_it_has_attempts(served: Served) -> None:
    sent = await served.http.post("/v1/jobs", files={"file": b"no audio"}, data={"max_attempts": "2"})
    job = await finished(served, sent.json()["id"])
    assert (job["phase"], job["attempts"]) == ("failed", 1)
    again = await served.http.post(f"/v1/jobs/{job['id']}/retry")
    assert (again.status_code, again.json()["error"]) == (202, None)
    assert (await finished(served, job["id"]))["attempts"] == 2
    problem(await served.http.post(f"/v1/jobs/{job['id']}/retry"), 409, "conflict")
    problem(await served.http.post("/v1/jobs/none/retry"), 404, "not_found")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_job_is_a_404_everywhere(served: Served, method: str) -> None:
    problem(await served.http.request(method, "/v1/jobs/none"), 404, "not_found")
    for path in ("events", "transcript", "artifacts/source"):
        problem(await served.http.get(f"/v1/jobs/none/{path}"), 404, "not_found")
    problem(await served.http.post("/v1/jobs/none/cancel"), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_request"),
        ({"source": {}}, 422, "invalid_request"),
        ({"source": {"url": "http://a/b"}, "unknown": 1}, 422, "invalid_request"),
        ({"source": {"url": "http://a/b"}, "temperature": 3}, 422, "invalid_request"),
        ({"source": {"url": "http://a/b"}, "segment_duration": 3}, 422, "invalid_request"),
        ({"source": {"url": "http://a/b"}, "metadata": {"a": 1}}, 422, "invalid_request"),
        ({"source": {"url": "http://a/b"}, "model": "none"}, 422, "model_unavailable"),
        ({"source": {"url": "http://a/b"}, "language": "xx"}, 422, "language_unsupported"),
        ({"source": {"url": "http://a/b"}, "diarize": True}, 422, "feature_unavailable"),
        ({"source": {"url": "ftp://a/b"}}, 422, "source_forbidden"),
        ([], 422, "invalid_request"),
    ],
)
async def test_an_unsupported_request_is_refused_with_its_code(served: Served, body: Any, status: int, code: str) -> None:
    problem(await served.http.post("/v1/jobs", json=body), status, code)
    assert (await served.http.get("/v1/jobs")).json() == {"jobs": [], "next_cursor": None}


async def test_a_full_queue_says_when_to_come_back(served: Served, sample: Path, tmp_path: Path) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    codes = []
    for _ in range(QUEUE_LIMIT + 9):
        with sample.open("rb") as file:
            response = await served.http.post("/v1/jobs", files={"file": file})
        codes.append(response.status_code)
    assert set(codes[:QUEUE_LIMIT]) == {202}
    body = problem(response, 429, "rate_limited")
    assert int(response.headers["retry-after"]) >= 1
    assert f"in {response.headers['retry-after']} s" in body["detail"]
    page = (await served.http.get("/v1/jobs", params={"limit": 100})).json()["jobs"]
    assert len(page) == codes.count(202)
    assert len(list((tmp_path / "artifacts/jobs").iterdir())) == len(page)
    waiting = [job["queue_position"] for job in page if job["phase"] == "queued"]
    assert waiting == list(range(QUEUE_LIMIT))[::-1]


async def test_a_malformed_body_is_refused(served: Served) -> None:
    post = served.http.post
    json = {"content-type": "application/json"}
    problem(await post("/v1/jobs", content=b"{", headers=json), 400, "malformed")
    problem(await post("/v1/jobs", content=b'"' + b"x" * (2 << 20), headers=json), 400, "malformed")
    problem(await post("/v1/jobs", content=b"RIFF"), 415, "unsupported_media")
    form = {"content-type": "multipart/form-data; boundary=b"}
    problem(await post("/v1/jobs", content=b"--b\r\n", headers=form), 400, "malformed")
    problem(await post("/v1/jobs", data={"model": "fake"}, files={"other": b"x"}), 422, "invalid_request")


async def test_a_refused_upload_leaves_nothing_in_storage(served: Served, sample: Path, tmp_path: Path) -> None:
    for fields in ({"model": "none"}, {"diarize": "true"}, {"unknown": "1"}, {"temperature": "hot"}):
        with sample.open("rb") as file:
            response = await served.http.post("/v1/jobs", files={"file": file}, data=fields)
        assert response.status_code == 422
    large = await served.http.post("/v1/jobs", files={"file": b"0" * (MAX_UPLOAD_BYTES + 1)})
    problem(large, 413, "source_too_large")
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=%D9%A1"])
async def test_a_listing_with_an_invalid_query_is_refused(served: Served, query: str) -> None:
    problem(await served.http.get(f"/v1/jobs?{query}"), 422, "invalid_request")


async def test_models_health_and_docs_are_there(served: Served) -> None:
    models = (await served.http.get("/v1/models")).json()["models"]
    assert [model["id"] for model in models] == ["fake", "second"]
    assert (await served.http.get("/healthz")).json()["status"] == "ok"
    assert (await served.http.get("/readyz")).json()["redis"] == "ok"
    assert (await served.http.get("/docs")).status_code == 200
    schema = (await served.http.get("/openapi.json")).json()
    taken = set(schema["paths"]["/v1/jobs"]["post"]["requestBody"]["content"])
    assert taken == {"application/json", "multipart/form-data", "application/octet-stream"}
    problem(await served.http.get("/v1/nothing"), 404, "not_found")
    problem(await served.http.put("/v1/jobs"), 405, "not_allowed")


async def test_a_client_that_has_all_events_gets_204(served: Served, sample: Path) -> None:
    job = await upload(served, sample)
    last = (await follow(served, job["id"]))[-1][0]
    response = await served.http.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": last})
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize("url", ["http://[::1", "http://[foo]/", "http://a:b/", "http://", "//a", "http://u:p@a/"])
async def test_an_invalid_url_is_refused(served: Served, url: str) -> None:
    problem(await served.http.post("/v1/jobs", json={"source": {"url": url}}), 422, "source_forbidden")


@pytest.mark.parametrize("metadata", ["[" * 100_000, '{"a": "\\ud800"}', "nothing", "[1]", '{"a": {"b": 1}}'])
async def test_invalid_metadata_is_refused(served: Served, sample: Path, metadata: str) -> None:
    with sample.open("rb") as file:
        response = await served.http.post("/v1/jobs", files={"file": file}, data={"metadata": metadata[:60_000]})
    problem(response, 422, "invalid_request")


async def test_every_route_authenticates(served: Served) -> None:
    """A request that must be refused is refused by every documented route but those of health."""
    paths = (await served.http.get("/openapi.json")).json()["paths"]
    routes = [(method, path) for path, methods in paths.items() for method in methods]
    assert len(routes) > 40
    answered = set()
    for method, path in routes:
        response = await served.http.request(method, re.sub(r"\{\w+\}", "x", path), headers={"Host": "evil.example"})
        if response.status_code != 403:
            answered.add(path)
    assert answered == {"/healthz", "/readyz"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "["},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_requests_of_other_hosts_and_origins_are_refused(served: Served, headers: dict[str, str]) -> None:
    problem(await served.http.get("/v1/jobs", headers=headers), 403, "forbidden")
    problem(await served.http.post("/v1/jobs", files={"file": b"x"}, headers=headers), 403, "forbidden")
    assert (await served.http.get("/v1/jobs")).json()["jobs"] == []


@pytest.mark.parametrize("headers", [{"Host": "localhost:80"}, {"Host": "[::1]:80"}, {"Origin": "http://LOCALHOST:3000"}])
async def test_every_name_of_this_machine_is_accepted(served: Served, headers: dict[str, str]) -> None:
    assert (await served.http.get("/v1/jobs", headers=headers)).status_code == 200


async def test_a_repeated_post_with_its_idempotency_key_makes_no_second_job(served: Served, sample: Path) -> None:
    key = {"Idempotency-Key": "k-1"}

    async def send(content: bytes, **fields: str) -> httpx.Response:
        return await served.http.post("/v1/jobs", files={"file": ("talk.flac", content)}, data=fields, headers=key)

    first, again = await send(sample.read_bytes()), await send(sample.read_bytes())
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    problem(await send(sample.read_bytes() + b"x"), 422, "key_reused")
    problem(await send(sample.read_bytes(), language="de"), 422, "key_reused")
    body = {"source": {"url": "http://127.0.0.1:9/a"}}
    problem(await served.http.post("/v1/jobs", json=body, headers=key), 422, "key_reused")
    assert len((await served.http.get("/v1/jobs")).json()["jobs"]) == 1


async def test_a_post_with_the_key_of_a_request_in_progress_is_a_conflict(
    served: Served, valkey: Valkey, sample: Path
) -> None:
    key = {"Idempotency-Key": "k-1"}
    half = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + sample.read_bytes()
        await half.wait()
        yield b"\r\n--b--\r\n"

    kind = {"content-type": "multipart/form-data; boundary=b"}
    first = asyncio.create_task(served.http.post("/v1/jobs", content=slowly(), headers={**key, **kind}))
    redis = connect(valkey.url)
    while not await redis.keys("*once*"):  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    await redis.aclose()
    second = await served.http.post("/v1/jobs", json={"source": {"url": "http://a/b"}}, headers=key)
    problem(second, 409, "conflict")
    half.set()
    assert (await first).status_code == 202


async def test_a_job_that_is_marked_as_deleted_is_gone(served: Served, sample: Path) -> None:
    job = await finished(served, (await upload(served, sample))["id"])
    path = f"/v1/jobs/{job['id']}"
    assert (await served.http.delete(path, params={"purge": "false"})).status_code == 204
    for rest in ("", "/events", "/transcript", "/artifacts/source"):
        problem(await served.http.get(path + rest), 410, "gone")
    problem(await served.http.delete(path, params={"purge": "false"}), 409, "conflict")
    assert (await served.http.get("/v1/jobs")).json()["jobs"] == []
    assert (await served.http.delete(path)).status_code == 204
    problem(await served.http.get(path), 404, "not_found")


async def test_metrics_are_in_the_format_of_prometheus(served: Served, sample: Path) -> None:
    await finished(served, (await upload(served, sample))["id"])
    response = await served.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = {f.name: f for f in text_string_to_metric_families(response.text)}
    ended = {s.labels["phase"]: s.value for s in found["murmur_jobs_ended"].samples if s.name.endswith("_total")}
    assert ended == {"completed": 1, "failed": 0, "cancelled": 0}
    waits = {s.labels["le"]: s.value for s in found["murmur_queue_wait_seconds"].samples if s.name.endswith("_bucket")}
    assert waits["+Inf"] == 1
    assert found["murmur_jobs_waiting"].samples[0].value == 0

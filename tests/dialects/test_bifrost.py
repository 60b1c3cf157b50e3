"""Bifrost's API: the request, table and objects of its documentation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.dialects.bifrost import PREFIX, BifrostError, BifrostJob
from serve_app.local.valkey import Valkey
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.dialects.contract import SCOPES, Contract, VendorApi
from tests.service.conftest import Served


async def by_file(http: httpx.AsyncClient, name: str, content: bytes, **options: Any) -> httpx.Response:
    data = {"model": "openai/whisper-1", **options}
    return await http.post(PREFIX, files={"file": (name, content)}, data=data)


def read(body: Any) -> tuple[str, str, str | None]:
    BifrostJob.model_validate(body)
    return body["id"], body["status"], body.get("result") and body["result"]["text"]


def code(answer: httpx.Response) -> str:
    body = BifrostError.model_validate(answer.json())
    assert (body.status_code, body.is_bifrost_error) == (answer.status_code, True)
    assert body.error.event_id == body.event_id != ""
    return body.error.code


class TestBifrost(Contract):
    api = VendorApi(
        name="bifrost",
        job=f"{PREFIX}/{{id}}",
        read=read,
        code=code,
        running=("pending", "processing"),
        completed="completed",
        failed="failed",
        by_file=by_file,
        codes={"unauthenticated": "invalid_api_key", "model_unavailable": "model_not_found"},
        statuses={"model": 404},
    )


@pytest.fixture
def sound(sample: Path) -> bytes:
    return sample.read_bytes()


async def ended(http: httpx.AsyncClient, made: httpx.Response) -> httpx.Response:
    assert made.status_code == 202, made.text
    async with asyncio.timeout(30):
        while (answer := await http.get(f"{PREFIX}/{made.json()['id']}")).status_code == 202:
            assert answer.json()["status"] in ("pending", "processing")
            await asyncio.sleep(0.05)
    return answer


async def test_the_example_of_bifrosts_documentation(served: Served, sound: bytes) -> None:
    options = {"language": "en", "prompt": "A talk.", "response_format": "json", "file_format": "flac", "stream": "false"}
    made = await by_file(served.http, "example-file", sound, fallbacks="openai/whisper-2", **options)
    assert made.json().keys() == {"id", "status", "created_at"}
    assert made.json()["status"] == "pending"
    answer = await ended(served.http, made)
    body = answer.json()
    assert answer.status_code == 200
    assert body.keys() == {"id", "status", "created_at", "completed_at", "expires_at", "status_code", "result"}
    assert (body["status"], body["status_code"]) == ("completed", 200)
    assert body["created_at"] < body["completed_at"] < body["expires_at"]
    assert body["result"]["extra_fields"] == {
        "provider": "openai",
        "model_requested": "openai/whisper-1",
        "request_type": "transcription",
        "model_used": "fake",
    }


async def test_streams_are_refused(served: Served, sound: bytes) -> None:
    answer = await by_file(served.http, "x", sound, stream="true")
    assert (answer.status_code, code(answer)) == (400, "malformed")
    assert answer.json()["error"]["param"] == "stream"
    assert served.app.artifacts.keys("jobs") == []


@pytest.mark.parametrize("format", ["json", "text", "srt", "verbose_json", "vtt"])
async def test_results_have_the_requested_format(served: Served, sound: bytes, format: str) -> None:
    result = (await ended(served.http, await by_file(served.http, "x", sound, response_format=format))).json()["result"]
    if format in ("json", "verbose_json"):
        assert result["text"]
        assert ("segments" in result) == (format == "verbose_json")
        return
    assert isinstance(result, str)
    if format == "text":
        assert (" " in result, "\n" in result) == (True, False)
        return
    assert result.startswith({"srt": "1\n00:00:00,", "vtt": "WEBVTT\n\n00:00:00."}[format])


@pytest.mark.parametrize(("option", "value", "field"), [("language", "de", "language"), ("prompt", "Alix", "prompt")])
async def test_options_reach_the_decoder(served: Served, sound: bytes, option: str, value: str, field: str) -> None:
    job = await served.app.store.jobs.get((await by_file(served.http, "x", sound, **{option: value})).json()["id"])
    assert job
    assert getattr(job.spec, field) == value


@pytest.mark.parametrize("model", ["whisper-1", "openai/", "/whisper-1", ""])
async def test_a_model_must_name_its_provider(served: Served, sound: bytes, model: str) -> None:
    answer = await by_file(served.http, "x", sound, model=model)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")
    assert "model" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "fallbacks", [["acme/nothing", "openai/second"], ["acme/nothing, openai/second"], ['["acme/nothing", "openai/second"]']]
)
async def test_fallbacks_are_tried_in_order_where_a_model_fails(served: Served, sound: bytes, fallbacks: list[str]) -> None:
    served.app.stages.broken = {"fake"}
    answer = await ended(served.http, await by_file(served.http, "x", sound, fallbacks=fallbacks))
    assert answer.json()["result"]["extra_fields"]["model_used"] == "second"
    assert answer.headers["x-bf-model-used"] == "second"
    assert list(dict.fromkeys(served.app.stages.used)) == ["fake", "second"]


async def test_fallbacks_are_tried_where_a_model_does_not_exist(served: Served, sound: bytes) -> None:
    options = {"model": "acme/nothing", "fallbacks": "openai/second", "response_format": "vtt"}
    answer = await ended(served.http, await by_file(served.http, "x", sound, **options))
    assert answer.headers["x-bf-model-used"] == "second"


async def test_a_failed_job_has_a_complete_error(served: Served) -> None:
    answer = await ended(served.http, await by_file(served.http, "x", b"no sound", model="acme/whisper-1"))
    body = answer.json()
    assert (answer.status_code, body["status"], body["status_code"]) == (200, "failed", 400)
    error = BifrostError.model_validate(body["error"])
    assert (error.error.code, error.extra_fields.provider, error.extra_fields.model_requested) == (
        "unsupported_media",
        "acme",
        "acme/whisper-1",
    )


async def test_results_expire(served: Served, sound: bytes) -> None:
    headers = {"x-bf-async-job-result-ttl": "3"}
    served.http.headers.update(headers)
    made = await by_file(served.http, "x", sound)
    body = (await ended(served.http, made)).json()
    assert body["status"] == "completed"
    async with asyncio.timeout(30):
        while (answer := await served.http.get(f"{PREFIX}/{body['id']}")).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert (answer.status_code, code(answer)) == (404, "not_found")
    async with asyncio.timeout(30):
        while served.app.artifacts.keys("jobs"):  # noqa: ASYNC110 - the sweeper has no event
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("ttl", ["0", "x", "-1"])
async def test_a_time_to_live_is_a_number_of_seconds(served: Served, sound: bytes, ttl: str) -> None:
    served.http.headers["x-bf-async-job-result-ttl"] = ttl
    answer = await by_file(served.http, "x", sound)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


async def test_results_are_kept_for_an_hour(served: Served, sound: bytes) -> None:
    job = await served.app.store.jobs.get((await by_file(served.http, "x", sound)).json()["id"])
    assert job
    assert job.spec.result_ttl_s == 3600


async def test_the_key_may_come_in_bifrosts_own_header(served: Served, valkey: Valkey, sound: bytes) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    mine, theirs = await keys.create("a", "t", SCOPES), await keys.create("b", "t", SCOPES)
    served.http.headers["x-bf-vk"] = mine
    job_id = (await by_file(served.http, "x", sound)).json()["id"]
    assert (await served.http.get(f"{PREFIX}/{job_id}")).status_code in (200, 202)
    served.http.headers["x-bf-vk"] = theirs
    assert (await served.http.get(f"{PREFIX}/{job_id}")).status_code == 404
    await redis.aclose()


async def test_a_repeated_request_returns_the_job_as_it_is_now(served: Served, sound: bytes) -> None:
    served.http.headers["Idempotency-Key"] = "once"
    done = await ended(served.http, await by_file(served.http, "x", sound))
    assert (await by_file(served.http, "x", sound)).json() == done.json()


async def test_a_job_deleted_through_the_native_api_is_not_found(served: Served, sound: bytes) -> None:
    job_id = (await ended(served.http, await by_file(served.http, "x", sound))).json()["id"]
    assert (await served.http.delete(f"/v1/jobs/{job_id}", params={"purge": False})).status_code == 204
    answer = await served.http.get(f"{PREFIX}/{job_id}")
    assert (answer.status_code, code(answer)) == (404, "not_found")


async def test_its_own_key_header_takes_precedence(served: Served, valkey: Valkey, sound: bytes) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    served.http.headers.update({"x-bf-vk": await keys.create("a", "t", SCOPES), "Authorization": "Bearer dummy"})
    await redis.aclose()
    assert (await by_file(served.http, "x", sound, stream="", response_format="")).status_code == 202


async def test_the_operator_bounds_how_long_results_are_kept(served: Served, sample: Path) -> None:
    served.app.jobs.max_result_ttl_s = served.app.jobs._rules._max_result_ttl_s = 600
    made = await by_file(served.http, "talk.flac", sample.read_bytes())
    job = await served.app.store.jobs.get(made.json()["id"])
    assert job
    assert job.ttl_s == 600  # Bifrost's own default is longer
    served.http.headers["x-bf-async-job-result-ttl"] = "601"
    refused = await by_file(served.http, "talk.flac", sample.read_bytes())
    assert refused.status_code == 400
    assert "600 s at most" in refused.json()["error"]["message"]

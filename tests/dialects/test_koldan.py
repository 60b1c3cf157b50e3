"""Koldan's API: the requests, tables and states of its documentation."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import BaseModel

from deployments.errors import CorruptMedia, EngineFailed, WorkError
from serve_app.dialects.koldan.routes import PREFIX
from serve_app.dialects.koldan.translate import CODES, from_job, render
from serve_app.dialects.koldan.wire_responses import (
    KoldanError,
    KoldanJob,
    KoldanJobList,
    KoldanJobWithResult,
    KoldanResult,
    KoldanUpload,
)
from serve_app.errors import STATUS
from serve_app.local.valkey import Valkey
from serve_app.models.job import SummaryState
from serve_app.models.principal import SCOPES as EVERY_SCOPE
from serve_app.models.principal import TENANT_READ
from serve_app.models.storage_paths import summary_key
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.dialects.contract import Contract, VendorApi
from tests.lib.app import ME
from tests.lib.media import decode_at_once, side_by_side
from tests.lib.web_server import WebServer, answer
from tests.service.conftest import Served

OPTIONS = {"model": "whisper-1", "language": {}}
TRANSCRIPTION = json.dumps(OPTIONS)


def assert_matches(model: type[BaseModel], body: Any) -> None:
    """Check that a response has all fields of its model, and no others."""
    assert model.model_validate(body).model_dump(by_alias=True, exclude_unset=True) == body


def _parts(options: dict[str, Any]) -> dict[str, Any]:
    """Form fields of an upload; `model` and `language` go into `transcription`."""
    transcription = dict(OPTIONS)
    if model := options.pop("model", None):
        transcription["model"] = model
    if language := options.pop("language", None):
        transcription["language"] = {"defaultLanguageCode": language}
    return {"name": "a talk", "transcription": json.dumps(transcription), **options}


async def by_file(http: httpx.AsyncClient, name: str, content: bytes, **options: Any) -> httpx.Response:
    return await http.post(f"{PREFIX}/upload", files={"file": (name, content)}, data=_parts(options))


async def by_url(http: httpx.AsyncClient, url: str, **options: Any) -> httpx.Response:
    parts = {name: (None, value) for name, value in {"uri": url, **_parts(options)}.items()}
    return await http.post(f"{PREFIX}/upload", files=parts)


def read(body: Any) -> tuple[str, str, str | None]:
    if "job" in body:
        assert_matches(KoldanUpload, body)
    else:
        assert_matches(KoldanJobWithResult if "result" in body else KoldanJob, body)
    job = body.get("job", body)
    return job["id"], job["status"], (job.get("result") or {}).get("text")


def code(answer: httpx.Response) -> str:
    body = answer.json()
    assert_matches(KoldanError, body)
    assert body["status"] == answer.status_code
    return str(body["code"]).lower()


class TestKoldan(Contract):
    api = VendorApi(
        name="koldan",
        job=f"{PREFIX}/{{id}}",
        read=read,
        code=code,
        running=("PENDING", "IN_PROGRESS"),
        completed="COMPLETED",
        failed="FAILED",
        by_url=by_url,
        by_file=by_file,
        cancel=("POST", f"{PREFIX}/{{id}}/cancel"),
        submitted_status=201,
        scopes=tuple(scope for scope in EVERY_SCOPE if scope != TENANT_READ),
    )


@pytest.fixture
async def http(served: Served, valkey: Valkey) -> AsyncIterator[httpx.AsyncClient]:
    """Client with a key of the test app's owner that has all scopes but admin."""
    keys = ApiKeys(redis := connect(valkey.url))
    key = await keys.create(ME.owner, ME.tenant, [scope for scope in EVERY_SCOPE if scope != "admin"])
    served.http.headers["X-API-Key"] = key
    yield served.http
    await redis.aclose()


async def made(http: httpx.AsyncClient, sample: Path, **options: Any) -> Any:
    """Upload the sample, and return its job."""
    response = await by_file(http, "meeting.flac", sample.read_bytes(), **options)
    assert response.status_code == 201, response.text
    return response.json()["job"]


async def ended(served: Served, job_id: str) -> Any:
    """Wait for the end of a job, and return it."""
    await served.app.ended(job_id)
    return (await served.http.get(f"{PREFIX}/{job_id}")).json()


# Uploads and creates.


async def test_the_upload_of_koldans_documentation(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    data = {
        "name": "meeting-recording",
        "description": "A meeting.",
        "path": "/meetings/2026/",
        "metadata": '{"room": "blue", "people": 4}',
        "tags": '["weekly", "sales"]',
        "generateListeningAudio": "false",
        "transcription": '{"model":"whisper-1","language":{"defaultLanguageCode":"en-US"}}',
        "diarization": '{"enabled":false}',
        "webhook": '{"url": "https://example.com/x", "secret": "whsec_abc123", "headers": {"X-Custom-Header": "my-value"}}',
    }
    response = await http.post(f"{PREFIX}/upload", files={"file": ("m.flac", sample.read_bytes())}, data=data)
    assert response.status_code == 201, response.text
    body = response.json()
    assert_matches(KoldanUpload, body)
    file, job = body["file"], body["job"]
    assert job["file"] == file
    assert (job["status"], job["isDeleted"], job["isPurged"], job["completionDate"]) == ("PENDING", False, False, None)
    assert job["transcription"] == {
        "model": "whisper-1",
        "language": {"defaultLanguageCode": "en-US"},
        "punctuation": True,
        "capitalization": True,
    }
    assert job["diarization"]["enabled"] is False
    assert job["webhook"] == {"url": "https://example.com/x", "headers": {"X-Custom-Header": "my-value"}}
    assert (file["name"], file["description"], file["path"]) == ("meeting-recording", "A meeting.", "/meetings/2026/")
    assert (file["metadata"], file["tags"]) == ({"room": "blue", "people": 4}, ["weekly", "sales"])
    assert (file["fileName"], file["size"]) == ("m.flac", sample.stat().st_size)
    done = await ended(served, job["id"])
    assert done["status"] == "COMPLETED"
    assert done["creationDate"] < done["completionDate"] < done["purgeAt"]
    assert (done["result"]["detectedLanguages"], round(done["result"]["duration"])) == (["en"], 57)
    assert 0 <= done["result"]["confidence"] <= 1
    assert set(done["result"]["segments"][0]) == {
        "start",
        "end",
        "text",
        "confidence",
        "language",
        "speaker",
        "channel",
        "words",
    }


async def test_several_jobs_can_share_a_file(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    first = await made(http, sample)
    request = {
        "fileId": first["file"]["id"],
        "transcription": {**OPTIONS, "punctuation": True},
        "diarization": {"enabled": False},
    }
    response = await http.post(PREFIX, json=request)
    assert response.status_code == 201, response.text
    second = response.json()
    assert_matches(KoldanJob, second)
    assert (second["status"], second["file"]) == ("PENDING", first["file"])
    texts = [(await ended(served, job["id"]))["result"]["text"] for job in (first, second)]
    assert texts[0] == texts[1] != ""
    for job in (first, second):
        assert (await http.delete(f"{PREFIX}/{job['id']}", params={"purge": True})).status_code == 204
    assert served.app.artifacts.keys("files") == []
    gone = await http.post(PREFIX, json=request)
    assert (gone.status_code, code(gone)) == (422, "file_unusable")


async def test_a_file_whose_record_is_gone_has_only_its_id(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    job = await served.app.jobs.get(ME, (await made(http, sample))["id"])
    body = from_job(replace(job, file=None))
    assert_matches(KoldanJob, body)
    assert body["file"] == {"id": job.spec.file, "isDeleted": True}


async def test_an_import_cannot_be_used_before_it_is_complete(
    http: httpx.AsyncClient, served: Served, site: WebServer
) -> None:
    job = (await by_url(http, site.url("/silent"))).json()["job"]
    request = {"fileId": job["file"]["id"], "transcription": OPTIONS}
    response = await http.post(PREFIX, json=request)
    assert (response.status_code, code(response)) == (422, "file_unusable")
    await http.post(f"{PREFIX}/{job['id']}/cancel")
    job = (await by_url(http, site.url("/talk.flac"))).json()["job"]
    done = await ended(served, job["id"])
    assert done["file"]["uri"] == site.url("/talk.flac")
    assert done["file"]["size"]
    request = {"fileId": job["file"]["id"], "transcription": OPTIONS}
    assert (await http.post(PREFIX, json=request)).status_code == 201


async def test_only_its_owner_can_use_a_file(http: httpx.AsyncClient, served: Served, valkey: Valkey, sample: Path) -> None:
    file_id = (await made(http, sample))["file"]["id"]
    keys = ApiKeys(redis := connect(valkey.url))
    other = await keys.create("mallory", "t", EVERY_SCOPE)
    await redis.aclose()
    for key, requested in ((other, file_id), (http.headers["X-API-Key"], str(uuid4()))):
        response = await http.post(PREFIX, json={"fileId": requested, "transcription": OPTIONS}, headers={"X-API-Key": key})
        assert (response.status_code, code(response)) == (404, "not_found")


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"transcription": "{"}, "transcription"),
        ({"transcription": "{}"}, "transcription"),
        ({"transcription": '{"model": "whisper-1"}'}, "language"),
        ({"name": ""}, "name"),
        ({"path": "meetings"}, "path"),
        ({"metadata": "[]"}, "metadata"),
        ({"metadata": '{"a":' * 40 + "1" + "}" * 40}, "metadata"),
        ({"metadata": '{"a":' * 300 + "1" + "}" * 300}, "metadata"),
        ({"tags": "{}"}, "tags"),
        ({"diarization": "{}"}, "diarization"),
        ({"diarization": '{"enabled": true}'}, "diarize"),
        ({"diarization": '{"enabled": true, "mode": "OTHER"}'}, "mode"),
        ({"webhook": '{"url": "http://example.com"}'}, "webhook"),
        ({"webhook": '{"url": "https://a.b", "headers": {"Host": "x"}}'}, "Host"),
        ({"webhook": '{"url": "https://a.b", "headers": {"A": "b\\r\\nC: d"}}'}, "headers"),
        ({"uri": "https://example.com/a.mp3"}, "uri"),
        ({"summary": '{"promptTemplateId": "x"}'}, "summary"),
        ({"other": "x"}, "other"),
    ],
)
async def test_the_error_of_a_bad_upload_names_the_field(
    http: httpx.AsyncClient, served: Served, sample: Path, parts: dict[str, str], named: str
) -> None:
    data = {"name": "x", "transcription": TRANSCRIPTION, **parts}
    response = await http.post(f"{PREFIX}/upload", files={"file": ("x", sample.read_bytes())}, data=data)
    assert response.status_code == 400, response.text
    assert named in response.json()["message"]
    assert code(response)
    assert served.app.artifacts.keys("jobs") + served.app.artifacts.keys("files") == []


async def test_an_upload_needs_a_file_or_a_uri(http: httpx.AsyncClient) -> None:
    response = await http.post(f"{PREFIX}/upload", files={"name": (None, "x"), "transcription": (None, TRANSCRIPTION)})
    assert (response.status_code, code(response)) == (400, "malformed")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "", "speech:transcriptions:read"),
        ("GET", "/x", "speech:transcriptions:read"),
        ("GET", "/x/result", "speech:transcriptions:read"),
        ("POST", "/upload", "speech:files:write"),
        ("POST", "/upload", "speech:transcriptions:write"),
        ("POST", "", "speech:transcriptions:write"),
        ("PUT", "/x/webhook", "speech:transcriptions:write"),
        ("DELETE", "/x/webhook", "speech:transcriptions:write"),
        ("POST", "/x/cancel", "speech:transcriptions:write"),
        ("DELETE", "/x", "speech:transcriptions:delete"),
        ("POST", "/x/purge", "speech:transcriptions:delete"),
    ],
)
async def test_each_route_requires_the_documented_scope(
    served: Served, valkey: Valkey, method: str, path: str, scope: str
) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    rest = await keys.create("me", "t", [other for other in EVERY_SCOPE if other not in (scope, "admin")])
    await redis.aclose()
    response = await served.http.request(method, PREFIX + path, headers={"X-API-Key": rest})
    assert (response.status_code, code(response)) == (403, "forbidden")
    assert scope in response.json()["message"]
    response = await served.http.request(method, PREFIX + path, headers={"X-API-Key": "wrong"})
    assert response.status_code == 401


async def test_a_summary_requires_its_own_scope(served: Served, valkey: Valkey, sample: Path) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    served.http.headers["X-API-Key"] = await keys.create("me", "t", ["speech:files:write", "speech:transcriptions:write"])
    await redis.aclose()
    response = await by_file(served.http, "x", sample.read_bytes(), summary='{"promptTemplateId": "x"}')
    assert (response.status_code, code(response)) == (403, "forbidden")


# Options.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "Well, hello Anna-Lena: it's 5.30!"),
        ({"punctuation": False}, "Well hello Anna-Lena it's 5.30"),
        ({"capitalization": False}, "well, hello anna-lena: it's 5.30!"),
        ({"punctuation": False, "capitalization": False}, "well hello anna-lena it's 5.30"),
    ],
)
async def test_punctuation_and_capitalization_can_be_turned_off(
    http: httpx.AsyncClient, served: Served, sample: Path, monkeypatch: pytest.MonkeyPatch, options: Any, text: str
) -> None:
    transcribe = served.app.stages.decoding_to(["Well,", "hello", "Anna-Lena:", "it's", "5.30!"])
    monkeypatch.setattr(served.app.stages, "transcribe", transcribe)
    data = {"name": "x", "transcription": json.dumps({**OPTIONS, **options})}
    job = (await http.post(f"{PREFIX}/upload", files={"file": ("x", sample.read_bytes())}, data=data)).json()["job"]
    result = (await ended(served, job["id"]))["result"]
    assert result["segments"][0]["text"] == text
    words = result["segments"][0]["words"]
    assert [word["word"] for word in words] == ["well", "hello", "anna-lena", "it's", "5.30"]
    marks = [None] * 5 if options.get("punctuation") is False else [",", None, ":", None, "!"]
    assert [word["punctuation"] for word in words] == marks
    forms = [None] * 5 if options.get("capitalization") is False else ["Well", "hello", "Anna-Lena", "it's", "5.30"]
    assert [word["capitalization"] for word in words] == forms
    assert set(words[0]) == {"word", "start", "end", "confidence", "punctuation", "capitalization"}


async def test_channels_are_transcribed_separately(
    http: httpx.AsyncClient, served: Served, sample: Path, ffmpeg: str
) -> None:
    pcm = decode_at_once(ffmpeg, sample)
    half = len(pcm) // 4 * 2
    mapping = [{"channel": 0, "label": "Agent"}]
    diarization = json.dumps({"enabled": True, "mode": "CHANNEL", "channelMapping": mapping})
    job = (await by_file(http, "call.wav", side_by_side(pcm[:half], pcm[half:]), diarization=diarization)).json()["job"]
    done = await ended(served, job["id"])
    assert done["status"] == "COMPLETED", done["errors"]
    assert_matches(KoldanJobWithResult, done)
    assert done["diarization"] == {"enabled": True, "mode": "CHANNEL", "channelMapping": mapping}
    segments = done["result"]["segments"]
    assert {(segment["channel"], segment["speaker"]) for segment in segments} == {(0, "Agent"), (1, "SPEAKER_01")}
    assert [s["start"] for s in segments] == sorted(s["start"] for s in segments)


async def test_an_mp3_copy_is_made_unless_it_is_turned_off(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    for listening in (True, False):
        job = (await by_file(http, "x", sample.read_bytes(), generateListeningAudio=str(listening).lower())).json()["job"]
        assert job["file"]["listeningAudioUrl"] is None
        url = (await ended(served, job["id"]))["file"]["listeningAudioUrl"]
        assert bool(url) == listening
        if url:
            response = await http.get(url)
            assert (response.status_code, response.headers["content-type"]) == (200, "audio/mpeg")
            assert len(response.content) > 100_000


# Lists.


async def test_lists_filter_sort_and_count(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    ids = [(await made(http, sample))["id"] for _ in range(4)]
    for job_id in ids:
        await ended(served, job_id)
    ids.append((await by_file(http, "x", b"no sound")).json()["job"]["id"])
    await ended(served, ids[4])
    await http.delete(f"{PREFIX}/{ids[0]}")
    await http.delete(f"{PREFIX}/{ids[1]}", params={"purge": "true"})

    async def listed(**query: Any) -> list[int]:
        response = await http.get(PREFIX, params=query)
        assert response.status_code == 200, response.text
        body = response.json()
        assert_matches(KoldanJobList, body)
        assert body["size"] == len(body["jobs"])
        assert all("result" not in job for job in body["jobs"])
        assert body["total"] >= body["size"]
        return [ids.index(job["id"]) for job in body["jobs"]]

    assert await listed() == [4, 3, 2]
    assert await listed(sort="creationDate,asc") == [2, 3, 4]
    assert await listed(status="COMPLETED") == [3, 2]
    assert await listed(status="FAILED,COMPLETED") == [4, 3, 2]
    assert await listed(sort="status,asc") == [2, 3, 4]
    assert await listed(sort="status,desc") == [4, 3, 2]
    assert await listed(sort="status,asc", size=1, page=1) == [3]
    assert await listed(isDeleted=True) == [1, 0]
    assert await listed(isDeleted=True, isPurged=False) == [0]
    assert await listed(isPurged=True, isDeleted=True) == [1]
    assert await listed(isPurged=True) == []
    assert await listed(size=2, page=0) == [4, 3]
    assert await listed(size=2, page=1) == [2]
    assert await listed(size=2, page=7) == []
    jobs = [(await http.get(f"{PREFIX}/{job_id}")).json() for job_id in ids]
    assert await listed(createdAfter=jobs[3]["creationDate"]) == [4, 3]
    assert await listed(createdBefore=jobs[3]["creationDate"]) == [3, 2]
    assert await listed(completedBefore=jobs[2]["completionDate"]) == [
        i for i in (4, 3, 2) if jobs[i]["completionDate"] <= jobs[2]["completionDate"]
    ]
    by_end = sorted((2, 3, 4), key=lambda i: jobs[i]["completionDate"])
    assert await listed(sort="completionDate,asc") == by_end
    assert await listed(sort="completionDate,desc") == by_end[::-1]
    assert await listed(fileId=jobs[3]["file"]["id"]) == [3]
    assert await listed(fileId=str(uuid4())) == []
    body = (await http.get(PREFIX, params={"status": "FAILED", "size": 1})).json()
    assert (body["size"], body["total"], body["filters"]["status"]) == (1, 1, ["FAILED"])
    assert body["sort"] == {"field": "creationDate", "direction": "desc"}


@pytest.mark.parametrize(
    "query",
    [
        {"sort": "name,asc"},
        {"sort": "creationDate,up"},
        {"status": "DONE"},
        {"size": 0},
        {"size": 101},
        {"page": -1},
        {"createdAfter": "yesterday"},
        {"isDeleted": "perhaps"},
        {"fileId": "x"},
    ],
)
async def test_a_bad_query_is_a_400_that_names_the_parameter(http: httpx.AsyncClient, query: dict[str, Any]) -> None:
    response = await http.get(PREFIX, params=query)
    assert (response.status_code, code(response)) == (400, "invalid_request")
    assert next(iter(query)) in response.json()["message"]


async def test_a_list_by_file_requires_a_second_scope(served: Served, valkey: Valkey) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    key = await keys.create("me", "t", ["speech:transcriptions:read"])
    await redis.aclose()
    response = await served.http.get(PREFIX, params={"fileId": str(uuid4())}, headers={"X-API-Key": key})
    assert (response.status_code, code(response)) == (403, "forbidden")


# Failures.


@pytest.mark.parametrize("core_code", CODES)
def test_every_error_code_maps_to_a_documented_one(core_code: str) -> None:
    assert core_code in STATUS
    assert CODES[core_code] in {
        "TRANSCRIPTION_FAILED",
        "DIARIZATION_FAILED",
        "UNSUPPORTED_FORMAT",
        "FILE_CORRUPTED",
        "FILE_NOT_FOUND",
        "EMPTY_AUDIO",
        "DURATION_EXCEEDED",
        "QUOTA_EXCEEDED",
        "LANGUAGE_NOT_SUPPORTED",
        "MODEL_UNAVAILABLE",
    }


@pytest.mark.parametrize(
    ("problem", "expected"),
    [(CorruptMedia("It is damaged."), "FILE_CORRUPTED"), (RuntimeError("boom"), "INTERNAL_ERROR")],
)
async def test_a_failed_job_has_koldans_error_code(
    http: httpx.AsyncClient, served: Served, sample: Path, problem: Exception, expected: str
) -> None:
    served.app.stages.trouble = lambda _: problem
    job = await made(http, sample)
    stored = await served.app.jobs.get(ME, job["id"])
    assert stored.spec.max_attempts == 3
    done = await ended(served, job["id"])
    assert (done["status"], done["errorCode"], done["result"]) == ("FAILED", expected, None)
    assert [set(error) for error in done["errors"]] == [{"code", "message", "timestamp"}]
    assert done["errors"][0]["code"] == expected
    if isinstance(problem, WorkError):
        assert done["errors"][0]["message"] == problem.message
    assert (await http.get(f"{PREFIX}/{job['id']}/result")).status_code == 404


# Webhooks.


async def test_a_webhook_can_be_set_changed_and_removed(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    job = await made(http, sample)
    at = f"{PREFIX}/{job['id']}/webhook"
    hook = {"url": "https://example.com/a", "secret": "whsec_abc123", "headers": {"X-Custom-Header": "my-value"}}
    response = await http.put(at, json=hook)
    assert_matches(KoldanJob, response.json())
    assert (response.status_code, response.json()["webhook"]) == (200, {k: hook[k] for k in ("url", "headers")})
    assert "whsec_abc123" not in response.text
    assert (await http.put(at, json={"url": "https://example.com/b"})).json()["webhook"]["url"].endswith("/b")
    assert (await http.put(at, json={"url": "http://example.com/b"})).status_code == 400
    assert (await http.delete(at)).status_code == 204
    assert (await http.get(f"{PREFIX}/{job['id']}")).json()["webhook"] is None
    assert (await http.put(at, json=hook)).status_code == 200
    for _ in range(50):
        served.app.stages.gate.release()
    await ended(served, job["id"])
    for response in (await http.put(at, json=hook), await http.delete(at)):
        assert (response.status_code, code(response)) == (409, "conflict")
    assert (await http.put(f"{PREFIX}/{uuid4()}/webhook", json=hook)).status_code == 404
    stored = await served.app.jobs.get(ME, job["id"])
    payload = await render(stored, served.app.jobs.results)
    assert json.loads(payload.body)["status"] == "COMPLETED"
    assert "result" not in json.loads(payload.body)
    assert payload.headers["X-Custom-Header"] == "my-value"
    signature = hmac.new(b"whsec_abc123", payload.body, hashlib.sha256).hexdigest()
    assert payload.headers["X-Webhook-Signature"] == f"sha256={signature}"


# Results.


async def test_results_are_available_as_json_only(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    job = await made(http, sample)
    done = await ended(served, job["id"])
    at = f"{PREFIX}/{job['id']}/result"
    assert_matches(KoldanResult, (await http.get(at)).json())
    assert (await http.get(at)).json() == (await http.get(at, params={"format": "json"})).json() == done["result"]
    response = await http.get(at, params={"format": "srt"})
    assert (response.status_code, code(response)) == (400, "invalid_request")


async def test_results_expire_and_the_record_stays(http: httpx.AsyncClient, served: Served, site: WebServer) -> None:
    site.replies["/none"] = answer(404)
    job = (await by_url(http, site.url("/talk.flac"))).json()["job"]
    await ended(served, job["id"])
    redis = served.app.store._redis
    await redis.zadd("murmur:{q}:expiry", {job["id"]: 1})
    async with asyncio.timeout(30):
        while not (body := (await http.get(f"{PREFIX}/{job['id']}")).json())["isPurged"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (body["status"], body["isDeleted"], body["result"], body["purgeAt"]) == ("COMPLETED", True, None, None)
    assert body["purgedAt"] >= body["completionDate"]
    assert body["file"]["isDeleted"]
    assert (await http.get(f"{PREFIX}/{job['id']}/result")).status_code == 410
    assert served.app.artifacts.keys("jobs") + served.app.artifacts.keys("files") == []


async def test_an_engine_failure_is_a_transcription_failure(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    served.app.stages.trouble = lambda _: EngineFailed("The model stumbled.")
    job = await made(http, sample)
    assert (await ended(served, job["id"]))["errorCode"] == "TRANSCRIPTION_FAILED"


async def test_a_summary_is_part_of_the_job(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    response = await by_file(http, "x", sample.read_bytes(), summary='{"promptTemplateId": "brief"}')
    assert response.status_code == 201, response.text
    first, job_id = response.json()["summary"], response.json()["job"]["id"]
    assert (first["status"], first["promptTemplateId"], first["text"]) == ("PENDING", "brief", None)
    assert (await ended(served, job_id))["summary"]["status"] == "IN_PROGRESS"
    served.app.artifacts.put(summary_key(job_id), b"They spoke.")
    await served.app.store.summaries.note(job_id, SummaryState.COMPLETED)
    body = (await http.get(f"{PREFIX}/{job_id}")).json()
    assert_matches(KoldanJobWithResult, body)
    assert body["summary"] == {**first, "status": "COMPLETED", "text": "They spoke."}
    response = await by_file(http, "x", b"no sound", summary='{"promptTemplateId": "brief"}')
    last = (await ended(served, response.json()["job"]["id"]))["summary"]
    assert (last["status"], last["error"]) == ("FAILED", "There is no transcript to summarise.")


async def test_null_means_absent(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    options = {**OPTIONS, "punctuation": None, "capitalization": None, "language": {"defaultLanguageCode": None}}
    nulls = dict.fromkeys(("metadata", "tags", "webhook", "summary"), "null")
    data = {"name": "x", "transcription": json.dumps(options), "diarization": '{"enabled": false, "mode": null}', **nulls}
    response = await http.post(f"{PREFIX}/upload", files={"file": ("x", sample.read_bytes())}, data=data)
    assert response.status_code == 201, response.text
    request = {"fileId": response.json()["file"]["id"], "transcription": options, "diarization": None, "webhook": None}
    assert (await http.post(PREFIX, json=request)).status_code == 201


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.9999999Z"])
async def test_a_time_beyond_all_jobs_filters_nothing(http: httpx.AsyncClient, sample: Path, at: str) -> None:
    await made(http, sample)
    bound = "createdAfter" if at.startswith("0") else "createdBefore"
    response = await http.get(PREFIX, params={bound: at})
    assert (response.status_code, response.json()["total"]) == (200, 1)


async def test_an_idempotency_key_covers_the_files_attributes(http: httpx.AsyncClient, sample: Path) -> None:
    http.headers["Idempotency-Key"] = "once"
    first = await by_file(http, "x", sample.read_bytes())
    assert (await by_file(http, "x", sample.read_bytes())).json()["job"]["id"] == first.json()["job"]["id"]
    other = await by_file(http, "x", sample.read_bytes(), tags='["new"]')
    assert (other.status_code, code(other)) == (400, "key_reused")

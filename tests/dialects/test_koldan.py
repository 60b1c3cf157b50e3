"""Koldan's dialect: its documents' requests, tables and states."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from deployments.errors import CorruptMedia, EngineFailed, WorkError
from serve_app.dialects.koldan.routes import CODES, PREFIX, render
from serve_app.errors import STATUS
from serve_app.local.valkey import Valkey
from serve_app.models.job import SummaryState
from serve_app.models.principal import SCOPES as EVERY_SCOPE
from serve_app.models.storage_paths import summary_key
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.dialects.contract import Contract, Spoken
from tests.lib.app import ME
from tests.lib.media import decode_at_once, side_by_side
from tests.lib.web_server import WebServer, answer
from tests.service.conftest import Served

ASKED = {"model": "whisper-1", "language": {}}
TRANSCRIPTION = json.dumps(ASKED)
ENDS = ("COMPLETED", "FAILED", "CANCELLED")
JOB = {
    "id",
    "status",
    "isDeleted",
    "isPurged",
    "creationDate",
    "completionDate",
    "deletedAt",
    "purgedAt",
    "purgeAt",
    "file",
    "transcription",
    "diarization",
    "errorCode",
    "errors",
    "webhook",
}


def _parts(options: dict[str, Any]) -> dict[str, Any]:
    """The parts of an upload; `model` and `language` go where Koldan has them."""
    transcription = dict(ASKED)
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
    job = body.get("job", body)
    assert set(job) - {"result"} == JOB
    return job["id"], job["status"], (job.get("result") or {}).get("text")


def code(answer: httpx.Response) -> str:
    body = answer.json()
    assert set(body) == {"timestamp", "status", "code", "message"}
    assert body["status"] == answer.status_code
    return str(body["code"]).lower()


class TestKoldan(Contract):
    spoken = Spoken(
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
        made=201,
        scopes=EVERY_SCOPE,
    )


@pytest.fixture
async def http(served: Served, valkey: Valkey) -> AsyncIterator[httpx.AsyncClient]:
    """With a key of the house's owner that may do everything but administer."""
    keys = ApiKeys(redis := connect(valkey.url))
    key = await keys.create(ME.owner, ME.tenant, [scope for scope in EVERY_SCOPE if scope != "admin"])
    served.http.headers["X-API-Key"] = key
    yield served.http
    await redis.aclose()


async def made(http: httpx.AsyncClient, sample: Path, **options: Any) -> Any:
    """A job of the sample."""
    told = await by_file(http, "meeting.flac", sample.read_bytes(), **options)
    assert told.status_code == 201, told.text
    return told.json()["job"]


async def ended(served: Served, job_id: str) -> Any:
    """The job at its end."""
    await served.app.ended(job_id)
    return (await served.http.get(f"{PREFIX}/{job_id}")).json()


# Uploads and creates.


async def test_the_documents_upload(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
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
    told = await http.post(f"{PREFIX}/upload", files={"file": ("m.flac", sample.read_bytes())}, data=data)
    assert told.status_code == 201, told.text
    body = told.json()
    assert set(body) == {"file", "job", "summary"}
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


async def test_a_file_is_good_for_several_jobs(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    first = await made(http, sample)
    asked = {
        "fileId": first["file"]["id"],
        "transcription": {**ASKED, "punctuation": True},
        "diarization": {"enabled": False},
    }
    told = await http.post(PREFIX, json=asked)
    assert told.status_code == 201, told.text
    second = told.json()
    assert (second["status"], second["file"]) == ("PENDING", first["file"])
    texts = [(await ended(served, job["id"]))["result"]["text"] for job in (first, second)]
    assert texts[0] == texts[1] != ""
    for job in (first, second):
        assert (await http.delete(f"{PREFIX}/{job['id']}", params={"purge": True})).status_code == 204
    assert served.app.artifacts.keys("files") == []
    gone = await http.post(PREFIX, json=asked)
    assert (gone.status_code, code(gone)) == (422, "file_unusable")


async def test_an_import_is_no_source_before_it_is_done(http: httpx.AsyncClient, served: Served, site: WebServer) -> None:
    job = (await by_url(http, site.url("/silent"))).json()["job"]
    asked = {"fileId": job["file"]["id"], "transcription": ASKED}
    told = await http.post(PREFIX, json=asked)
    assert (told.status_code, code(told)) == (422, "file_unusable")
    await http.post(f"{PREFIX}/{job['id']}/cancel")
    job = (await by_url(http, site.url("/talk.flac"))).json()["job"]
    done = await ended(served, job["id"])
    assert done["file"]["uri"] == site.url("/talk.flac")
    assert done["file"]["size"]
    asked = {"fileId": job["file"]["id"], "transcription": ASKED}
    assert (await http.post(PREFIX, json=asked)).status_code == 201


async def test_a_file_is_its_owners(http: httpx.AsyncClient, served: Served, valkey: Valkey, sample: Path) -> None:
    file_id = (await made(http, sample))["file"]["id"]
    keys = ApiKeys(redis := connect(valkey.url))
    other = await keys.create("mallory", "t", EVERY_SCOPE)
    await redis.aclose()
    for key, asked in ((other, file_id), (http.headers["X-API-Key"], str(uuid4()))):
        told = await http.post(PREFIX, json={"fileId": asked, "transcription": ASKED}, headers={"X-API-Key": key})
        assert (told.status_code, code(told)) == (404, "not_found")


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
async def test_what_is_wrong_with_an_upload_is_named(
    http: httpx.AsyncClient, served: Served, sample: Path, parts: dict[str, str], named: str
) -> None:
    data = {"name": "x", "transcription": TRANSCRIPTION, **parts}
    told = await http.post(f"{PREFIX}/upload", files={"file": ("x", sample.read_bytes())}, data=data)
    assert told.status_code == 400, told.text
    assert named in told.json()["message"]
    assert code(told)
    assert served.app.artifacts.keys("jobs") + served.app.artifacts.keys("files") == []


async def test_either_a_file_or_a_uri_is_needed(http: httpx.AsyncClient) -> None:
    told = await http.post(f"{PREFIX}/upload", files={"name": (None, "x"), "transcription": (None, TRANSCRIPTION)})
    assert (told.status_code, code(told)) == (400, "malformed")


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
async def test_scopes_are_those_of_its_pages(served: Served, valkey: Valkey, method: str, path: str, scope: str) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    rest = await keys.create("me", "t", [each for each in EVERY_SCOPE if each not in (scope, "admin")])
    await redis.aclose()
    told = await served.http.request(method, PREFIX + path, headers={"X-API-Key": rest})
    assert (told.status_code, code(told)) == (403, "forbidden")
    assert scope in told.json()["message"]
    told = await served.http.request(method, PREFIX + path, headers={"X-API-Key": "wrong"})
    assert told.status_code == 401


async def test_a_summary_needs_its_scope(served: Served, valkey: Valkey, sample: Path) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    served.http.headers["X-API-Key"] = await keys.create("me", "t", ["speech:files:write", "speech:transcriptions:write"])
    await redis.aclose()
    told = await by_file(served.http, "x", sample.read_bytes(), summary='{"promptTemplateId": "x"}')
    assert (told.status_code, code(told)) == (403, "forbidden")


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
async def test_a_text_is_written_as_asked_for(
    http: httpx.AsyncClient, served: Served, sample: Path, monkeypatch: pytest.MonkeyPatch, options: Any, text: str
) -> None:
    said = ["Well,", "hello", "Anna-Lena:", "it's", "5.30!"]
    told = served.app.stages.decoding_to(said)
    monkeypatch.setattr(served.app.stages, "transcribe", told)
    data = {"name": "x", "transcription": json.dumps({**ASKED, **options})}
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


async def test_channels_are_heard_apart(http: httpx.AsyncClient, served: Served, sample: Path, ffmpeg: str) -> None:
    pcm = decode_at_once(ffmpeg, sample)
    half = len(pcm) // 4 * 2
    mapping = [{"channel": 0, "label": "Agent"}]
    diarization = json.dumps({"enabled": True, "mode": "CHANNEL", "channelMapping": mapping})
    job = (await by_file(http, "call.wav", side_by_side(pcm[:half], pcm[half:]), diarization=diarization)).json()["job"]
    done = await ended(served, job["id"])
    assert done["status"] == "COMPLETED", done["errors"]
    assert done["diarization"] == {"enabled": True, "mode": "CHANNEL", "channelMapping": mapping}
    segments = done["result"]["segments"]
    assert {(each["channel"], each["speaker"]) for each in segments} == {(0, "Agent"), (1, "SPEAKER_01")}
    assert [each["start"] for each in segments] == sorted(each["start"] for each in segments)


async def test_an_mp3_to_listen_to_is_made_unless_it_is_not_wanted(
    http: httpx.AsyncClient, served: Served, sample: Path
) -> None:
    for wanted in (True, False):
        job = (await by_file(http, "x", sample.read_bytes(), generateListeningAudio=str(wanted).lower())).json()["job"]
        assert job["file"]["listeningAudioUrl"] is None
        url = (await ended(served, job["id"]))["file"]["listeningAudioUrl"]
        assert bool(url) == wanted
        if url:
            told = await http.get(url)
            assert (told.status_code, told.headers["content-type"]) == (200, "audio/mpeg")
            assert len(told.content) > 100_000


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
        told = await http.get(PREFIX, params=query)
        assert told.status_code == 200, told.text
        body = told.json()
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
async def test_a_query_that_is_wrong_is_a_400(http: httpx.AsyncClient, query: dict[str, Any]) -> None:
    told = await http.get(PREFIX, params=query)
    assert (told.status_code, code(told)) == (400, "invalid_request")
    assert next(iter(query)) in told.json()["message"]


async def test_a_list_by_file_needs_a_scope_more(served: Served, valkey: Valkey) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    key = await keys.create("me", "t", ["speech:transcriptions:read"])
    await redis.aclose()
    told = await served.http.get(PREFIX, params={"fileId": str(uuid4())}, headers={"X-API-Key": key})
    assert (told.status_code, code(told)) == (403, "forbidden")


# Failures.


@pytest.mark.parametrize("own", CODES)
def test_every_code_is_one_of_ours_and_of_theirs(own: str) -> None:
    assert own in STATUS
    assert CODES[own] in {
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
async def test_a_failure_is_told_in_its_words(
    http: httpx.AsyncClient, served: Served, sample: Path, problem: Exception, expected: str
) -> None:
    served.app.stages.trouble = lambda _: problem
    job = await made(http, sample)
    found = await served.app.jobs.get(ME, job["id"])
    assert found.spec.max_attempts == 3
    done = await ended(served, job["id"])
    assert (done["status"], done["errorCode"], done["result"]) == ("FAILED", expected, None)
    assert [set(each) for each in done["errors"]] == [{"code", "message", "timestamp"}]
    assert done["errors"][0]["code"] == expected
    if isinstance(problem, WorkError):
        assert done["errors"][0]["message"] == problem.message
    assert (await http.get(f"{PREFIX}/{job['id']}/result")).status_code == 404


# Webhooks.


async def test_a_webhook_can_be_set_changed_and_dropped(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    job = await made(http, sample)
    at = f"{PREFIX}/{job['id']}/webhook"
    hook = {"url": "https://example.com/a", "secret": "whsec_abc123", "headers": {"X-Custom-Header": "my-value"}}
    told = await http.put(at, json=hook)
    assert (told.status_code, told.json()["webhook"]) == (200, {k: hook[k] for k in ("url", "headers")})
    assert "whsec_abc123" not in told.text
    assert (await http.put(at, json={"url": "https://example.com/b"})).json()["webhook"]["url"].endswith("/b")
    assert (await http.put(at, json={"url": "http://example.com/b"})).status_code == 400
    assert (await http.delete(at)).status_code == 204
    assert (await http.get(f"{PREFIX}/{job['id']}")).json()["webhook"] is None
    assert (await http.put(at, json=hook)).status_code == 200
    for _ in range(50):
        served.app.stages.gate.release()
    await ended(served, job["id"])
    for told in (await http.put(at, json=hook), await http.delete(at)):
        assert (told.status_code, code(told)) == (409, "conflict")
    assert (await http.put(f"{PREFIX}/{uuid4()}/webhook", json=hook)).status_code == 404
    found = await served.app.jobs.get(ME, job["id"])
    payload = await render(found, served.app.jobs.results)
    assert json.loads(payload.body)["status"] == "COMPLETED"
    assert "result" not in json.loads(payload.body)
    assert payload.headers["X-Custom-Header"] == "my-value"
    signature = hmac.new(b"whsec_abc123", payload.body, hashlib.sha256).hexdigest()
    assert payload.headers["X-Webhook-Signature"] == f"sha256={signature}"


# Results.


async def test_results_are_json_alone(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    job = await made(http, sample)
    done = await ended(served, job["id"])
    at = f"{PREFIX}/{job['id']}/result"
    assert (await http.get(at)).json() == (await http.get(at, params={"format": "json"})).json() == done["result"]
    told = await http.get(at, params={"format": "srt"})
    assert (told.status_code, code(told)) == (400, "invalid_request")


async def test_results_go_by_themselves_and_records_stay(http: httpx.AsyncClient, served: Served, site: WebServer) -> None:
    site.replies["/none"] = answer(404)
    job = (await by_url(http, site.url("/talk.flac"))).json()["job"]
    await ended(served, job["id"])
    redis = served.app.store._redis
    await redis.zadd("murmur:{q}:expiry", {job["id"]: 1})
    async with asyncio.timeout(30):
        while not (told := (await http.get(f"{PREFIX}/{job['id']}")).json())["isPurged"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (told["status"], told["isDeleted"], told["result"], told["purgeAt"]) == ("COMPLETED", True, None, None)
    assert told["purgedAt"] >= told["completionDate"]
    assert told["file"]["isDeleted"]
    assert (await http.get(f"{PREFIX}/{job['id']}/result")).status_code == 410
    assert served.app.artifacts.keys("jobs") + served.app.artifacts.keys("files") == []


async def test_a_failed_engine_is_told_as_such(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    served.app.stages.trouble = lambda _: EngineFailed("The model stumbled.")
    job = await made(http, sample)
    assert (await ended(served, job["id"]))["errorCode"] == "TRANSCRIPTION_FAILED"


async def test_a_summary_is_found_on_the_job(http: httpx.AsyncClient, served: Served, sample: Path) -> None:
    told = await by_file(http, "x", sample.read_bytes(), summary='{"promptTemplateId": "brief"}')
    assert told.status_code == 201, told.text
    summary, job_id = told.json()["summary"], told.json()["job"]["id"]
    assert (summary["status"], summary["promptTemplateId"], summary["text"]) == ("PENDING", "brief", None)
    assert (await ended(served, job_id))["summary"]["status"] == "IN_PROGRESS"
    served.app.artifacts.put(summary_key(job_id), b"They spoke.")
    await served.app.store.summaries.note(job_id, SummaryState.COMPLETED)
    shown = (await http.get(f"{PREFIX}/{job_id}")).json()["summary"]
    assert (shown["id"], shown["status"], shown["text"], shown["error"]) == (summary["id"], "COMPLETED", "They spoke.", None)
    told = await by_file(http, "x", b"no sound", summary='{"promptTemplateId": "brief"}')
    shown = (await ended(served, told.json()["job"]["id"]))["summary"]
    assert (shown["status"], shown["error"]) == ("FAILED", "There is no transcript to summarise.")


async def test_what_typed_clients_write_out_for_nothing_is_nothing(
    http: httpx.AsyncClient, served: Served, sample: Path
) -> None:
    options = {**ASKED, "punctuation": None, "capitalization": None, "language": {"defaultLanguageCode": None}}
    nothing = dict.fromkeys(("metadata", "tags", "webhook", "summary"), "null")
    data = {"name": "x", "transcription": json.dumps(options), "diarization": '{"enabled": false, "mode": null}', **nothing}
    told = await http.post(f"{PREFIX}/upload", files={"file": ("x", sample.read_bytes())}, data=data)
    assert told.status_code == 201, told.text
    asked = {"fileId": told.json()["file"]["id"], "transcription": options, "diarization": None, "webhook": None}
    assert (await http.post(PREFIX, json=asked)).status_code == 201


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.9999999Z"])
async def test_a_time_beyond_all_jobs_is_no_bound(http: httpx.AsyncClient, sample: Path, at: str) -> None:
    await made(http, sample)
    bound = "createdAfter" if at.startswith("0") else "createdBefore"
    told = await http.get(PREFIX, params={bound: at})
    assert (told.status_code, told.json()["total"]) == (200, 1)


async def test_another_file_is_another_request(http: httpx.AsyncClient, sample: Path) -> None:
    http.headers["Idempotency-Key"] = "once"
    first = await by_file(http, "x", sample.read_bytes())
    assert (await by_file(http, "x", sample.read_bytes())).json()["job"]["id"] == first.json()["job"]["id"]
    other = await by_file(http, "x", sample.read_bytes(), tags='["new"]')
    assert (other.status_code, code(other)) == (400, "key_reused")

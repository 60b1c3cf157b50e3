"""Transcripts API: the object, tables, lists and webhook of its documentation."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.dialects.transcripts import routes
from serve_app.dialects.transcripts.routes import PREFIX, render, seconds
from serve_app.dialects.transcripts.wire import TranscriptsTranscript
from serve_app.models.job import JobSpec, Phase
from tests.dialects.contract import Contract, VendorApi
from tests.lib.app import ME
from tests.lib.web_server import WebServer
from tests.service.conftest import Served


async def by_url(http: httpx.AsyncClient, url: str, **options: Any) -> httpx.Response:
    return await http.post(PREFIX, json={"audio_url": url, **options})


async def by_file(http: httpx.AsyncClient, name: str, content: bytes, **options: Any) -> httpx.Response:
    return await http.post(PREFIX, files={"audio_file": (name, content)}, data=options)


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


def read(body: Any) -> tuple[str, str, str | None]:
    TranscriptsTranscript.model_validate(body)
    return body["id"], body["status"], body["text"]


class TestTranscripts(Contract):
    api = VendorApi(
        name="transcripts",
        job=f"{PREFIX}/{{id}}",
        read=read,
        code=code,
        running=("queued", "processing"),
        completed="completed",
        failed="failed",
        by_url=by_url,
        by_file=by_file,
        codes={"unauthenticated": "invalid_api_key", "model_unavailable": "model_not_found"},
        statuses={"model": 404},
    )


RUNNING = ("queued", "processing")


async def ended(served: Served, made: httpx.Response) -> Any:
    assert made.status_code == 202, made.text
    path = f"{PREFIX}/{made.json()['id']}"
    async with asyncio.timeout(30):
        while (body := (await served.http.get(path)).json())["status"] in RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return body


async def test_the_transcript_object(served: Served, site: WebServer) -> None:
    options = {"model": "whisper-1", "language": "en", "word_timestamps": True, "metadata": {"external_id": "call-55123"}}
    made = await by_url(served.http, site.url("/talk.flac"), **options)
    assert made.json()["id"].startswith("transcript_")
    assert (made.json()["status"], made.json()["text"], made.json()["object"]) == ("queued", None, "transcript")
    body = await ended(served, made)
    assert (body["status"], body["model"], body["language"], body["error"]) == ("completed", "whisper-1", "en", None)
    assert abs(body["created"] - time.time()) < 60
    assert round(body["duration"]) == 57
    assert body["metadata"] == {"external_id": "call-55123"}
    assert body["redactions"] == []
    assert " ".join(u["text"] for u in body["utterances"]) == body["text"]
    assert {u["speaker"] for u in body["utterances"]} == {0}
    assert " ".join(w["word"] for w in body["words"]) == body["text"]
    assert all(0 <= w["confidence"] <= 1 and w["start"] < w["end"] for w in body["words"])


async def test_there_are_no_words_without_word_timestamps(served: Served, site: WebServer) -> None:
    assert (await ended(served, await by_url(served.http, site.url("/talk.flac"))))["words"] == []


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"language": "de"}, "language", "de"),
        ({"vocabulary": ["Contoso", "Alix Cooper"]}, "hotwords", "Contoso, Alix Cooper"),
        ({"word_timestamps": True}, "word_timestamps", True),
        ({"model": "second"}, "model", "second"),
        ({"metadata": {"a": "b"}}, "metadata", {"a": "b"}),
        ({"webhook_url": "https://example.com/x"}, "webhook", "https://example.com/x"),
    ],
)
async def test_options_reach_the_core_from_json_and_forms(
    served: Served, site: WebServer, sample: Path, options: dict[str, Any], field: str, value: Any
) -> None:
    form = {name: json.dumps(v) if isinstance(v, dict) else v for name, v in options.items()}
    for made in (
        await by_url(served.http, site.url("/talk.flac"), **options),
        await by_file(served.http, "talk.flac", sample.read_bytes(), **form),
    ):
        assert made.status_code == 202, made.text
        job = await served.app.store.jobs.get(made.json()["id"])
        assert job
        assert getattr(job.spec, field) == value


async def test_a_list_in_a_form_may_be_json(served: Served, sample: Path) -> None:
    made = await by_file(served.http, "x", sample.read_bytes(), vocabulary='["a", "b c"]')
    job = await served.app.store.jobs.get(made.json()["id"])
    assert job
    assert job.spec.hotwords == "a, b c"


@pytest.mark.parametrize(
    ("options", "status", "expected", "named"),
    [
        ({"diarize": True}, 400, "feature_unavailable", "diarize"),
        ({"redact": ["pii"]}, 400, "feature_unavailable", "redact"),
        ({"redact": ["names"]}, 400, "invalid_request", "redact"),
        ({"metadata": {str(i): "" for i in range(21)}}, 400, "invalid_request", "metadata"),
        ({"metadata": {"a": 1}}, 400, "invalid_request", "metadata"),
        ({"webhook_url": "http://example.com"}, 400, "source_forbidden", "webhook_url"),
        ({"vocabulary": "x"}, 400, "invalid_request", "vocabulary"),
    ],
)
async def test_an_unsupported_option_is_refused_by_name(
    served: Served, site: WebServer, options: dict[str, Any], status: int, expected: str, named: str
) -> None:
    response = await by_url(served.http, site.url("/talk.flac"), **options)
    assert (response.status_code, code(response)) == (status, expected)
    assert named in response.text


async def test_exactly_one_source_is_required(served: Served, site: WebServer, sample: Path) -> None:
    both = await by_file(served.http, "x", sample.read_bytes(), audio_url=site.url("/talk.flac"))
    neither = await served.http.post(PREFIX, files={"language": (None, "en")})
    none = await served.http.post(PREFIX, json={"language": "en"})
    for response in (both, neither, none):
        assert response.status_code == 400
        assert "audio_url" in response.text
    assert served.app.artifacts.keys("jobs") == []


async def test_a_form_may_have_a_url(served: Served, site: WebServer) -> None:
    body = await ended(served, await served.http.post(PREFIX, files={"audio_url": (None, site.url("/talk.flac"))}))
    assert body["status"] == "completed"
    assert body["text"]


async def test_the_list_has_pages_and_filters_by_status_and_time(served: Served, site: WebServer) -> None:
    made = [(await by_url(served.http, site.url("/talk.flac"))).json()["id"] for _ in range(3)]
    await ended(served, httpx.Response(202, json={"id": made[0]}))
    broken = await ended(served, await by_url(served.http, site.url("/missing")))
    made.append(broken["id"])
    for job_id in made:
        await ended(served, httpx.Response(202, json={"id": job_id}))

    async def listed(**query: Any) -> Any:
        response = await served.http.get(PREFIX, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    everything = await listed()
    assert [t["id"] for t in everything["data"]] == made[::-1]
    assert (everything["object"], everything["has_more"], everything["next_cursor"]) == ("list", False, None)
    first = await listed(limit=3)
    assert first["has_more"]
    second = await listed(limit=3, cursor=first["next_cursor"])
    assert [t["id"] for t in first["data"] + second["data"]] == made[::-1]
    assert [t["id"] for t in (await listed(status="failed"))["data"]] == [broken["id"]]
    assert len((await listed(status="completed"))["data"]) == 3
    assert (await listed(status="queued"))["data"] == []
    jobs = [await served.app.store.jobs.get(job_id) for job_id in made]
    middle = jobs[2].created_at if jobs[2] else 0
    for moment in (str(middle), datetime.fromtimestamp(middle, UTC).isoformat(timespec="milliseconds")):
        assert [t["id"] for t in (await listed(created_after=moment))["data"]] == made[:1:-1]
        assert [t["id"] for t in (await listed(created_before=moment))["data"]] == made[2::-1]


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 101}, {"cursor": "x"}, {"status": "done"}, {"created_after": "soon"}]
)
async def test_the_error_of_a_bad_query_names_the_parameter(served: Served, query: dict[str, Any]) -> None:
    response = await served.http.get(PREFIX, params=query)
    assert (response.status_code, code(response)) == (400, "invalid_request")
    assert next(iter(query)) in response.text


async def test_deletions_are_permanent(served: Served, site: WebServer) -> None:
    done = await ended(served, await by_url(served.http, site.url("/talk.flac")))
    assert (await served.http.delete(f"{PREFIX}/{done['id']}")).status_code == 204
    assert (await served.http.get(f"{PREFIX}/{done['id']}")).status_code == 404
    assert (await served.http.delete(f"{PREFIX}/{done['id']}")).status_code == 404
    assert (await served.http.get(PREFIX)).json()["data"] == []
    assert served.app.artifacts.keys("jobs") == []


async def test_deleting_a_running_job_cancels_it(served: Served, sample: Path) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    made = await by_file(served.http, "x", sample.read_bytes())
    job_id = made.json()["id"]
    async with asyncio.timeout(20):
        while (await served.http.get(f"{PREFIX}/{job_id}")).json()["status"] != "processing":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (await served.http.delete(f"{PREFIX}/{job_id}")).status_code == 204
    assert (await served.http.get(f"{PREFIX}/{job_id}")).status_code == 404
    assert (await served.http.get(f"/v1/jobs/{job_id}")).status_code == 404
    assert (await served.http.get(PREFIX)).json()["data"] == []
    async with asyncio.timeout(20):
        while served.app.artifacts.keys("jobs") or await served.app.store.jobs.get(job_id):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("content", "kind"), [(None, "transcript.completed"), (b"no sound", "transcript.failed")])
async def test_the_webhook_has_the_whole_object(served: Served, sample: Path, content: bytes | None, kind: str) -> None:
    spec = JobSpec("fake", metadata={"a": "b"}, dialect="transcripts")
    job = await served.app.ended(await served.app.submit(content or sample, spec))
    payload = await render(job, served.app.jobs.results)
    body = json.loads(payload.body)
    assert (body["type"], payload.content_type) == (kind, "application/json")
    transcript = TranscriptsTranscript.model_validate(body["data"])
    assert (transcript.id, transcript.metadata) == (job.id, {"a": "b"})
    assert bool(transcript.text) == (job.phase is Phase.COMPLETED)
    assert bool(transcript.error) == (job.phase is Phase.FAILED)
    assert body["timestamp"].endswith("Z")
    assert (await served.app.jobs.get(ME, job.id)).completed_at


async def test_a_repeated_request_returns_the_transcript_as_it_is_now(served: Served, site: WebServer) -> None:
    served.http.headers["Idempotency-Key"] = "once"
    first = await by_url(served.http, site.url("/talk.flac"))
    done = await ended(served, first)
    assert (await by_url(served.http, site.url("/talk.flac"))).json() == done


def test_a_time_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    assert seconds("2024-01-01T00:00:00", "x") == seconds("2024-01-01", "x") == seconds("1704067200", "x") == 1_704_067_200
    assert seconds("2024-01-01T00:00:00-05:00", "x") == 1_704_085_200
    monkeypatch.undo()
    time.tzset()


async def test_null_and_empty_strings_mean_absent(served: Served, site: WebServer, sample: Path) -> None:
    blank = {"model": "", "language": "", "diarize": "", "redact": "", "vocabulary": "", "webhook_url": "", "metadata": ""}
    assert (await by_file(served.http, "x", sample.read_bytes(), **blank)).status_code == 202
    assert (await by_url(served.http, site.url("/talk.flac"), **dict.fromkeys(blank))).status_code == 202
    query = {"cursor": "", "status": "", "created_after": ""}
    assert (await served.http.get(PREFIX, params=query)).status_code == 200


@pytest.mark.parametrize(
    ("vocabulary", "status"), [(["[abc", "d"], 202), (["x" * 90] * 8, 202), (["x" * 90] * 9, 400), (["[abc"], 202)]
)
async def test_a_vocabulary_is_limited_in_length(
    served: Served, site: WebServer, vocabulary: list[str], status: int
) -> None:
    assert (await by_url(served.http, site.url("/talk.flac"), vocabulary=vocabulary)).status_code == status


async def test_a_webhooks_body_is_rendered_beside_the_event_loop(
    served: Served, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await served.app.submit(sample, JobSpec("fake", dialect="transcripts"))
    job = await served.app.ended(job_id)
    threads: list[threading.Thread] = []
    from_job = routes.from_job

    def note_thread(*arguments: Any) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return from_job(*arguments)

    monkeypatch.setattr(routes, "from_job", note_thread)
    assert json.loads((await render(job, served.app.jobs.results)).body)["data"]["text"]
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()

"""Shift's API: the requests, tables and data model of its documentation."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.errors import EngineFailed
from serve_app.dialects.shift.routes import PREFIX
from serve_app.dialects.shift.settings import ShiftSettings
from serve_app.dialects.shift.translate import files_of, to_spec
from serve_app.dialects.shift.wire import ShiftJob, ShiftJobRequest
from serve_app.errors import RequestError
from serve_app.ingress import create_api
from serve_app.models.job import JobSpec, Phase
from tests.dialects.contract import Contract, VendorApi
from tests.lib.app import ME
from tests.lib.web_server import WebServer, answer
from tests.service.conftest import Served


async def by_url(http: httpx.AsyncClient, url: str, **options: Any) -> httpx.Response:
    return await http.post(PREFIX, json={"model": "whisper-1", "source": {"kind": "url", "url": url}, **options})


def read(body: Any) -> tuple[str, str, str | None]:
    data = body["data"]
    ShiftJob.model_validate(data)
    assert body["success"] is True
    return data["id"], data["status"], data["result"] and data["result"]["text"]


def code(answer: httpx.Response) -> str:
    body = answer.json()
    assert (set(body), set(body["error"]), body["success"]) == ({"success", "error"}, {"code", "message"}, False)
    return str(body["error"]["code"])


class TestShift(Contract):
    api = VendorApi(
        name="shift",
        job=f"{PREFIX}/{{id}}",
        read=read,
        code=code,
        running=("queued", "processing"),
        completed="completed",
        failed="failed",
        by_url=by_url,
    )


ENDS = ("completed", "failed")


async def ended(served: Served, made: httpx.Response) -> Any:
    """Wait for the end of a job, and return it."""
    assert made.status_code == 202, made.text
    path = f"{PREFIX}/{made.json()['data']['id']}"
    async with asyncio.timeout(30):
        while (job := (await served.http.get(path)).json()["data"])["status"] not in ENDS:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return job


async def test_the_example_of_shifts_documentation(served: Served, site: WebServer) -> None:
    request = {
        "model": "whisper-1",
        "providerId": "openai-prod",
        "source": {"kind": "url", "url": site.url("/recording.mp3")},
        "language": "en",
        "responseFormat": "vtt",
        "maxAttempts": 3,
    }
    made = (await served.http.post(PREFIX, json=request)).json()["data"]
    assert made["id"].startswith("tj_")
    assert {name: made[name] for name in ("status", "phase", "model", "artifacts", "result")} == {
        "status": "queued",
        "phase": "queued",
        "model": "whisper-1",
        "artifacts": [],
        "result": None,
    }
    job = await ended(served, await served.http.post(PREFIX, json=request))
    assert (job["status"], job["phase"], job["providerId"], job["attempts"]) == ("completed", "completed", "openai-prod", 1)
    assert job["source"] == request["source"]
    assert job["sid"] == job["id"]
    assert job["requestedBy"] == "anonymous"
    assert job["requestedAt"] < job["startedAt"] < job["completedAt"]
    assert job["maxAttempts"] == 3
    assert "error" not in job
    result = job["result"]
    assert (result["language"], round(result["duration"])) == ("en", 57)
    assert [set(segment) for segment in result["segments"]] == [{"start", "end", "text"}] * len(result["segments"])
    assert " ".join(segment["text"] for segment in result["segments"]) == result["text"]


BEGINS = {"normalizedAudio": b"RIFF", "transcriptText": b"WEBVTT\n", "transcriptJson": b'{"language":'}


async def test_artifacts_match_their_descriptions(served: Served, site: WebServer) -> None:
    job = await ended(served, await by_url(served.http, site.url("/recording.mp3")))
    kinds = {a["kind"]: (a["filename"], a["contentType"]) for a in job["artifacts"]}
    assert kinds == {
        "normalizedAudio": ("recording-normalized.wav", "audio/wav"),
        "transcriptText": ("recording.vtt", "text/vtt"),
        "transcriptJson": ("recording.json", "application/json"),
    }
    for artifact in job["artifacts"]:
        assert artifact["url"].startswith(served.url)
        download = await served.http.get(artifact["url"])
        assert download.status_code == 200
        assert len(download.content) == artifact["sizeBytes"]
        assert download.headers["content-type"].startswith(artifact["contentType"])
        assert artifact["filename"] in download.headers["content-disposition"]
        assert download.content.startswith(BEGINS[artifact["kind"]])
    again = (await served.http.get(f"{PREFIX}/{job['id']}")).json()["data"]
    assert again["artifacts"] == job["artifacts"]
    part = await served.http.get(job["artifacts"][0]["url"], headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"RIFF")
    assert (await served.http.get(f"{PREFIX}/{job['id']}/artifacts/other")).status_code == 404


@pytest.mark.parametrize(
    ("format", "filename", "begins"),
    [
        ("vtt", "recording.vtt", "WEBVTT"),
        ("srt", "recording.srt", "1\n"),
        ("text", "recording.txt", ""),
        ("tsv", "recording.tsv", "start"),
    ],
)
async def test_response_format_is_the_format_of_the_text_artifact(
    served: Served, site: WebServer, format: str, filename: str, begins: str
) -> None:
    job = await ended(served, await by_url(served.http, site.url("/recording.mp3"), responseFormat=format))
    text = next(a for a in job["artifacts"] if a["kind"] == "transcriptText")
    assert text["filename"] == filename
    content = (await served.http.get(text["url"])).text
    assert content.startswith(begins)
    assert ("-->" in content, "\t" in content) == (format in ("vtt", "srt"), format == "tsv")
    assert content.count("\n") >= len(job["result"]["segments"]) > 1


async def test_with_json_there_is_no_text_artifact(served: Served, site: WebServer) -> None:
    job = await ended(served, await by_url(served.http, site.url("/recording.mp3"), responseFormat="json"))
    assert [a["kind"] for a in job["artifacts"]] == ["normalizedAudio", "transcriptJson"]
    assert (await served.http.get(job["artifacts"][1]["url"])).json()["segments"]


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("language", "de", "language"),
        ("prompt", "Names: Alix", "prompt"),
        ("temperature", 0.5, "temperature"),
        ("maxAttempts", 4, "max_attempts"),
    ],
)
async def test_options_reach_the_decoder(served: Served, site: WebServer, option: str, value: Any, field: str) -> None:
    job_id = (await by_url(served.http, site.url("/recording.mp3"), **{option: value})).json()["data"]["id"]
    job = await served.app.store.jobs.get(job_id)
    assert job
    assert getattr(job.spec, field) == value


async def test_defaults_are_the_documented_ones(served: Served, site: WebServer) -> None:
    made = (await by_url(served.http, site.url("/recording.mp3"))).json()["data"]
    job = await served.app.store.jobs.get(made["id"])
    assert job
    assert (job.spec.max_attempts, job.spec.language, job.spec.echo["responseFormat"]) == (1, None, "vtt")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"source": {"kind": "ftp", "url": "x"}}, "source"),
        ({"source": {"kind": "url"}}, "url"),
        ({"source": {"kind": "stageDrive", "sessionId": "../x", "fileId": "a"}}, "sessionId"),
        ({"responseFormat": "pdf"}, "responseFormat"),
        ({"temperature": 2}, "temperature"),
        ({"maxAttempts": 0}, "maxAttempts"),
        ({"model": ""}, "model"),
        ({"provider_id": "x"}, "provider_id"),
    ],
)
async def test_the_error_of_a_bad_request_names_the_field(served: Served, fields: dict[str, Any], named: str) -> None:
    request = {"model": "whisper-1", "source": {"kind": "url", "url": "http://127.0.0.1/x"}, **fields}
    answer = await served.http.post(PREFIX, json=request)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")
    assert named in answer.json()["error"]["message"]


async def test_phases_have_the_cores_names(served: Served, site: WebServer) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    job_id = (await by_url(served.http, site.url("/recording.mp3"))).json()["data"]["id"]
    async with asyncio.timeout(20):
        while (job := (await served.http.get(f"{PREFIX}/{job_id}")).json()["data"])["phase"] != "transcribing":
            assert job["phase"] in ("queued", "downloading", "transcoding")
            assert job["status"] == ("queued" if job["phase"] == "queued" else "processing")
            await asyncio.sleep(0.02)
    assert (job["status"], job["result"], job["artifacts"]) == ("processing", None, [])
    assert (await served.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 202
    job = await ended(served, httpx.Response(202, json={"data": {"id": job_id}}))
    assert (job["status"], job["phase"], job["error"]) == ("failed", "failed", "The job was cancelled.")


async def test_the_list_has_the_callers_jobs_oldest_first(served: Served, site: WebServer, sample: Path) -> None:
    made = [(await by_url(served.http, site.url("/recording.mp3"))).json()["data"]["id"] for _ in range(3)]
    await served.app.submit(sample)  # another dialect's
    for job_id in made:
        await ended(served, httpx.Response(202, json={"data": {"id": job_id}}))
    jobs = (await served.http.get(PREFIX)).json()["data"]
    assert [job["id"] for job in jobs] == made
    assert {len(job["artifacts"]) for job in jobs} == {3}
    assert {job["result"] for job in jobs} == {None}


async def test_a_failed_job_can_be_retried_while_it_has_attempts(served: Served, site: WebServer) -> None:
    site.replies["/later.mp3"] = answer(404)
    made = await by_url(served.http, site.url("/later.mp3"), maxAttempts=2)
    job = await ended(served, made)
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert job["error"].endswith(".")
    site.replies["/later.mp3"] = site.replies["/recording.mp3"]
    again = await served.http.post(f"{PREFIX}/{job['id']}/retry")
    assert (again.status_code, again.json()["data"]["status"]) == (202, "queued")
    job = await ended(served, again)
    assert (job["status"], job["attempts"], "error" in job) == ("completed", 2, False)
    refused = await served.http.post(f"{PREFIX}/{job['id']}/retry")
    assert (refused.status_code, code(refused)) == (409, "conflict")


async def test_a_job_without_attempts_left_cannot_be_retried(served: Served, site: WebServer) -> None:
    served.app.stages.trouble = lambda _: EngineFailed("The model stumbled.")
    job = await ended(served, await by_url(served.http, site.url("/recording.mp3")))
    assert (job["status"], job["attempts"], job["maxAttempts"]) == ("failed", 1, 1)
    refused = await served.http.post(f"{PREFIX}/{job['id']}/retry")
    assert (refused.status_code, code(refused)) == (409, "conflict")
    stored = await served.app.store.jobs.get(job["id"])
    assert stored
    assert stored.phase is Phase.FAILED


# Drives.

DRIVE: dict[str, Any] = {"model": "m", "source": {"kind": "stageDrive", "sessionId": "s1", "fileId": "talk.flac"}}


async def test_a_drive_source_is_refused_where_no_drive_is_configured(served: Served) -> None:
    answer = await served.http.post(PREFIX, json=DRIVE)
    assert (answer.status_code, code(answer)) == (400, "feature_unavailable")
    assert "stageDrive" in answer.json()["error"]["message"]


async def test_a_file_of_a_drive_is_transcribed(served: Served, sample: Path, tmp_path: Path) -> None:
    (tmp_path / "t/s1").mkdir(parents=True)
    (tmp_path / "t/s1/talk.flac").write_bytes(sample.read_bytes())
    template = f"{tmp_path.as_uri()}/{{tenant}}/{{session_id}}/{{file_id}}"
    request = ShiftJobRequest.model_validate({**DRIVE, "model": "whisper-1"})
    job = await served.app.ended(await served.app.submit_without_upload(to_spec(request, ME, template)))
    assert job.phase is Phase.COMPLETED, job.error
    source = {**DRIVE["source"], "fileId": "other"}
    request = ShiftJobRequest.model_validate({**DRIVE, "source": source, "model": "whisper-1"})
    job = await served.app.ended(await served.app.submit_without_upload(to_spec(request, ME, template)))
    assert job.error
    assert job.error.code == "source_not_found"


async def test_only_a_drive_source_may_be_a_file_url(served: Served) -> None:
    request = ShiftJobRequest.model_validate(
        {"model": "whisper-1", "source": {"kind": "url", "url": "file:///etc/hostname"}}
    )
    with pytest.raises(RequestError, match="http or https"):
        await served.app.submit_without_upload(to_spec(request, ME, ""))


async def test_a_job_with_a_drive_source_over_http(served: Served, sample: Path, tmp_path: Path, site: WebServer) -> None:
    """Check that the operator's template is filled in with the caller's tenant."""
    (tmp_path / "default").mkdir()
    (tmp_path / "default/s1-talk.flac").write_bytes(sample.read_bytes())
    settings = ShiftSettings(stage_drive_uri=f"{tmp_path.as_uri()}/{{tenant}}/{{session_id}}-{{file_id}}")
    context = replace(served.context, dialect_settings={"shift": settings}, public_url="https://x.y/")
    api = create_api(context, served.auth, served.app.store, served.app.events, version="0")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url=served.url) as http:
        made = await http.post(PREFIX, json={**DRIVE, "model": "whisper-1"})
        assert made.status_code == 202, made.text
        job_id = made.json()["data"]["id"]
        await served.app.events.start()
        async for _ in served.app.events.follow(job_id):
            pass
        job = (await http.get(f"{PREFIX}/{job_id}")).json()["data"]
    assert (job["status"], job["source"]) == ("completed", DRIVE["source"])
    assert {artifact["filename"] for artifact in job["artifacts"]} == {"talk-normalized.wav", "talk.vtt", "talk.json"}
    assert all(artifact["url"].startswith(f"https://x.y{PREFIX}/") for artifact in job["artifacts"])
    assert "default" not in json.dumps(job["source"])


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("/a%5c..%5cb.mp3", "a_.._b"),
        ("/x%00y%0d%0az.wav", "x_y__z"),
        ("/" + "%E9%9F%B3" * 300 + ".m4a", "音" * 100),
        ("/", "recording"),
    ],
)
def test_filenames_are_sanitized(path: str, stem: str) -> None:
    spec = JobSpec("m", url=f"https://example.org{path}", echo={"responseFormat": "vtt"})
    assert files_of(spec)["transcriptText"][0] == f"{stem}.vtt"


async def test_the_list_works_when_a_transcript_is_missing(served: Served, site: WebServer) -> None:
    job = await ended(served, await by_url(served.http, site.url("/recording.mp3")))
    broken = await ended(served, await by_url(served.http, site.url("/recording.mp3")))
    served.app.artifacts.delete(f"jobs/{broken['id']}")
    jobs = (await served.http.get(PREFIX)).json()["data"]
    assert [listed["id"] for listed in jobs] == [job["id"], broken["id"]]
    assert len(jobs[0]["artifacts"]) == 3

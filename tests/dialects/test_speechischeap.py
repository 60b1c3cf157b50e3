"""Speech is Cheap: the parameters, statuses, streams and webhooks of its documentation."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import replace
from typing import Any

import httpx
import httpx_sse
import pytest

from deployments.messages import TranscribeRequest, WindowResult
from serve_app.dialects.speechischeap.routes import PREFIX, SPEECH_IS_CHEAP
from serve_app.dialects.speechischeap.translate import render
from serve_app.dialects.speechischeap.wire import CheapJob
from serve_app.errors import RequestError
from serve_app.http.auth import ANONYMOUS
from serve_app.local.valkey import Valkey
from serve_app.models.job import Job, Phase
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from serve_app.store.scripts import key
from tests.dialects.contract import Contract, VendorApi
from tests.lib.web_server import WebServer
from tests.service.conftest import Served

MISSING = 'Missing required "{}" parameter'


async def by_url(http: httpx.AsyncClient, url: str, **options: Any) -> httpx.Response:
    return await http.post(f"{PREFIX}/", json={"input_url": url, **options})


def code(answer: httpx.Response) -> str:
    """Derive a code from the status: this API has sentences, and no codes."""
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text
    return {401: "unauthenticated", 403: "forbidden", 404: "not_found"}.get(answer.status_code, "refused")


def read(body: Any) -> tuple[str, str, str | None]:
    assert set(body) == {"id", "output", "status"}
    CheapJob.model_validate(body)
    return body["id"], body["status"], " ".join(segment["text"] for segment in body["output"].get("segments", ())) or None


class TestSpeechIsCheap(Contract):
    api = VendorApi(
        name="speechischeap",
        job=f"{PREFIX}/{{id}}",
        read=read,
        code=code,
        running=("PENDING",),
        completed="COMPLETED",
        failed="FAILED",
        by_url=by_url,
        cancel=("DELETE", f"{PREFIX}/{{id}}"),
        codes=dict.fromkeys(
            ("invalid_request", "model_unavailable", "language_unsupported", "source_forbidden", "malformed"), "refused"
        ),
    )


async def wait(served: Served, job_id: str) -> None:
    """Wait for the end of an anonymous job."""
    async for _ in await served.app.jobs.follow(ANONYMOUS, job_id, "0"):
        pass


async def ended(served: Served, job_id: str) -> Any:
    await wait(served, job_id)
    response = await served.http.get(f"{PREFIX}/{job_id}")
    assert response.status_code == 200
    return response.json()


async def made(served: Served, site: WebServer, path: str = "/talk.flac", **options: Any) -> str:
    answer = await by_url(served.http, site.url(path), **options)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def stored(served: Served, job_id: str) -> Job:
    job = await served.app.store.jobs.get(job_id)
    assert job
    return job


async def stream(
    served: Served, site: WebServer, path: str = "/talk.flac", **options: Any
) -> list[httpx_sse.ServerSentEvent]:
    body = {"input_url": site.url(path), "can_stream_output": True, **options}
    async with httpx_sse.aconnect_sse(served.http, "POST", PREFIX, json=body) as source:
        assert source.response.status_code == 200
        return [event async for event in source.aiter_sse()]


async def json_events(served: Served, site: WebServer, path: str = "/talk.flac", **options: Any) -> list[Any]:
    return [event.json() for event in await stream(served, site, path, **options)]


async def last(served: Served) -> Job:
    jobs, _ = await served.app.jobs.page(ANONYMOUS, limit=1, cursor=None)
    return jobs[0]


# The job.


async def test_the_job_object(served: Served, site: WebServer) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    answer = await by_url(served.http, site.url("/talk.flac"))
    job_id = answer.json()["id"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-sic", job_id)
    pending = {"id": job_id, "output": {}, "status": "PENDING"}
    assert (answer.status_code, answer.json()) == (202, pending)
    await until(served, job_id, Phase.TRANSCRIBING)
    assert (await served.http.get(f"{PREFIX}/{job_id}")).json() == pending
    for _ in range(20):
        served.app.stages.gate.release()
    body = await ended(served, job_id)
    assert body["status"] == "COMPLETED"
    assert set(body["output"]) == {"segments"}
    segments = body["output"]["segments"]
    assert [s["id"] for s in segments] == list(range(1, len(segments) + 1))
    assert {s["language"] for s in segments} == {"en (100.00%)"}
    for segment in segments:
        assert segment["seek"] <= segment["start"] + 0.001 < segment["end"]
        assert 0 <= segment["confidence"] <= 1
        assert segment["processing_duration_in_s"] >= 0
        assert segment["words"] is None
        assert set(segment) == {
            *("confidence", "end", "id", "language", "processing_duration_in_s", "seek", "start", "text", "words")
        }


async def until(served: Served, job_id: str, phase: Phase) -> None:
    async with asyncio.timeout(20):
        while (await stored(served, job_id)).phase is not phase:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_failed_job_has_an_error_message(served: Served, site: WebServer) -> None:
    body = await ended(served, job_id := await made(served, site, "/noise.mp3"))
    assert body["status"] == "FAILED"
    assert body["output"] == {"error": (await stored(served, job_id)).error.message}  # type: ignore[union-attr]


@pytest.mark.parametrize("end", ["", "/"])
async def test_every_path_works_with_and_without_a_trailing_slash(served: Served, site: WebServer, end: str) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    answer = await served.http.post(f"{PREFIX}{end}", json={"input_url": site.url("/talk.flac")})
    assert answer.status_code == 202
    at = f"{PREFIX}/{answer.json()['id']}{end}"
    assert (await served.http.get(at)).json()["status"] == "PENDING"
    assert (await served.http.get(f"{PREFIX}/auth{end}")).text == "OK"
    cancelled = await served.http.delete(at)
    assert (cancelled.status_code, cancelled.text) == (200, "OK")
    assert cancelled.headers["content-type"].startswith("text/plain")


async def test_auth_checks_the_key(served: Served, valkey: Valkey) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    good = await keys.create("me", "t", ["speech:files:read"])
    for token, status in ((good, 200), ("wrong", 401)):
        answer = await served.http.get(f"{PREFIX}/auth", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("text/plain")
    await redis.aclose()


# Its parameters, row by row.


async def test_input_url_is_required(served: Served) -> None:
    for body in ({}, {"input_url": ""}, {"language": "en"}):
        answer = await served.http.post(PREFIX, json=body)
        assert (answer.status_code, answer.text) == (400, MISSING.format("input_url"))
        assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("option", ["can_label_audio", "can_parse_speakers"])
async def test_an_option_that_is_not_installed_is_refused_by_name(served: Served, site: WebServer, option: str) -> None:
    answer = await by_url(served.http, site.url("/talk.flac"), **dict.fromkeys((option,), True))
    assert (answer.status_code, code(answer)) == (400, "refused")
    assert f"The option {option} is refused" in answer.text
    options: dict[str, Any] = {option: False}
    await made(served, site, **options)


async def test_can_parse_words(served: Served, site: WebServer) -> None:
    body = await ended(served, await made(served, site, can_parse_words=True))
    for segment in body["output"]["segments"]:
        assert " ".join(word["text"] for word in segment["words"]) == segment["text"]
        assert all(set(word) == {"start", "end", "text"} for word in segment["words"])
        assert all(word["start"] < word["end"] for word in segment["words"])


async def test_language(served: Served, site: WebServer) -> None:
    body = await ended(served, await made(served, site, language="de"))
    assert {s["language"] for s in body["output"]["segments"]} == {"de (100.00%)"}
    assert (await by_url(served.http, site.url("/talk.flac"), language="xx")).status_code == 400


async def test_minimum_confidence(served: Served, site: WebServer) -> None:
    plain = served.app.stages.transcribe

    async def doubtful(model: str, request: TranscribeRequest, on_start: object = None) -> WindowResult:
        result = await plain(model, request)
        segments = tuple(replace(s, confidence=(0.4, 0.6)[n % 2]) for n, s in enumerate(result.segments))
        return replace(result, segments=segments, language_probability=0.9995)

    served.app.stages.transcribe = doubtful  # type: ignore[method-assign]
    seen = {}
    for options in ({}, {"minimum_confidence": 0}, {"minimum_confidence": 0.6}, {"minimum_confidence": 0.7}):
        segments = (await ended(served, await made(served, site, **options)))["output"]["segments"]
        seen[options.get("minimum_confidence")] = {s["confidence"] for s in segments}
        assert {s["language"] for s in segments} <= {"en (99.95%)"}
    assert seen == {None: {0.6}, 0: {0.4, 0.6}, 0.6: {0.6}, 0.7: set()}


@pytest.mark.parametrize(("requested", "field"), [("srt", "srt"), ("vtt", "vtt"), ("webvtt", "vtt"), ("", None)])
async def test_output_format(served: Served, site: WebServer, requested: str, field: str | None) -> None:
    output = (await ended(served, job_id := await made(served, site, output_format=requested)))["output"]
    assert set(output) == ({"segments", field} if field else {"segments"})
    segments = (await served.app.jobs.results.transcript(await stored(served, job_id))).segments
    assert [s["text"] for s in output["segments"]] == [s.text for s in segments]
    if field:
        cues = {"srt": srt, "vtt": vtt}[field](output[field])
        assert [text for _, _, text in cues] == [s.text for s in segments]


async def test_segment_duration(served: Served, site: WebServer) -> None:
    await ended(served, await made(served, site))
    few = len(served.app.stages.decoded)
    await ended(served, await made(served, site, segment_duration=6))
    assert len(served.app.stages.decoded) - few > 2 * few


async def test_user_agent(served: Served, site: WebServer) -> None:
    for options in ({"user_agent": "Mozilla/5.0 (test)"}, {"user_agent": ""}):
        await ended(served, await made(served, site, **options))
    assert site.agents == ["Mozilla/5.0 (test)", "murmuration"]


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"webhook_url": "https://example.com/x"}, "webhook", "https://example.com/x"),
        ({"webhook_url": ""}, "webhook", None),
        ({"hotwords": "Murmuration"}, "hotwords", "Murmuration"),
        ({"prompt": "A talk."}, "prompt", "A talk."),
        ({"language": ""}, "language", None),
        ({"can_parse_words": ""}, "word_timestamps", False),
        ({"minimum_confidence": ""}, "min_confidence", 0.5),
        ({"segment_duration": ""}, "segment_duration", None),
        ({"is_private": ""}, "private", False),
        ({}, "model", "fake"),
    ],
)
async def test_options_reach_the_core(served: Served, site: WebServer, options: Any, field: str, value: Any) -> None:
    assert getattr((await stored(served, await made(served, site, **options))).spec, field) == value


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"minimum_confidence": 1.1}, "minimum_confidence"),
        ({"minimum_confidence": -0.1}, "minimum_confidence"),
        ({"segment_duration": 5.9}, "segment_duration"),
        ({"segment_duration": 30.1}, "segment_duration"),
        ({"output_format": "pdf"}, "output_format"),
        ({"can_parse_words": "perhaps"}, "can_parse_words"),
        ({"user_agent": "a\r\nX-Evil: b"}, "user_agent"),
        ({"webhook_url": "http://example.com"}, "webhook"),
        ({"webhook_url": "ftp://example.com"}, "URL"),
        ({"model": "fake"}, "model"),
        ({"input_file": "x"}, "input_file"),
    ],
)
async def test_the_error_of_a_bad_request_names_the_field(served: Served, site: WebServer, options: Any, named: str) -> None:
    answer = await by_url(served.http, site.url("/talk.flac"), **options)
    assert (answer.status_code, code(answer)) == (400, "refused")
    assert named in answer.text


# Statuses.


async def test_authentication_errors_are_plain_text(served: Served, valkey: Valkey, site: WebServer) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    reader = await keys.create("r", "t", ["speech:transcriptions:read"])
    for token, status in (("wrong", 401), (reader, 403)):
        for body in ({"json": {"input_url": site.url("/talk.flac")}}, {"files": {"input_file": bytes(1 << 20)}}):
            answer = await served.http.post(PREFIX, headers={"Authorization": f"Bearer {token}"}, **body)
            assert answer.status_code == status
            assert answer.headers["content-type"].startswith("text/plain")
            assert ("www-authenticate" in answer.headers) == (status == 401)
    await redis.aclose()


async def test_a_full_queue_has_a_retry_after(served: Served, site: WebServer) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    for _ in range(60):
        answer = await by_url(served.http, site.url("/talk.flac"))
        if answer.status_code != 202:
            break
    assert answer.status_code == 429
    assert answer.headers["content-type"].startswith("text/plain")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("problem", "status"),
    [("malformed", 400), ("unsupported_media", 400), ("gone", 404), ("internal", 500), ("unavailable", 503)],
)
async def test_errors_are_plain_text(problem: str, status: int) -> None:
    answer = SPEECH_IS_CHEAP.error(RequestError(problem, "It is so."))
    assert (answer.status_code, answer.body) == (status, b"It is so.")
    assert answer.media_type == "text/plain"


# DELETE in each state.


async def test_a_pending_job_can_be_cancelled_once(served: Served, site: WebServer) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    running, *_, waiting = [await made(served, site) for _ in range(10)]
    await until(served, running, Phase.TRANSCRIBING)
    assert (await stored(served, waiting)).phase is Phase.QUEUED
    for job_id in (running, waiting):
        first, second = [await served.http.delete(f"{PREFIX}/{job_id}") for _ in range(2)]
        assert (first.status_code, first.text) == (200, "OK")
        assert (second.status_code, code(second)) == (404, "not_found")
        assert await ended(served, job_id) == {"id": job_id, "output": {}, "status": "CANCELED"}
        assert (await served.http.delete(f"{PREFIX}/{job_id}")).status_code == 404


@pytest.mark.parametrize(("path", "status"), [("/talk.flac", "COMPLETED"), ("/noise.mp3", "FAILED")])
async def test_an_ended_job_cannot_be_cancelled(served: Served, site: WebServer, path: str, status: str) -> None:
    before = await ended(served, job_id := await made(served, site, path))
    assert before["status"] == status
    assert (await served.http.delete(f"{PREFIX}/{job_id}")).status_code == 404
    assert await ended(served, job_id) == before


async def test_an_unknown_job_cannot_be_cancelled(served: Served) -> None:
    answer = await served.http.delete(f"{PREFIX}/00000000-1111-7222-b333-444444444444-sic")
    assert (answer.status_code, code(answer)) == (404, "not_found")


# Streams.


async def test_a_stream_has_the_segments_of_the_stored_transcript(served: Served, site: WebServer) -> None:
    options: dict[str, Any] = {"segment_duration": 6, "can_parse_words": True, "language": "", "webhook_url": ""}
    events = await json_events(served, site, **options)
    body = await ended(served, (await last(served)).id)
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("initial", "final")
    assert (kinds.count("initial"), kinds.count("final")) == (1, 1)
    assert events[-1] == {"type": "final"}
    duration = (await last(served)).audio_total_s
    assert events[0]["request"] == {"input_url": site.url("/talk.flac"), "can_stream_output": True, **options}
    assert events[0]["duration"] == pytest.approx(duration, abs=0.1)
    assert set(events[0]) == {"device", "duration", "request", "type"}
    segments = [{k: v for k, v in event.items() if k != "type"} for event in events if event["type"] == "segment"]
    assert segments == body["output"]["segments"]
    progress = [event for event in events if event["type"] == "progress"]
    assert {event["message"] for event in progress} == {"Processing..."}
    processed = [event["processed_segments"] for event in progress]
    assert processed == sorted(processed)
    assert all(event["total_segments"] >= event["processed_segments"] for event in progress)
    assert progress[0]["total_segments"] == math.ceil(duration / 6)  # type: ignore[operator]


async def test_initial_is_sent_as_soon_as_a_duration_is_declared(served: Served, site: WebServer) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    plain = served.app.stages.windows

    async def slow(request: Any) -> Any:
        job_id = request.source_key.split("/")[1]
        await served.app.store._redis.hset(key(f"job:{job_id}"), "audio_declared_s", "57.5")
        async for planned in plain(request):
            if planned.finished:
                await asyncio.Event().wait()
            yield planned

    served.app.stages.windows = slow  # type: ignore[method-assign]
    body = {"input_url": site.url("/talk.flac"), "can_stream_output": True}
    async with httpx_sse.aconnect_sse(served.http, "POST", PREFIX, json=body) as source, asyncio.timeout(20):
        first = await anext(aiter(source.aiter_sse()))
    assert (first.json()["type"], first.json()["duration"]) == ("initial", 57.5)


async def test_the_stream_of_a_failed_job_has_an_error(served: Served, site: WebServer) -> None:
    initial, error, final = await json_events(served, site, "/noise.mp3")
    job = await last(served)
    assert (initial["type"], initial["duration"]) == ("initial", 0)
    assert job.error
    assert error == {"type": "error", "message": job.error.message}
    assert final == {"type": "final"}


@pytest.mark.parametrize("output_format", ["", "srt"])
async def test_the_stream_of_a_cancelled_job_has_a_canceled_event(
    served: Served, site: WebServer, output_format: str
) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    watching = asyncio.create_task(stream(served, site, output_format=output_format))
    async with asyncio.timeout(20):
        while not (await served.app.jobs.page(ANONYMOUS, limit=1, cursor=None))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    job = await last(served)
    await until(served, job.id, Phase.TRANSCRIBING)
    assert (await served.http.delete(f"{PREFIX}/{job.id}")).text == "OK"
    events = await watching
    if output_format:
        assert [(e.event, e.json()) for e in events] == [("canceled", {"type": "canceled"})]
    else:
        assert [e.json()["type"] for e in events][-2:] == ["canceled", "final"]


def stamp(text: str, mark: str) -> float:
    found = re.fullmatch(rf"(\d\d):([0-5]\d):([0-5]\d)\{mark}(\d{{3}})", text)
    assert found, text
    hours, minutes, seconds, millis = map(int, found.groups())
    return hours * 3600 + minutes * 60 + seconds + millis / 1000


def cue(lines: list[str], number: int, mark: str) -> tuple[float, float, str]:
    assert lines[0] == str(number)
    start, end = lines[1].split(" --> ")
    assert len(lines) == 3, lines
    assert "-->" not in lines[2]
    assert stamp(start, mark) <= stamp(end, mark)
    return stamp(start, mark), stamp(end, mark), lines[2]


def srt(text: str) -> list[tuple[float, float, str]]:
    """Parse SubRip strictly: blocks separated by one empty line, numbered from 1."""
    blocks = text.removesuffix("\n").split("\n\n") if text else []
    return [cue(block.split("\n"), number, ",") for number, block in enumerate(blocks, 1)]


def vtt(text: str) -> list[tuple[float, float, str]]:
    """Parse WebVTT strictly; its cues may have numbers."""
    head, *blocks = text.removesuffix("\n").split("\n\n")
    assert head == "WEBVTT"
    cues = [block.split("\n") for block in blocks]
    return [cue(lines if lines[0].isdecimal() else [str(n), *lines], n, ".") for n, lines in enumerate(cues, 1)]


@pytest.mark.parametrize(("requested", "field"), [("srt", "srt"), ("vtt", "vtt"), ("webvtt", "vtt")])
async def test_streamed_cues_joined_are_the_subtitle_file(
    served: Served, site: WebServer, requested: str, field: str
) -> None:
    events = await stream(served, site, output_format=requested, segment_duration=6)
    assert {event.event for event in events} == {"message"}
    parse = {"srt": srt, "vtt": vtt}[field]
    streamed = parse("\n".join(event.data for event in events))
    output = (await ended(served, (await last(served)).id))["output"]
    assert streamed == parse(output[field])
    assert len(streamed) == len(output["segments"]) > 10


async def test_each_line_of_a_cue_is_a_data_line(served: Served, site: WebServer) -> None:
    body = {"input_url": site.url("/talk.flac"), "can_stream_output": True, "output_format": "vtt"}
    raw = (await served.http.post(PREFIX, json=body)).text
    assert raw.startswith("data: WEBVTT\ndata: \n\ndata: 1\ndata: 00:00:")
    assert all(line.startswith("data: ") for line in raw.splitlines() if line)


async def test_a_failure_in_a_subtitle_stream_is_a_named_event(served: Served, site: WebServer) -> None:
    (event,) = await stream(served, site, "/noise.mp3", output_format="srt")
    assert (event.event, event.json()["type"]) == ("error", "error")


async def test_a_stream_has_a_heartbeat_and_no_maximum_age(
    served: Served, site: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.dialects.speechischeap.routes.PING_S", 0.1)
    object.__setattr__(served.context, "sse_max_age_s", 0.2)
    served.app.stages.gate = asyncio.Semaphore(0)
    lines: list[str] = []
    body = {"input_url": site.url("/talk.flac"), "can_stream_output": True}
    async with served.http.stream("POST", PREFIX, json=body) as answer, asyncio.timeout(20):
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        async for line in answer.aiter_lines():
            lines.append(line)
            if sum(line.startswith(": ping") for line in lines) == 10:
                for _ in range(20):
                    served.app.stages.gate.release()
    assert json.loads(lines[-2].removeprefix("data: ")) == {"type": "final"}


async def test_a_client_that_disconnects_does_not_stop_the_job(served: Served, site: WebServer) -> None:
    served.app.stages.gate = asyncio.Semaphore(1)
    body = {"input_url": site.url("/talk.flac"), "can_stream_output": True, "segment_duration": 6}
    async with httpx_sse.aconnect_sse(served.http, "POST", PREFIX, json=body) as source:
        async for event in source.aiter_sse():
            if event.json()["type"] == "segment":
                break
    for _ in range(20):
        served.app.stages.gate.release()
    assert (await ended(served, (await last(served)).id))["status"] == "COMPLETED"


async def test_the_stream_of_a_removed_job_ends(served: Served, site: WebServer) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    watching = asyncio.create_task(json_events(served, site))
    async with asyncio.timeout(20):
        while not (await served.app.jobs.page(ANONYMOUS, limit=1, cursor=None))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await served.app.jobs.delete_when_ended(ANONYMOUS, (await last(served)).id)
        events = await watching
    assert events[-1] == {"type": "final"}
    assert events[-2]["type"] in ("canceled", "error")


async def test_a_repeated_request_gets_the_same_stream(served: Served, site: WebServer) -> None:
    served.http.headers["Idempotency-Key"] = "again"
    first, second = [await json_events(served, site) for _ in range(2)]
    assert [e for e in first if e["type"] == "segment"] == [e for e in second if e["type"] == "segment"]
    assert len((await served.app.jobs.page(ANONYMOUS, limit=5, cursor=None))[0]) == 1


# Webhooks.


@pytest.mark.parametrize("output_format", ["", "srt", "vtt", "webvtt"])
async def test_the_webhook_of_a_completed_job_has_the_requested_format(
    served: Served, site: WebServer, output_format: str
) -> None:
    body = await ended(served, job_id := await made(served, site, output_format=output_format))
    payload = await render(await stored(served, job_id), served.app.jobs.results)
    if not output_format:
        assert payload.content_type == "application/json"
        assert json.loads(payload.body) == body
        return
    assert payload.content_type == {"srt": "application/x-subrip"}.get(output_format, "text/vtt")
    assert payload.body.decode() == body["output"][output_format[-3:]]


@pytest.mark.parametrize("output_format", ["", "srt"])
async def test_the_webhook_of_a_failed_or_cancelled_job_is_json(served: Served, site: WebServer, output_format: str) -> None:
    failed = await made(served, site, "/noise.mp3", output_format=output_format)
    await wait(served, failed)
    served.app.stages.gate = asyncio.Semaphore(0)
    cancelled = await made(served, site, output_format=output_format)
    await served.http.delete(f"{PREFIX}/{cancelled}")
    for job_id, status in ((failed, "FAILED"), (cancelled, "CANCELED")):
        body = await ended(served, job_id)
        payload = await render(await stored(served, job_id), served.app.jobs.results)
        assert payload.content_type == "application/json"
        assert json.loads(payload.body) == body
        assert body["status"] == status
        assert set(body["output"]) == ({"error"} if status == "FAILED" else set())

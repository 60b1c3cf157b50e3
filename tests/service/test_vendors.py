"""Requests from the vendors' documentation, against `murmur up` with real Whisper."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest

from benchmarks.poll import serve_sample
from tests.lib.murmur_process import Up
from tests.lib.recordings import SAMPLE, word_error_rate
from tests.lib.slow_upload import END, fields, file, posting

TEXT = SAMPLE.with_suffix(".txt").read_text(encoding="utf-8")
LONGEST_S = 120
SHIFT = "/api/v1/inference/transcriptions/jobs"
BIFROST = "/v1/async/audio/transcriptions"
TRANSCRIPTS = "/v1/transcripts"
SPEECH_IS_CHEAP = "/v2/jobs/"


@pytest.fixture(scope="module")
def audio() -> Iterator[str]:
    """URL of the sample."""
    with serve_sample() as url:
        yield url


@pytest.fixture
def http(cluster: Up) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, timeout=60) as http:
        yield http


def polled(http: httpx.Client, path: str) -> Any:
    """Poll a job until it has ended."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        body = http.get(path).raise_for_status().json()
        job = body.get("data", body)
        if job["status"] in ("completed", "failed"):
            return job
        time.sleep(0.3)
    raise TimeoutError(path)


def test_shift(http: httpx.Client, audio: str) -> None:
    request = {
        "model": "whisper-1",
        "providerId": "openai-prod",
        "source": {"kind": "url", "url": audio},
        "language": "en",
        "responseFormat": "vtt",
        "maxAttempts": 3,
    }
    made = http.post(SHIFT, json=request).raise_for_status().json()["data"]
    job = polled(http, f"{SHIFT}/{made['id']}")
    assert word_error_rate(TEXT, job["result"]["text"]) < 0.1
    assert job["result"]["language"] == "en"
    for artifact in job["artifacts"]:
        got = http.get(artifact["url"]).raise_for_status()
        assert len(got.content) == artifact["sizeBytes"]
    assert [listed["id"] for listed in http.get(SHIFT).raise_for_status().json()["data"]] == [job["id"]]


def test_bifrost(http: httpx.Client, sample: Path) -> None:
    data = {
        "model": "openai/whisper-1",
        "fallbacks": "acme/nothing",
        "language": "en",
        "prompt": "A talk of starlings.",
        "response_format": "verbose_json",
        "file_format": "flac",
    }
    with sample.open("rb") as file:
        made = http.post(BIFROST, files={"file": ("example-file", file)}, data=data).raise_for_status().json()
    job = polled(http, f"{BIFROST}/{made['id']}")
    assert word_error_rate(TEXT, job["result"]["text"]) < 0.1
    assert job["result"]["extra_fields"]["model_used"] == "base"
    assert job["result"]["language"] == "english"
    assert job["created_at"] < job["completed_at"] < job["expires_at"]


def test_a_fallback_is_used_for_an_unknown_model(http: httpx.Client, sample: Path) -> None:
    data = {"model": "acme/nothing", "fallbacks": ["acme/tiny.en", "openai/base"], "response_format": "text"}
    with sample.open("rb") as file:
        made = http.post(BIFROST, files={"file": file}, data=data).raise_for_status().json()
    assert word_error_rate(TEXT, polled(http, f"{BIFROST}/{made['id']}")["result"]) < 0.2
    answer = http.get(f"{BIFROST}/{made['id']}")
    assert answer.headers["x-bf-model-used"] == "tiny.en"


def test_a_vocabulary_changes_the_words(http: httpx.Client, audio: str) -> None:
    texts = []
    for vocabulary in ([], ["neighbours"]):
        request = {"audio_url": audio, "model": "qwen3-asr", "word_timestamps": True, "vocabulary": vocabulary}
        made = http.post(TRANSCRIPTS, json=request).raise_for_status().json()
        job = polled(http, f"{TRANSCRIPTS}/{made['id']}")
        assert word_error_rate(TEXT, job["text"]) < 0.1
        assert len(job["words"]) == len(job["text"].split())
        texts.append(job["text"])
        assert http.delete(f"{TRANSCRIPTS}/{made['id']}").status_code == 204
    assert ["neighbours" in text for text in texts] == [False, True]


def test_speech_is_cheap(http: httpx.Client, audio: str) -> None:
    request = {"input_url": audio, "language": "", "webhook_url": "", "can_stream_output": True, "segment_duration": 15}
    with httpx_sse.connect_sse(http, "POST", SPEECH_IS_CHEAP, json=request) as source:
        events = [event.json() for event in source.iter_sse()]
    segments = [event for event in events if event["type"] == "segment"]
    assert (events[0]["type"], events[-1]) == ("initial", {"type": "final"})
    assert (events[0]["device"], events[0]["request"]) == ("cpu", request)
    assert word_error_rate(TEXT, " ".join(segment["text"] for segment in segments)) < 0.15
    assert all(segment["processing_duration_in_s"] > 0 for segment in segments)
    assert all(segment["language"].startswith("en (") and 0 < segment["confidence"] <= 1 for segment in segments)
    assert [segment["id"] for segment in segments] == list(range(1, len(segments) + 1))


async def test_speech_is_cheap_reports_upload_progress(cluster: Up, sample: Path) -> None:
    """Through Serve's proxy, the response starts before the request body is complete."""
    content, junk = sample.read_bytes(), bytes(4 << 20)
    head = fields(can_stream_output="true", output_format="webvtt") + file()
    length = len(head + content + junk + END)
    async with posting(cluster.url + SPEECH_IS_CHEAP, length) as wire, asyncio.timeout(LONGEST_S):
        await wire.send(head, content, junk[: 1 << 20])
        assert await wire.status() == 200
        events = wire.lines()
        while not (seen := await anext(events)).startswith('data: {"type":"upload"') or '"bytes_uploaded":0' in seen:
            pass
        for start in range(1 << 20, 4 << 20, 1 << 20):
            await wire.send(junk[start : start + (1 << 20)])
            assert "upload" in await anext(events)
        await wire.send(END)
        rest = [line async for line in events]
    assert any(f'"bytes_uploaded":{len(content + junk)}}}' in line for line in rest)
    cues = [line.removeprefix("data: ") for line in rest if not line.startswith(("data: {", ":"))]
    assert cues[0] == "WEBVTT"
    assert word_error_rate(TEXT, " ".join(line for line in cues[1:] if " --> " not in line and not line.isdecimal())) < 0.2


async def test_an_aborted_upload_leaves_nothing_in_storage(cluster: Up) -> None:
    artifacts = cluster.data_dir / "artifacts"
    before = set(artifacts.rglob("*"))
    async with posting(cluster.url + SPEECH_IS_CHEAP, 8 << 20) as wire, asyncio.timeout(LONGEST_S):
        await wire.send(file(), bytes(1 << 20))
        assert await wire.status() == 200
        await anext(wire.events())
        assert set(artifacts.rglob("*")) > before
    async with asyncio.timeout(LONGEST_S):
        while set(artifacts.rglob("*")) != before:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


KOLDAN = "/api/v1/speech-services/transcriptions"


def koldan_ended(http: httpx.Client, job_id: str) -> Any:
    """Poll a Koldan job until it has ended."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        job = http.get(f"{KOLDAN}/{job_id}").raise_for_status().json()
        if job["status"] in ("COMPLETED", "FAILED", "CANCELLED"):
            return job
        time.sleep(0.3)
    raise TimeoutError(job_id)


def test_koldan(http: httpx.Client, sample: Path, audio: str) -> None:
    options = {"model": "whisper-1", "language": {"defaultLanguageCode": "en"}}
    with sample.open("rb") as file:
        data = {"name": "meeting-recording", "transcription": json.dumps(options), "diarization": '{"enabled":false}'}
        response = http.post(f"{KOLDAN}/upload", files={"file": ("meeting-2026-04-01.wav", file)}, data=data)
    assert response.status_code == 201, response.text
    body = response.json()
    job = koldan_ended(http, body["job"]["id"])
    assert job["status"] == "COMPLETED"
    assert word_error_rate(TEXT, job["result"]["text"]) < 0.1
    assert job["result"]["detectedLanguages"] == ["en"]
    words = [word for segment in job["result"]["segments"] for word in segment["words"]]
    assert len(words) == len(job["result"]["text"].split())
    assert {word["punctuation"] for word in words} >= {None, "."}
    assert any(word["capitalization"] != word["word"] for word in words)
    plain = {**options, "punctuation": False, "capitalization": False}
    response = http.post(
        KOLDAN, json={"fileId": body["file"]["id"], "transcription": plain, "diarization": {"enabled": False}}
    )
    assert response.status_code == 201, response.text
    text = koldan_ended(http, response.json()["id"])["result"]["text"]
    assert word_error_rate(TEXT, text) < 0.1
    assert text == text.lower()
    assert "." not in text
    listed = http.get(KOLDAN, params={"page": 0, "size": 20, "status": "COMPLETED"}).raise_for_status().json()
    assert listed["total"] == listed["size"] == len(listed["jobs"]) == 2
    refused = http.post(
        KOLDAN, json={"fileId": body["file"]["id"], "transcription": options, "diarization": {"enabled": True}}
    )
    assert (refused.status_code, refused.json()["code"]) == (400, "FEATURE_UNAVAILABLE")
    for job in listed["jobs"]:
        assert http.delete(f"{KOLDAN}/{job['id']}").status_code == 204
        assert http.post(f"{KOLDAN}/{job['id']}/purge").status_code == 204
        assert http.get(f"{KOLDAN}/{job['id']}/result", params={"format": "json"}).status_code == 410
    imported = {"uri": (None, audio), "name": (None, "x"), "transcription": (None, json.dumps(options))}
    response = http.post(f"{KOLDAN}/upload", files=imported)
    assert response.status_code == 201, response.text
    assert http.post(f"{KOLDAN}/{response.json()['job']['id']}/cancel").status_code in (204, 409)

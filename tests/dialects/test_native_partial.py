"""Warnings and partial transcripts in the native API."""

from __future__ import annotations

import asyncio
from pathlib import Path

from deployments.errors import EngineFailed
from serve_app.models.event import EventKind
from tests.service.conftest import Served


async def submitted(served: Served, sample: Path) -> str:
    options = {"segment_duration": "6", "max_attempts": "1"}
    response = await served.http.post("/v1/jobs", files={"file": ("a.flac", sample.read_bytes())}, data=options)
    return str(response.json()["id"])


async def until(served: Served, job_id: str, kind: EventKind, count: int = 1) -> None:
    """Wait for the `count`th event of a kind."""
    async for event in served.app.events.follow(job_id):
        count -= event.kind is kind
        if not count:
            return


async def test_a_job_shows_the_windows_that_were_given_up(served: Served, sample: Path) -> None:
    served.app.stages.trouble = lambda request: EngineFailed("No.") if request.window.index == 3 else None
    await until(served, job_id := await submitted(served, sample), EventKind.DONE)
    job = (await served.http.get(f"/v1/jobs/{job_id}")).json()
    assert (job["phase"], job["partial"]) == ("completed", False)
    (warning,) = job["warnings"]
    assert warning["code"] == "window_failed"
    assert 0 < warning["start"] < warning["end"] < job["duration_s"]
    transcript = await served.http.get(f"/v1/jobs/{job_id}/transcript")
    assert transcript.json()["partial"] is False
    assert "transcript-partial" not in transcript.headers


async def test_the_transcript_of_a_failed_job_is_partial_in_every_format(served: Served, sample: Path) -> None:
    served.app.stages.trouble = lambda request: RuntimeError("a crash") if request.window.index == 3 else None
    await until(served, job_id := await submitted(served, sample), EventKind.DONE)
    job = (await served.http.get(f"/v1/jobs/{job_id}")).json()
    assert (job["phase"], job["partial"]) == ("failed", True)
    document = (await served.http.get(f"/v1/jobs/{job_id}/transcript")).json()
    assert document["partial"] is True
    assert len(document["segments"]) >= 3
    for name in ("text", "srt", "vtt", "tsv"):
        response = await served.http.get(f"/v1/jobs/{job_id}/transcript", params={"format": name})
        assert (response.status_code, response.headers["transcript-partial"]) == (200, "true")
        assert document["segments"][0]["text"] in response.text
    stored = await served.http.get(f"/v1/jobs/{job_id}/artifacts/transcript.jsonl")
    assert stored.text.count('"segment":') == len(document["segments"])


async def test_a_running_job_shows_its_text_so_far_as_json_only(served: Served, sample: Path) -> None:
    served.app.stages.gate = asyncio.Semaphore(3)
    job_id = await submitted(served, sample)
    await until(served, job_id, EventKind.SEGMENT, 3)
    document = (await served.http.get(f"/v1/jobs/{job_id}/transcript")).json()
    assert document["partial"] is True
    assert len(document["segments"]) >= 3
    refused = await served.http.get(f"/v1/jobs/{job_id}/transcript", params={"format": "srt"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")

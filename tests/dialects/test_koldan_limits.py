"""Koldan: bounds of files, sources that are not handed out, and a cancel that has not taken effect."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.dialects.koldan.routes import PREFIX
from serve_app.errors import RequestError
from serve_app.jobs import service
from serve_app.models.principal import Principal
from serve_app.models.storage_paths import SOURCE
from tests.dialects.test_koldan import by_file, by_url, code
from tests.lib.app import ME
from tests.service.conftest import Served

ANONYMOUS = Principal("anonymous", "default")


@pytest.mark.parametrize(
    "metadata", [{"k": "x" * 20_000}, {"k": {"deep": ["x" * 20_000]}}, {"k" * 65: 1}], ids=["long", "deep", "key"]
)
async def test_the_metadata_of_a_file_is_bounded(served: Served, metadata: dict[str, Any]) -> None:
    response = await by_file(served.http, "talk.flac", b"sound", metadata=json.dumps(metadata))
    assert (response.status_code, code(response)) == (400, "invalid_request")
    assert "metadata" in response.text.lower()
    assert served.app.artifacts.keys("files") == []


async def test_browsers_send_an_empty_part_beside_a_uri(served: Served) -> None:
    form = {"name": "a talk", "transcription": json.dumps({"model": "whisper-1", "language": {}})}
    parts: list[tuple[str, Any]] = [(name, (None, value)) for name, value in form.items()]
    parts += [("uri", (None, "http://127.0.0.1/x")), ("file", ("", b"", "application/octet-stream"))]
    boundary = "edge-7"
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        + (b"" if value[0] is None else b'; filename=""')
        + b"\r\n\r\n"
        + (value[1] if isinstance(value[1], bytes) else value[1].encode())
        + b"\r\n"
        for name, value in parts
    )
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    response = await served.http.post(f"{PREFIX}/upload", content=body + f"--{boundary}--\r\n".encode(), headers=kind)
    assert response.status_code == 201, response.text
    assert response.json()["file"]["uri"] == "http://127.0.0.1/x"


async def test_a_shared_file_from_a_bucket_is_handed_out_to_no_job(served: Served, sample: Path) -> None:
    made = (await by_file(served.http, "talk.flac", sample.read_bytes())).json()["job"]
    job = await served.app.jobs.get(ANONYMOUS, made["id"])
    assert job.file
    assert not job.source_withheld
    for withheld in (replace(job, file=replace(job.file, url="s3://recordings/talk.flac")), replace(job, file=None)):
        assert withheld.source_withheld
        assert SOURCE not in [file.name for file in await served.app.jobs.results.files(withheld)]
        with pytest.raises(RequestError) as refused:
            await served.app.jobs.results.file(withheld, SOURCE)
        assert refused.value.status == 403


async def test_a_cancel_that_has_not_taken_effect_says_so(
    served: Served, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CANCEL_WAIT_S", 0.2)
    served.app.stages.gate = asyncio.Semaphore(0)
    job_id = (await by_file(served.http, "talk.flac", sample.read_bytes())).json()["job"]["id"]
    async with asyncio.timeout(20):
        while (await served.http.get(f"{PREFIX}/{job_id}")).json()["status"] != "IN_PROGRESS":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for loop in served.app.runner._loops:  # the worker hears of no cancel any more
        loop.cancel()
    response = await served.http.post(f"{PREFIX}/{job_id}/cancel")
    assert (response.status_code, response.json()["status"]) == (202, "IN_PROGRESS")


async def test_a_uri_that_must_not_be_fetched_leaves_no_file(served: Served) -> None:
    response = await by_url(served.http, "http://169.254.169.254/x")
    assert (response.status_code, code(response)) == (400, "source_forbidden")
    assert (await served.app.jobs.page(ME, limit=1, cursor=None))[0] == []

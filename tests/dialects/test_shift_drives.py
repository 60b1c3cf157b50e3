"""Shift's drives: whatever callers, sessions and files are named, nothing outside of the drive is read or handed out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.dialects.shift.routes import PREFIX
from serve_app.dialects.shift.settings import ShiftSettings, in_drive
from serve_app.errors import RequestError
from serve_app.ingress import create_api
from serve_app.local.valkey import Valkey
from serve_app.models.principal import Principal
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.lib.app import ME
from tests.service.conftest import Served

TEMPLATE = "s3://bucket/drive/{tenant}/{owner}/{session_id}/{file_id}"


def test_a_drives_root_is_the_callers_part_of_the_template() -> None:
    url, root = in_drive(TEMPLATE, Principal("me", "acme"), "s1", "talk.flac")
    assert (url, root) == ("s3://bucket/drive/acme/me/s1/talk.flac", "s3://bucket/drive/acme/me/")
    _, root = in_drive("file:///drive/of-{session_id}-{tenant}/{file_id}", ME, "s1", "f")
    assert root == "file:///drive/"


BAD = (".", "..", "...", "a/b", "/", "", "a\0b", "%2e%2e", "a%2fb", "x" * 200)


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_no_name_leaves_the_drive(name: str) -> None:
    me = Principal("me", "acme")
    for caller, session, file in (
        (Principal("me", name), "s", "f"),
        (Principal(name, "acme"), "s", "f"),
        (me, name, "f"),
        (me, "s", name),
    ):
        with pytest.raises(RequestError) as refused:
            in_drive(TEMPLATE, caller, session, file)
        assert refused.value.code == "source_forbidden"


def test_a_name_that_is_not_in_the_template_does_not_matter() -> None:
    assert in_drive("s3://bucket/{session_id}/{file_id}", Principal("a b", ".."), "s", "f")[1] == "s3://bucket/"


def test_names_beside_each_other_make_no_dots() -> None:
    with pytest.raises(RequestError):
        in_drive("https://drive.example/{tenant}.{session_id}/{file_id}.", Principal("me", "a"), "b", ".")
    assert in_drive("https://drive.example/{tenant}/{session_id}.{file_id}", ME, "s", "f")[1] == "https://drive.example/t/"


@dataclass(frozen=True, slots=True)
class DriveApi:
    """The API over a drive in a folder, called as any owner and tenant."""

    folder: Path
    submit: Callable[[str, str, str], Awaitable[httpx.Response]]  # tenant, session and file
    get: Callable[[str], Awaitable[httpx.Response]]  # path, as the last caller


@pytest.fixture
async def drive(served: Served, valkey: Valkey, tmp_path: Path) -> AsyncIterator[DriveApi]:
    folder = tmp_path / "files"
    folder.mkdir()
    settings = ShiftSettings(stage_drive_uri=f"{folder.as_uri()}/drive/{{tenant}}/{{session_id}}/{{file_id}}")
    context = replace(served.context, dialect_settings={"shift": settings})
    api = create_api(context, served.auth, served.app.store, served.app.events, version="0")
    redis = connect(valkey.url)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url=served.url) as http:

        async def submit(tenant: str, session: str, file: str) -> httpx.Response:
            http.headers["Authorization"] = f"Bearer {await ApiKeys(redis).create('o', tenant, ['admin'])}"
            source = {"kind": "stageDrive", "sessionId": session, "fileId": file}
            return await http.post(PREFIX, json={"model": "whisper-1", "source": source})

        yield DriveApi(folder, submit, http.get)
    await redis.aclose()


async def job_of(served: Served, response: httpx.Response) -> Any:
    """The job of a response, once it has ended."""
    assert response.status_code == 202, response.text
    job_id = response.json()["data"]["id"]
    async for _ in served.app.events.follow(job_id):
        pass
    return await served.app.store.jobs.get(job_id)


async def test_a_drives_recording_is_transcribed_but_not_handed_out(served: Served, drive: DriveApi, sample: Path) -> None:
    (drive.folder / "drive/acme/s1").mkdir(parents=True)
    (drive.folder / "drive/acme/s1/talk.flac").write_bytes(sample.read_bytes())
    job = await job_of(served, await drive.submit("acme", "s1", "talk.flac"))
    assert job.phase == "completed", job.error
    native = (await drive.get(f"/v1/jobs/{job.id}")).json()
    assert {artifact["name"] for artifact in native["artifacts"]} == {"transcript.jsonl", "audio.wav"}
    refused = await drive.get(f"/v1/jobs/{job.id}/artifacts/source")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (await drive.get(f"/v1/jobs/{job.id}/artifacts/audio.wav")).status_code == 200


async def test_a_link_out_of_the_drive_is_not_followed(served: Served, drive: DriveApi) -> None:
    (drive.folder / "secret").write_bytes(b"root:x:0:0")
    (drive.folder / "drive/acme").mkdir(parents=True)
    (drive.folder / "drive/acme/s1").symlink_to(drive.folder)
    job = await job_of(served, await drive.submit("acme", "s1", "secret"))
    assert (job.phase, job.error.code) == ("failed", "source_forbidden")
    assert served.app.artifacts.keys(f"jobs/{job.id}") == []


async def test_what_is_no_audio_is_not_handed_out_either(served: Served, drive: DriveApi) -> None:
    (drive.folder / "drive/acme/s1").mkdir(parents=True)
    (drive.folder / "drive/acme/s1/passwd").write_bytes(b"root:x:0:0")
    job = await job_of(served, await drive.submit("acme", "s1", "passwd"))
    assert (job.phase, job.error.code) == ("failed", "unsupported_media")
    assert (await drive.get(f"/v1/jobs/{job.id}/artifacts/source")).status_code == 403
    assert (await drive.get(f"/v1/jobs/{job.id}")).json()["artifacts"] == []

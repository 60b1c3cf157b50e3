"""Open streams end with the key, token or ticket that they were opened with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import jwt
import pytest

from serve_app.errors import RequestError
from serve_app.http.jwt_tokens import JwtVerifier, TokenRules
from serve_app.models.event import EventKind
from serve_app.models.principal import Principal
from tests.http.test_browsers import ticket
from tests.http.test_jwt_tokens import AUDIENCE, ISSUER, SECRET
from tests.lib.app import ME, App
from tests.lib.edge import Edge, bearer, open_edge
from tests.service.conftest import Served


@pytest.fixture
def gated(served: Served) -> Served:
    """Jobs start and are never decoded."""
    served.app.stages.gate = asyncio.Semaphore(0)
    return served


async def running(edge: Edge, sample: Path) -> str:
    """Id of a job that goes on for ever."""
    return await edge.served.app.submit(sample)


@asynccontextmanager
async def followed(edge: Edge, path: str, **request: object) -> AsyncIterator[httpx.Response]:
    """Open stream, after its first line."""
    async with edge.http.stream("GET", path, **request) as response:  # type: ignore[arg-type]
        assert response.status_code == 200
        yield response


async def text_of(response: httpx.Response) -> str:
    """All of a stream, which must end by itself."""
    async with asyncio.timeout(15):
        return (await response.aread()).decode()


async def test_a_revoked_key_ends_its_event_streams(gated: Served, sample: Path) -> None:
    async with open_edge(gated) as edge:
        key, other = await edge.key(), await edge.key()
        job_id = await running(edge, sample)
        path = f"/v1/jobs/{job_id}/events"
        async with followed(edge, path, headers=bearer(key)) as mine, followed(edge, path, headers=bearer(other)) as theirs:
            await gated.app.until(job_id, EventKind.PHASE)
            await edge.keys.revoke(key.split("_")[1])
            assert "event: done" not in await text_of(mine)
            lines = theirs.aiter_lines()
            assert await anext(lines), "the other key's stream goes on"
        assert (await edge.http.get(path, headers=bearer(key))).status_code == 401


async def test_a_rotated_key_ends_its_streams_when_its_overlap_is_over(gated: Served, sample: Path) -> None:
    async with open_edge(gated) as edge:
        key = await edge.key()
        job_id = await running(edge, sample)
        async with followed(edge, f"/v1/jobs/{job_id}/events", headers=bearer(key)) as stream:
            await edge.keys.rotate(key.split("_")[1], overlap_s=0.2)
            await text_of(stream)


async def test_a_lost_notification_is_made_up_for(gated: Served, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.jobs.stream_sessions.RECHECK_S", 0.1)
    monkeypatch.setattr(gated.app.events.sessions, "notify", lambda _: None)
    gated.app.events.sessions._changed.set()  # begin the next period with the shorter interval
    async with open_edge(gated) as edge:
        key = await edge.key()
        job_id = await running(edge, sample)
        async with followed(edge, f"/v1/jobs/{job_id}/events", headers=bearer(key)) as stream:
            await edge.keys.revoke(key.split("_")[1])
            await text_of(stream)


async def test_an_openai_stream_ends_with_an_error_and_its_job_is_cancelled(gated: Served, sample: Path) -> None:
    async with open_edge(gated) as edge:
        key = await edge.key()
        form = {"model": "fake", "stream": "true"}
        files = {"file": sample.read_bytes()}
        async with edge.http.stream(
            "POST", "/v1/audio/transcriptions", data=form, files=files, headers=bearer(key)
        ) as stream:
            job_id = stream.headers["x-job-id"]
            await edge.keys.revoke(key.split("_")[1])
            assert "no longer valid" in await text_of(stream)
        assert (await gated.app.ended(job_id)).phase == "cancelled"


async def test_an_openai_request_that_waits_is_answered(gated: Served, sample: Path) -> None:
    async with open_edge(gated) as edge:
        key = await edge.key()
        files = {"file": sample.read_bytes()}
        waiting = asyncio.create_task(
            edge.http.post("/v1/audio/transcriptions", data={"model": "fake"}, files=files, headers=bearer(key))
        )
        while not (await gated.app.jobs.page(ME, limit=1, cursor=None))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await edge.keys.revoke(key.split("_")[1])
        async with asyncio.timeout(15):
            assert (await waiting).status_code == 401


@pytest.mark.parametrize("options", [{}, {"output_format": "srt"}])
async def test_a_speech_is_cheap_stream_ends_with_an_error(gated: Served, sample: Path, options: dict[str, str]) -> None:
    async with open_edge(gated) as edge:
        key = await edge.key()
        form, files = {"can_stream_output": "true", **options}, {"input_file": sample.read_bytes()}
        async with edge.http.stream("POST", "/v2/jobs", data=form, files=files, headers=bearer(key)) as stream:
            while not (await gated.app.jobs.page(ME, limit=1, cursor=None))[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await edge.keys.revoke(key.split("_")[1])
            text = await text_of(stream)
        assert "no longer valid" in text
        assert '"error"' in text


async def test_a_stream_ends_when_its_token_expires(gated: Served, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.http.jwt_tokens.LEEWAY_S", 0.0)
    tokens = JwtVerifier(TokenRules(ISSUER, AUDIENCE, secret=SECRET))
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "tenant": "t", "scope": "admin"}
    async with open_edge(gated, tokens=tokens) as edge:
        token = jwt.encode(claims | {"exp": time.time() + 3}, SECRET, "HS256")
        made = await edge.http.post("/v1/jobs", files={"file": sample.read_bytes()}, headers=bearer(token))
        assert made.status_code == 202, made.text
        async with followed(edge, f"/v1/jobs/{made.json()['id']}/events", headers=bearer(token)) as stream:
            await text_of(stream)
        assert (await edge.http.get("/v1/jobs", headers=bearer(token))).status_code == 401


async def test_a_stream_ends_when_its_ticket_expires(gated: Served, sample: Path) -> None:
    async with open_edge(gated) as edge:
        job_id = await running(edge, sample)
        value = await ticket(edge, job_id, await edge.key(), lifetime_s=1)
        async with followed(edge, f"/v1/jobs/{job_id}/events", params={"ticket": value}) as stream:
            await text_of(stream)


async def test_every_stream_has_an_age(app: App, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app.stages.gate = asyncio.Semaphore(0)
    monkeypatch.setattr("serve_app.jobs.stream_sessions.MAX_AGE_S", 0.3)
    job_id = await app.submit(sample)
    with pytest.raises(RequestError) as ended:
        await app.follow(job_id)
    assert ended.value.code == "unavailable"


async def test_ended_streams_leave_nothing_behind(app: App, sample: Path) -> None:
    job_id = await app.submit(sample)
    keyed = Principal(ME.owner, ME.tenant, ME.scopes, key_id="0123456789abcdef")
    async for _ in await app.jobs.follow(keyed, job_id, "0"):
        assert list(app.events.sessions._open) == ["0123456789abcdef"]
    assert app.events.sessions._open == {}

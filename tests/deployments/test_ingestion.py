"""Ingestion stage: a URL becomes a stored source, once, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deployments.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable, WorkError
from deployments.health import Stalled
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import Buckets
from deployments.ingestion.safe_http import SafeHttp
from deployments.ingestion.stage import STALLED_S, Ingestion
from deployments.messages import FetchRequest, StoredSource
from deployments.storage.artifacts import Artifacts
from tests.lib.web_server import WebServer, answer, serving

KEY = "jobs/j1/source"
SONG = bytes(range(256)) * 1000


@pytest.fixture
async def site() -> AsyncIterator[WebServer]:
    async with serving() as site:
        site.replies["/song"] = answer(200, SONG)
        yield site


@pytest.fixture
def ingestion(artifacts: Artifacts) -> Ingestion:
    allowed = AllowList.parse(["127.0.0.1"])
    return Ingestion(artifacts, SafeHttp(allowed), Buckets(allowed))


def request(site: WebServer, path: str = "/song", limit: int = 1 << 20) -> FetchRequest:
    return FetchRequest(site.url(path), KEY, limit)


async def test_a_fetched_source_is_stored(site: WebServer, ingestion: Ingestion, artifacts: Artifacts) -> None:
    stored = await ingestion.fetch(request(site))
    assert stored == StoredSource(KEY, len(SONG))
    assert artifacts.read(KEY) == SONG
    assert artifacts.keys("jobs") == [KEY]


async def test_a_stored_source_is_not_fetched_again(site: WebServer, ingestion: Ingestion) -> None:
    first = await ingestion.fetch(request(site))
    assert await ingestion.fetch(request(site)) == first
    assert site.paths == ["/song"]


async def test_an_upload_is_not_fetched(site: WebServer, ingestion: Ingestion, artifacts: Artifacts) -> None:
    artifacts.put(KEY, b"uploaded")
    stored = await ingestion.fetch(request(site))
    assert stored == StoredSource(KEY, 8)
    assert site.paths == []


async def test_an_empty_source_is_stored_empty(site: WebServer, ingestion: Ingestion) -> None:
    site.replies["/song"] = answer(200)
    assert await ingestion.fetch(request(site)) == StoredSource(KEY, 0)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        pytest.param(answer(404), SourceNotFound, id="not found"),
        pytest.param(answer(403), SourceForbidden, id="forbidden"),
        pytest.param(answer(503), SourceUnreachable, id="unavailable"),
        pytest.param(answer(200, bytes((1 << 20) + 1)), SourceTooLarge, id="too large"),
        pytest.param(answer(200, SONG)[:-1], SourceUnreachable, id="a byte too few"),
        pytest.param(b"", SourceUnreachable, id="no response"),
    ],
)
async def test_a_failed_fetch_leaves_nothing(
    site: WebServer, ingestion: Ingestion, artifacts: Artifacts, response: bytes, error: type[WorkError]
) -> None:
    site.replies["/song"] = response
    with pytest.raises(error):
        await ingestion.fetch(request(site))
    assert artifacts.keys("jobs") == []


async def test_a_failed_fetch_can_be_retried(site: WebServer, ingestion: Ingestion, artifacts: Artifacts) -> None:
    site.replies["/song"] = answer(200, SONG)[:1000]
    with pytest.raises(SourceUnreachable) as failed:
        await ingestion.fetch(request(site))
    assert failed.value.transient
    site.replies["/song"] = answer(200, SONG)
    assert (await ingestion.fetch(request(site))).size == len(SONG)
    assert artifacts.read(KEY) == SONG


async def test_a_download_that_hangs_fails_the_health_check(
    site: WebServer, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    begun = asyncio.Event()

    @asynccontextmanager
    async def hang(*_: object) -> AsyncIterator[None]:
        begun.set()
        await asyncio.sleep(60)
        yield

    monkeypatch.setattr(SafeHttp, "get", hang)
    allowed = AllowList()
    ingestion = Ingestion(artifacts, SafeHttp(allowed), Buckets(allowed), clock=lambda: now)
    fetching = asyncio.create_task(ingestion.fetch(request(site)))
    await begun.wait()
    await ingestion.check_health()
    now = STALLED_S + 1
    with pytest.raises(Stalled, match="a download"):
        await ingestion.check_health()
    fetching.cancel()
    await asyncio.wait([fetching])
    await ingestion.check_health()

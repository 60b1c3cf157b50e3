"""Two tenants: whatever route the one tries with the other's ids, nothing of the other's is read, changed or told."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from serve_app.dialects import DIALECTS
from serve_app.local.valkey import Valkey
from serve_app.models.job import JobSpec
from serve_app.models.principal import Principal
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.service.conftest import Served
from tests.service.test_native import finished, upload

OPEN = {"/healthz", "/readyz", "/metrics", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
"""What tells nothing of anybody's."""
OWN = {"/v1/models", "/v1/models/{model_id}", "/v1/webhooks/secrets", "/v1/webhooks/secrets/rotate"}
"""What answers each with their own; looked at below."""


@pytest.fixture
async def mallory(served: Served, valkey: Valkey) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody of another tenant, with every scope."""
    key = await ApiKeys(redis := connect(valkey.url)).create("mallory", "evil", ["admin"])
    async with httpx.AsyncClient(base_url=served.url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
        yield http
    await redis.aclose()


@pytest.fixture
async def alices(served: Served, valkey: Valkey, sample: Path) -> AsyncIterator[dict[str, str]]:
    """The ids of what alice has: a job that has ended, and one made in each other dialect, by the paths that they are at."""
    key = await ApiKeys(redis := connect(valkey.url)).create("alice", "acme", ["admin"])
    served.http.headers["Authorization"] = f"Bearer {key}"
    job = await upload(served, sample)
    await finished(served, job["id"])
    has = {"/v1/jobs": job["id"], "/v1/webhooks": f"{job['id']}:1-0"}
    for dialect in DIALECTS:
        jobs = served.app.jobs.for_dialect(dialect.name, "{}")
        async with jobs.draft(ALICE) as draft:
            served.app.artifacts.put(draft.source, sample.read_bytes())
            has[dialect.prefix] = (await draft.submit(JobSpec("fake", echo=ECHO))).id
        async for _ in await jobs.follow(ALICE, has[dialect.prefix], "0"):
            pass
    yield has
    await redis.aclose()


ALICE = Principal("alice", "acme")
ECHO = {"responseFormat": "vtt", "providerId": "", "response_format": "json"} | {
    "transcription": '{"model":"m","language":{}}',
    "diarization": "null",
    "headers": "{}",
}
NAMES = {"name": "audio.wav", "kind": "transcriptText", "model_id": "fake"}


def walk(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every method and path of the API."""
    for path, methods in document["paths"].items():
        for method in methods:
            yield method.upper(), path


async def test_every_route_keeps_tenants_apart(served: Served, mallory: httpx.AsyncClient, alices: dict[str, str]) -> None:
    before = (await served.http.get(f"/v1/jobs/{alices['/v1/jobs']}")).json()
    walked = 0
    for method, path in walk((await served.http.get("/openapi.json")).json()):
        if path in OPEN | OWN:
            continue
        mine = alices[max((prefix for prefix in alices if path.startswith(prefix)), key=len)]
        filled = re.sub(r"\{(\w+)\}", "{}", path).format(*(NAMES.get(name, mine) for name in re.findall(r"\{(\w+)\}", path)))
        answer = await mallory.request(method, filled)
        if "{" in path:
            assert answer.status_code == 404, (method, path, answer.text)
        else:
            assert answer.status_code in (200, 400, 415), (method, path, answer.text)
        assert not any(job_id in answer.text for job_id in alices.values() if f"/{job_id}" not in filled)
        walked += 1
    assert walked >= 25
    assert (await served.http.get(f"/v1/jobs/{alices['/v1/jobs']}")).json() == before
    for job_id in (each for each in alices.values() if ":" not in each):
        assert (await served.http.get(f"/v1/jobs/{job_id}")).json()["phase"] == "completed"


async def test_there_is_no_route_that_the_document_does_not_name(served: Served) -> None:
    """Else the walk above would walk past it."""
    document = (await served.http.get("/openapi.json")).json()
    routes = [route for dialect in DIALECTS for route in dialect.routes(served.context).routes if isinstance(route, Route)]
    named = {route.path.replace(":path}", "}") for route in routes}
    assert len(named) > 10
    assert named <= set(document["paths"])


async def test_every_reference_of_the_document_leads_somewhere(served: Served) -> None:
    """Else what it stands for is told to nobody, and fuzzed by nothing."""
    document = (await served.http.get("/openapi.json")).json()

    def follow(part: Any) -> None:
        for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            follow(value)
        if isinstance(part, dict) and isinstance(part.get("$ref"), str):
            place = document
            for name in part["$ref"].removeprefix("#/").split("/"):
                place = place[name]

    follow(document)


async def test_webhooks_secrets_are_a_tenants_own(
    served: Served, mallory: httpx.AsyncClient, alices: dict[str, str]
) -> None:
    mine = (await served.http.get("/v1/webhooks/secrets")).json()
    theirs = (await mallory.get("/v1/webhooks/secrets")).json()
    assert mine != theirs
    rotated = (await mallory.post("/v1/webhooks/secrets/rotate", json={"overlap_s": 60})).json()
    assert rotated["secrets"][1:] == theirs["secrets"]
    assert (await served.http.get("/v1/webhooks/secrets")).json() == mine


async def test_the_secrets_are_for_admins(served: Served, valkey: Valkey) -> None:
    key = await ApiKeys(redis := connect(valkey.url)).create("bob", "acme", ["speech:transcriptions:read"])
    for method, path in (("GET", "/v1/webhooks/secrets"), ("POST", "/v1/webhooks/secrets/rotate")):
        answer = await served.http.request(method, path, headers={"Authorization": f"Bearer {key}"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert (await served.http.get("/v1/webhooks/deliveries", headers={"X-API-Key": key})).json() == {
        "deliveries": [],
        "next_cursor": None,
    }
    await redis.aclose()

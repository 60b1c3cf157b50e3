"""Isolation of tenants: no route reads, changes or reveals anything of another tenant, whatever ids it is given."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from serve_app.dialects import DIALECTS
from serve_app.local.valkey import Valkey
from serve_app.models.job import JobSpec
from serve_app.models.principal import Principal
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.service.conftest import Served
from tests.service.test_native import finished, upload

PUBLIC = {"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"}  # without data of tenants
OWN = {
    "/v1/models",
    "/v1/models/{model_id}",
    "/v1/webhooks/secrets",
    "/v1/webhooks/secrets/rotate",
}  # the caller's own; tested below


@pytest.fixture
async def mallory(served: Served, valkey: Valkey) -> AsyncIterator[httpx.AsyncClient]:
    """Client of another tenant, with every scope."""
    key = await ApiKeys(redis := connect(valkey.url)).create("mallory", "evil", ["admin"])
    async with httpx.AsyncClient(base_url=served.url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
        yield http
    await redis.aclose()


@pytest.fixture
async def alice_ids(served: Served, valkey: Valkey, sample: Path) -> AsyncIterator[dict[str, str]]:
    """Alice's objects, by path prefix: an ended job, and one made through each dialect."""
    key = await ApiKeys(redis := connect(valkey.url)).create("alice", "acme", ["admin"])
    served.http.headers["Authorization"] = f"Bearer {key}"
    job = await upload(served, sample)
    await finished(served, job["id"])
    ids = {"/v1/jobs": job["id"], "/v1/webhooks": f"{job['id']}:1-0"}
    for dialect in DIALECTS:
        jobs = served.app.jobs.for_dialect(dialect.name, "{}")
        async with jobs.draft(ALICE) as draft:
            served.app.artifacts.put(draft.source, sample.read_bytes())
            ids[dialect.prefix] = (await draft.submit(JobSpec("fake", echo=ECHO))).id
        async for _ in await jobs.follow(ALICE, ids[dialect.prefix], "0"):
            pass
    yield ids
    await redis.aclose()


ALICE = Principal("alice", "acme")
ECHO = {"responseFormat": "vtt", "providerId": "", "response_format": "json"} | {
    "transcription": '{"model":"m","language":{}}',
    "diarization": "null",
    "headers": "{}",
}
NAMES = {"name": "audio.wav", "kind": "transcriptText", "model_id": "fake"}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every method and path of the document."""
    for path, methods in document["paths"].items():
        for method in methods:
            yield method.upper(), path


async def test_no_route_reaches_another_tenants_objects(
    served: Served, mallory: httpx.AsyncClient, alice_ids: dict[str, str]
) -> None:
    before = (await served.http.get(f"/v1/jobs/{alice_ids['/v1/jobs']}")).json()
    tried = 0
    for method, path in operations((await served.http.get("/openapi.json")).json()):
        if path in PUBLIC | OWN:
            continue
        object_id = alice_ids[max((prefix for prefix in alice_ids if path.startswith(prefix)), key=len)]
        filled = re.sub(r"\{(\w+)\}", "{}", path).format(
            *(NAMES.get(name, object_id) for name in re.findall(r"\{(\w+)\}", path))
        )
        response = await mallory.request(method, filled)
        if "{" in path:
            assert response.status_code == 404, (method, path, response.text)
        else:
            assert response.status_code in (200, 400, 415), (method, path, response.text)
        assert not any(job_id in response.text for job_id in alice_ids.values() if f"/{job_id}" not in filled)
        tried += 1
    assert tried >= 25
    assert (await served.http.get(f"/v1/jobs/{alice_ids['/v1/jobs']}")).json() == before
    for job_id in (each for each in alice_ids.values() if ":" not in each):
        assert (await served.http.get(f"/v1/jobs/{job_id}")).json()["phase"] == "completed"


async def test_the_document_names_every_route(served: Served) -> None:
    """The test above tries the routes of the document."""
    document = (await served.http.get("/openapi.json")).json()
    routes = [
        route for dialect in DIALECTS for route in dialect.routes(served.context).routes if isinstance(route, APIRoute)
    ]
    named = {route.path.replace(":path}", "}"): route for route in routes}
    assert len(named) > 10
    hidden = {path for path in named if path not in document["paths"]}
    assert all(named[path].endpoint == named[path.removesuffix("/")].endpoint for path in hidden)
    assert len(hidden) == 3  # aliases with a slash at their end


async def test_every_reference_of_the_document_resolves(served: Served) -> None:
    """A dangling reference would be skipped by the fuzzer."""
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
    served: Served, mallory: httpx.AsyncClient, alice_ids: dict[str, str]
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
        response = await served.http.request(method, path, headers={"Authorization": f"Bearer {key}"})
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")
    assert (await served.http.get("/v1/webhooks/deliveries", headers={"X-API-Key": key})).json() == {
        "deliveries": [],
        "next_cursor": None,
    }
    await redis.aclose()

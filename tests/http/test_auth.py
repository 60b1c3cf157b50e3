"""Keys: which header counts, names that the service reserves, request ids, and the log of refusals."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from serve_app.dialects import key_headers
from serve_app.http.auth import sent_keys
from serve_app.http.request_ids import RequestIds
from serve_app.local.valkey import Valkey
from serve_app.logs import JsonLines
from serve_app.models.principal import name_fault
from serve_app.store.api_keys import ApiKeys, KeyRefused
from serve_app.store.connection import connect
from serve_app.store.scripts import key as redis_key
from tests.lib.edge import Edge, bearer, open_edge
from tests.service.conftest import Served
from tests.service.test_native import problem

BASIC = {"Authorization": "Basic eDp5"}
DUMMY = {"Authorization": "Bearer dummy"}


@pytest.fixture
async def edge(served: Served) -> AsyncIterator[Edge]:
    """Service that requires keys."""
    async with open_edge(served) as edge:
        yield edge


@pytest.mark.parametrize(
    "wrong", [{"x-bf-vk": "foreign"}, {"X-API-Key": "foreign"}, {"x-bf-vk": "", "X-API-Key": ""}, {"x-bf-vk": "mur_x_y"}]
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v2/jobs/auth", "/v1/async/audio/transcriptions/x"])
async def test_a_foreign_key_hides_no_good_authorization(edge: Edge, path: str, wrong: dict[str, str]) -> None:
    answer = await edge.http.get(path, headers=wrong | bearer(await edge.key()))
    assert answer.status_code in (200, 404), answer.text


@pytest.mark.parametrize("wrong", [BASIC, DUMMY, {"Authorization": "Bearer"}, {"Authorization": "Bearer a.b.c"}])
@pytest.mark.parametrize("name", ["X-API-Key", "x-bf-vk"])
async def test_a_foreign_authorization_hides_no_good_key(edge: Edge, name: str, wrong: dict[str, str]) -> None:
    assert (await edge.http.get("/v1/jobs", headers=wrong | {name: await edge.key()})).status_code == 200


async def test_without_a_good_key_a_foreign_one_is_refused(edge: Edge, served: Served) -> None:
    for http in (edge.http, served.http):
        for headers in (BASIC, DUMMY, {"x-bf-vk": "foreign"}, {"x-bf-vk": "a", "X-API-Key": "b", **DUMMY}):
            problem(await http.get("/v1/jobs", headers=headers), 401, "unauthenticated")


async def test_of_two_good_keys_the_one_of_the_paths_own_api_counts() -> None:
    headers = Headers({"x-bf-vk": "one", "Authorization": "Bearer two", "X-API-Key": "three"})
    assert list(sent_keys(headers, "x-bf-vk", key_headers())) == ["one", "two", "three"]
    assert list(sent_keys(headers, "", key_headers())) == ["two", "three", "one"]


# Names.


@pytest.mark.parametrize("name", [".", "..", "...", "anonymous", "Anonymous", "jwt.alice", "JWT.x", f"jwt-{'0' * 48}"])
async def test_a_name_of_the_service_is_refused_for_owners_and_tenants(valkey: Valkey, name: str) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    for owner, tenant in ((name, "t"), ("me", name)):
        with pytest.raises(KeyRefused, match="is refused"):
            await keys.create(owner, tenant, ["admin"])
    await redis.aclose()


@pytest.mark.parametrize("name", ["default", "a.b", ".a", "..a", "jwt", "jwt-gateway", "anonymous-1", "a@b.c"])
def test_other_names_are_allowed(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize(("field", "name"), [("name", "anonymous"), ("name", "jwt.alice"), ("tenant", "..")])
async def test_a_key_of_an_earlier_version_with_such_a_name_is_refused(edge: Edge, field: str, name: str) -> None:
    redis = edge.keys._redis
    old = await edge.key()
    await redis.hset(redis_key(f"key:{old.split('_')[1]}"), field, name)
    refused = problem(await edge.http.get("/v1/jobs", headers=bearer(old)), 403, "forbidden")
    assert name in refused["detail"]


async def test_a_key_that_is_revoked_while_it_is_rotated_leaves_no_rest(edge: Edge) -> None:
    redis = edge.keys._redis
    await redis.hset(redis_key("key:0123456789abcdef"), "expires_at", "1")
    assert await edge.keys.principal("mur_0123456789abcdef_x") is None
    assert await edge.keys.by_id("0123456789abcdef") is None


# Request ids.


@pytest.mark.parametrize("forged", ["abc job_id=SPOOFED webhook_id=evil", "a" * 129, "é", "a\tb"])
async def test_an_id_that_could_forge_fields_is_replaced_also_where_a_proxy_took_it(forged: str) -> None:
    ids: list[str] = []
    sent: list[Message] = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        ids.append(scope["state"]["request_id"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"x-request-id", forged.encode())]
    scope: Scope = {"type": "http", "headers": headers}
    await RequestIds(app, outer=lambda: forged)(scope, None, send)  # type: ignore[arg-type]
    assert len(ids[0]) == 32
    assert dict(sent[0]["headers"])[b"x-request-id"] == ids[0].encode(), "it can be found in the log"
    await RequestIds(app, outer=lambda: "good-1")({"type": "http", "headers": headers}, None, send)  # type: ignore[arg-type]
    assert (ids[1], sent[1]["headers"]) == ("good-1", []), "the proxy sends it"


async def test_a_jobs_request_id_is_bounded(edge: Edge, sample: Path) -> None:
    headers = bearer(await edge.key()) | {"X-Request-ID": "x" * 5000}
    made = await edge.http.post("/v1/jobs", files={"file": sample.read_bytes()}, headers=headers)
    job = await edge.served.app.store.jobs.get(made.json()["id"])
    assert job
    assert job.spec.request_id == made.headers["x-request-id"]
    assert len(job.spec.request_id or "") == 32


def test_the_first_id_of_a_log_line_is_its_field() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "job_id=%s failed: %s", ("j1", "job_id=SPOOFED"), None)
    assert '"job_id":"j1"' in JsonLines().format(record)


# Refusals.


async def test_refused_keys_are_logged_at_a_bounded_rate(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(50):
        await edge.http.get("/v1/jobs", headers=bearer(f"guess-{number}"))
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(lines) == 1
    assert "unauthenticated, remote=127.0.0.1" in lines[0]
    assert "guess" not in lines[0]


# The tenant's view.


async def test_a_key_may_read_but_not_change_the_jobs_of_its_tenant(edge: Edge, sample: Path) -> None:
    owner = bearer(await edge.key("alice", "acme"))
    job_id = (await edge.http.post("/v1/jobs", files={"file": sample.read_bytes()}, headers=owner)).json()["id"]
    await edge.http.get(f"/v1/jobs/{job_id}/events", headers=owner)
    scopes = ("speech:transcriptions:read", "speech:tenant:read")
    operator, writer, other, admin = [
        bearer(await edge.key("ops", tenant, *granted))
        for tenant, granted in (("acme", scopes), ("acme", ("admin", *scopes)), ("else", scopes), ("acme", ("admin",)))
    ]
    for path in ("", "/events", "/transcript", "/artifacts/source"):
        assert (await edge.http.get(f"/v1/jobs/{job_id}{path}", headers=operator)).status_code == 200
        for stranger in (other, admin):
            problem(await edge.http.get(f"/v1/jobs/{job_id}{path}", headers=stranger), 404, "not_found")
    for method, path in (("POST", "/cancel"), ("POST", "/retry"), ("DELETE", ""), ("DELETE", "?purge=false")):
        problem(await edge.http.request(method, f"/v1/jobs/{job_id}{path}", headers=writer), 403, "forbidden")
    listed = await edge.http.get("/v1/jobs?owner=alice", headers=operator)
    assert [job["id"] for job in listed.json()["jobs"]] == [job_id]
    assert (await edge.http.get("/v1/jobs", headers=operator)).json()["jobs"] == []
    assert (await edge.http.get("/v1/jobs?owner=alice", headers=other)).json()["jobs"] == []
    problem(await edge.http.get("/v1/jobs?owner=alice", headers=admin), 403, "forbidden")
    made = await edge.http.post(f"/v1/jobs/{job_id}/ticket", headers=operator)
    ticket = {"ticket": made.json()["ticket"]}
    assert (await edge.http.get(f"/v1/jobs/{job_id}/transcript", params=ticket)).status_code == 200


async def test_anonymous_jobs_can_be_read_once_keys_are_required(edge: Edge, served: Served, sample: Path) -> None:
    job_id = (await served.http.post("/v1/jobs", files={"file": sample.read_bytes()})).json()["id"]
    operator = bearer(await edge.key("ops", "default", "speech:transcriptions:read", "speech:tenant:read"))
    listed = await edge.http.get("/v1/jobs?owner=anonymous", headers=operator)
    assert [job["id"] for job in listed.json()["jobs"]] == [job_id]
    for http, headers, status in ((served.http, {}, 401), (edge.http, operator, 200)):
        made = await http.post(f"/v1/jobs/{job_id}/ticket", headers=headers)
        answer = await edge.http.get(f"/v1/jobs/{job_id}", params={"ticket": made.json()["ticket"]})
        assert answer.status_code == status, "an anonymous ticket is none where keys are required"

"""API keys: created on the command line, sent over HTTP; jobs are separated by name and tenant."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from serve_app.local.valkey import Valkey
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.lib.murmur_process import murmur, valkey_server
from tests.service.conftest import Served
from tests.service.test_native import finished, problem, upload


def keys(*arguments: str | Path) -> str:
    """Run `murmur keys`; returns its standard output."""
    done = murmur("keys", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_jobs_are_visible_to_keys_of_their_name_and_tenant(served: Served, valkey: Valkey, sample: Path) -> None:
    store = ApiKeys(redis := connect(valkey.url))
    alice, again, bob, other = [
        await store.create(name, tenant, ["admin"])
        for name, tenant in (("alice", "acme"), ("alice", "acme"), ("bob", "acme"), ("alice", "else"))
    ]
    served.http.headers.update(bearer(alice))
    job = await upload(served, sample)
    await finished(served, job["id"])
    paths = [f"/v1/jobs/{job['id']}{rest}" for rest in ("", "/events", "/transcript", "/artifacts/source")]
    for headers in ({"X-API-Key": again}, {"x-bf-vk": again}, bearer(again)):
        served.http.headers.pop("authorization", None)
        assert (await served.http.get(paths[0], headers=headers)).status_code == 200
    for headers in (bearer(bob), bearer(other), {}):
        for path in paths:
            problem(await served.http.get(path, headers=headers), 404, "not_found")
        for path in (f"{paths[0]}/cancel", f"{paths[0]}/retry"):
            problem(await served.http.post(path, headers=headers), 404, "not_found")
        problem(await served.http.delete(paths[0], headers=headers), 404, "not_found")
        assert (await served.http.get("/v1/jobs", headers=headers)).json()["jobs"] == []
    assert len((await served.http.get("/v1/jobs", headers=bearer(again))).json()["jobs"]) == 1
    await redis.aclose()


async def test_a_key_allows_what_its_scopes_say(served: Served, valkey: Valkey, sample: Path) -> None:
    store = ApiKeys(redis := connect(valkey.url))
    reader = bearer(await store.create("a", "t", ["speech:transcriptions:read"]))
    writer = bearer(await store.create("a", "t", ["speech:transcriptions:write"]))
    refused = problem(await served.http.post("/v1/jobs", headers=reader, files={"file": b"x"}), 403, "forbidden")
    assert "speech:transcriptions:write" in refused["detail"]
    created = await served.http.post("/v1/jobs", headers=writer, files={"file": sample.read_bytes()})
    assert created.status_code == 202
    path = f"/v1/jobs/{created.json()['id']}"
    problem(await served.http.get(path, headers=writer), 403, "forbidden")
    assert (await served.http.get(path, headers=reader)).status_code == 200
    problem(await served.http.delete(path, headers=reader), 403, "forbidden")
    await redis.aclose()


@pytest.mark.parametrize(
    "headers",
    [
        bearer("mur_0123456789abcdef_x"),
        bearer("x"),
        {"Authorization": "Bearer"},
        {"Authorization": "Basic eA=="},
        {"X-API-Key": ""},
    ],
)
async def test_an_invalid_key_is_refused_even_where_none_is_required(served: Served, headers: dict[str, str]) -> None:
    answer = await served.http.get("/v1/jobs", headers=headers)
    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_keys_expire_rotate_and_are_revoked(valkey: Valkey) -> None:
    store = ApiKeys(redis := connect(valkey.url))
    await redis.flushall()
    brief = await store.create("a", "t", ["admin"], lifetime_s=-1)
    assert await store.principal(brief) is None
    old = await store.create("a", "t", ["admin"])
    fresh = await store.rotate(old.split("_")[1], overlap_s=3600)
    assert await store.principal(old) == await store.principal(fresh) is not None
    newest = await store.rotate(fresh.split("_")[1], overlap_s=0)
    assert await store.principal(fresh) is None
    await store.revoke(newest.split("_")[1])
    assert await store.principal(newest) is None
    values = [str(await redis.dump(key)) for key in await redis.keys("*")]
    assert not [value for value in values if old.split("_", 2)[2] in value], "no secret is stored"
    await redis.aclose()


def test_keys_are_created_listed_rotated_and_revoked_without_a_running_service(tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "data")
    key = keys("create", "--name", "alice", "--tenant", "acme", "--scope", "admin", "--expires", "90d", *data)
    assert re.fullmatch(r"mur_[0-9a-f]{16}_[\w-]{43}", key)
    key_id = key.split("_")[1]
    listed = keys("list", *data)
    assert key_id in listed
    assert "acme" in listed
    assert key.split("_", 2)[2] not in listed
    fresh = keys("rotate", key_id, "--overlap", "1h", *data)
    keys("revoke", key_id, *data)
    assert key_id not in keys("list", *data)
    assert fresh.split("_")[1] in keys("list", *data)
    for wrong in (("revoke", "none"), ("create", "--name", "a/b"), ("create", "--name", "a", "--scope", "b")):
        done = murmur("keys", *wrong, *data)
        store, error = done.stderr.splitlines()
        assert done.returncode == 1
        assert store == f"keys in {data[1]}, which no running service uses"
        assert error.startswith("murmur: ")


@pytest.mark.parametrize("command", [("list",), ("revoke", "x"), ("rotate", "x")])
def test_a_store_that_does_not_exist_is_refused_and_not_created(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = murmur("keys", *command, "--data-dir", tmp_path / "data")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"murmur: there are no keys in {tmp_path / 'data'}: name the service's --data-dir or --redis-url\n"
    assert list(tmp_path.iterdir()) == []


async def test_keys_in_redis_name_it_and_whether_a_service_uses_it(tmp_path: Path) -> None:
    with valkey_server(tmp_path) as valkey:
        listed = await asyncio.to_thread(murmur, "keys", "list", "--redis-url", valkey.url)
        assert (listed.returncode, listed.stderr) == (0, f"keys in {valkey.url}, which no running service uses\n")
        redis = connect(valkey.url, "ingress")
        await redis.ping()
        listed = await asyncio.to_thread(murmur, "keys", "list", "--redis-url", valkey.url)
        assert (listed.returncode, listed.stderr) == (0, f"keys in {valkey.url}\n")
        await redis.aclose()


def test_an_invalid_setting_is_one_line(tmp_path: Path) -> None:
    done = murmur("keys", "list", "--data-dir", tmp_path, MURMUR_PORT="x")
    assert done.returncode == 2
    assert done.stderr.startswith("murmur: MURMUR_PORT: ")
    assert len(done.stderr.splitlines()) == 1

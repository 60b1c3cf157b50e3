"""API keys: made on the command line, sent over HTTP, and what they keep apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serve_app.local.valkey import Valkey
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.lib.murmur_process import murmur
from tests.service.conftest import Served
from tests.service.test_native import finished, problem, upload


def made(*arguments: str | Path) -> str:
    done = murmur("keys", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_jobs_are_seen_by_those_of_their_name_and_tenant(served: Served, valkey: Valkey, sample: Path) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    alice, again, bob, other = [
        await keys.create(name, tenant, ["admin"])
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


async def test_a_key_does_what_its_scopes_say(served: Served, valkey: Valkey, sample: Path) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    reader = bearer(await keys.create("a", "t", ["speech:transcriptions:read"]))
    writer = bearer(await keys.create("a", "t", ["speech:transcriptions:write"]))
    refused = problem(await served.http.post("/v1/jobs", headers=reader, files={"file": b"x"}), 403, "forbidden")
    assert "speech:transcriptions:write" in refused["detail"]
    made = await served.http.post("/v1/jobs", headers=writer, files={"file": sample.read_bytes()})
    assert made.status_code == 202
    path = f"/v1/jobs/{made.json()['id']}"
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
async def test_a_wrong_key_is_refused_where_none_is_required(served: Served, headers: dict[str, str]) -> None:
    answer = await served.http.get("/v1/jobs", headers=headers)
    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_keys_end(valkey: Valkey) -> None:
    keys = ApiKeys(redis := connect(valkey.url))
    await redis.flushall()
    brief = await keys.create("a", "t", ["admin"], lifetime_s=-1)
    assert await keys.principal(brief) is None
    old = await keys.create("a", "t", ["admin"])
    fresh = await keys.rotate(old.split("_")[1], overlap_s=3600)
    assert await keys.principal(old) == await keys.principal(fresh) is not None
    newest = await keys.rotate(fresh.split("_")[1], overlap_s=0)
    assert await keys.principal(fresh) is None
    await keys.revoke(newest.split("_")[1])
    assert await keys.principal(newest) is None
    kept = [str(await redis.dump(key)) for key in await redis.keys("*")]
    assert not [value for value in kept if old.split("_", 2)[2] in value], "no secret is kept"
    await redis.aclose()


def test_keys_are_made_listed_rotated_and_revoked_without_the_service(tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "data")
    key = made("create", "--name", "alice", "--tenant", "acme", "--scope", "admin", "--expires", "90d", *data)
    assert re.fullmatch(r"mur_[0-9a-f]{16}_[\w-]{43}", key)
    key_id = key.split("_")[1]
    listed = made("list", *data)
    assert key_id in listed
    assert "acme" in listed
    assert key.split("_", 2)[2] not in listed
    fresh = made("rotate", key_id, "--overlap", "1h", *data)
    made("revoke", key_id, *data)
    assert key_id not in made("list", *data)
    assert fresh.split("_")[1] in made("list", *data)
    for wrong in (("revoke", "none"), ("create", "--name", "a/b"), ("create", "--name", "a", "--scope", "b")):
        done = murmur("keys", *wrong, *data)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr

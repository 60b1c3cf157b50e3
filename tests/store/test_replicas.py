"""Writes that wait for replicas of Redis."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

import pytest

from serve_app.errors import StoreUnavailable
from serve_app.local.valkey import Valkey
from serve_app.models.job import JobSpec, Phase
from serve_app.models.submission import IdempotencyRecord, SubmitOutcome
from serve_app.store import scripts
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store

SPEC = JobSpec("base")
ONCE = IdempotencyRecord("digest", "fingerprint")


@pytest.fixture
async def replicated(store: Store) -> Store:
    """A store that needs one replica, and has none."""
    return Store(store._redis, replicas=1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_without_its_replica_a_submit_is_not_acknowledged_and_a_repeat_finds_the_job(
    store: Store, replicated: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "CONFIRM_MS", 50)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            await replicated.jobs.submit("job", "me", "t", SPEC, ttl_s=60, idempotency=ONCE)
    with pytest.raises(StoreUnavailable):
        await replicated.jobs.submit("another", "me", "t", SPEC, ttl_s=60, idempotency=ONCE)
    again = await store.jobs.submit("another", "me", "t", SPEC, ttl_s=60, idempotency=ONCE)
    assert (again.outcome, again.job_id) == (SubmitOutcome.SAME, "job")
    assert (await store.stats.read()).waiting == 1


async def test_without_its_replica_an_end_is_not_acknowledged_and_may_be_repeated(
    store: Store, replicated: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "CONFIRM_MS", 50)
    await store.jobs.submit("job", "me", "t", SPEC, ttl_s=60)
    claim = await store.leases.claim("worker")
    assert claim
    with pytest.raises(StoreUnavailable):
        await replicated.leases.finish(claim, Phase.COMPLETED)
    assert await store.leases.finish(claim, Phase.COMPLETED), "the repeat of an end is no lost lease"
    assert (await store.stats.read()).counters["jobs_completed"] == 1


async def test_with_its_replica_writes_are_acknowledged(valkey: Valkey, replicated: Store, tmp_path: Path) -> None:
    port = free_port()
    await replicated._redis.config_set("port", port)
    with tempfile.TemporaryDirectory(prefix="murmur-test-", dir="/tmp") as run_dir:
        replica = Valkey(tmp_path, Path(run_dir))
        replica.start()
        client = connect(replica.url)
        try:
            await client.replicaof("127.0.0.1", port)
            async with asyncio.timeout(30):
                while (await client.info("replication"))["master_link_status"] != "up":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            result = await replicated.jobs.submit("job", "me", "t", SPEC, ttl_s=60)
            assert result.outcome is SubmitOutcome.NEW
            assert await Store(client).jobs.get("job") == await replicated.jobs.get("job")
        finally:
            await client.aclose()
            replica.stop()
            await replicated._redis.config_set("port", 0)

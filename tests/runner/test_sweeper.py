"""Upkeep: one leader, trouble with one job that stops no other, private jobs, audio and orphaned folders."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError
from serve_app.jobs.removal import delete_job
from serve_app.local.valkey import Valkey
from serve_app.models.job import JobError, JobSpec, Phase
from serve_app.models.lease import LeaseRules
from serve_app.models.storage_paths import AUDIO, SOURCE, job_folder, pcm_prefix, source_key
from serve_app.runner import orphans
from serve_app.runner.sweeper import Sweeper
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.scripts import key
from serve_app.store.upkeep_store import DueList
from tests.lib.app import ME, App

SPEC = JobSpec("base")
RECORD = replace(SPEC, record_ttl_s=2_592_000)


class FailingStorage(Artifacts):
    """Storage that refuses to delete what is `stuck`, and waits while it is `slow`."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.stuck: set[str] = set()
        self.slow: threading.Event | None = None
        self.deleting = threading.Event()

    def delete(self, prefix: str) -> None:
        self.deleting.set()
        if self.slow:
            self.slow.wait(30)
        if prefix in self.stuck:
            raise PermissionError(13, "Permission denied", prefix)
        super().delete(prefix)


@pytest.fixture
def artifacts(tmp_path: Path) -> FailingStorage:
    return FailingStorage((tmp_path / "artifacts").as_uri())


@pytest.fixture
async def raw(valkey: Valkey, store: Store) -> AsyncIterator[Any]:
    """Client for what no script does."""
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        yield redis


def a_sweeper(store: Store, artifacts: Artifacts, **options: Any) -> Sweeper:
    return Sweeper(store, artifacts, **{"period_s": 0.02, "stream_grace_s": 3600, "lead_s": 0.2, **options})


@asynccontextmanager
async def sweeping(sweeper: Sweeper) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(sweeper.run())
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a coroutine function returns something true."""
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def ended(store: Store, artifacts: Artifacts, job_id: str, spec: JobSpec = SPEC, *, ttl_s: float = 0.0) -> None:
    """Record an ended job with a source and decoded audio."""
    await store.jobs.submit(job_id, ME.owner, ME.tenant, spec, ttl_s=ttl_s)
    claim = await store.leases.claim("worker")
    assert claim
    await asyncio.to_thread(artifacts.put, source_key(job_id), b"source")
    await asyncio.to_thread(artifacts.put, f"{pcm_prefix(job_id)}/00000", b"pcm")
    await store.leases.finish(claim, Phase.COMPLETED)


async def test_a_folder_that_cannot_be_deleted_stops_nothing_else(store: Store, artifacts: FailingStorage, raw: Any) -> None:
    artifacts.stuck.add(job_folder("stuck"))
    await ended(store, artifacts, "stuck", RECORD)
    await ended(store, artifacts, "second")
    sweeper = a_sweeper(store, artifacts)
    await sweeper.sweep()
    await sweeper.sweep()
    assert await asyncio.to_thread(artifacts.folders, "jobs") == [job_folder("stuck")]
    assert await store.jobs.get("second") is None
    job = await store.jobs.get("stuck")
    assert job
    assert job.purged_at, "its record is kept as long as was promised"
    artifacts.stuck.clear()
    await raw.zadd(key(DueList.REMOVALS), {job_folder("stuck"): 1})  # its delay is over
    await sweeper.sweep()
    assert await asyncio.to_thread(artifacts.folders, "jobs") == []
    assert await store.jobs.get("stuck")


async def test_a_private_job_whose_audio_cannot_be_deleted_stops_no_other(
    store: Store, artifacts: FailingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.runner.sweeper.STRAGGLER_S", 0.0)
    private = replace(SPEC, private=True)
    artifacts.stuck.add(source_key("stuck"))
    for job_id in ("stuck", "second"):
        await ended(store, artifacts, job_id, private, ttl_s=60)
    await a_sweeper(store, artifacts).sweep()
    assert await asyncio.to_thread(artifacts.keys, job_folder("second")) == []
    assert await store.upkeep.private_ended(0.0) == [], "the first is due again later"
    assert await store.upkeep.private_ended(-3600.0) == ["stuck"]


async def test_a_job_deleted_by_its_owner_is_gone_though_its_files_cannot_be_deleted(
    store: Store, artifacts: FailingStorage, raw: Any
) -> None:
    await ended(store, artifacts, "stuck", ttl_s=60)
    artifacts.stuck.add(job_folder("stuck"))
    await delete_job(store, artifacts, "stuck")
    assert await store.jobs.get("stuck") is None
    artifacts.stuck.clear()
    await raw.zadd(key(DueList.REMOVALS), {job_folder("stuck"): 1})
    await a_sweeper(store, artifacts).sweep()
    assert await asyncio.to_thread(artifacts.folders, "jobs") == []


async def test_slow_deletes_delay_no_lease(valkey: Valkey, store: Store, artifacts: FailingStorage) -> None:
    artifacts.slow = threading.Event()
    await ended(store, artifacts, "expired")
    async with sweeping(a_sweeper(store, artifacts)):
        await asyncio.to_thread(artifacts.deleting.wait, 30)
        expiring = Store(connect(valkey.url), LeaseRules(lease_s=-1.0))
        await store.jobs.submit("lost", ME.owner, ME.tenant, SPEC, ttl_s=60)
        assert await expiring.leases.claim("dead worker")

        async def requeued() -> bool:
            job = await store.jobs.get("lost")
            return job is not None and job.phase is Phase.QUEUED

        await until(requeued)
        artifacts.slow.set()
        await expiring.close()


async def test_one_sweeper_works_and_another_takes_over(store: Store, artifacts: FailingStorage, raw: Any) -> None:
    first, second = a_sweeper(store, artifacts), a_sweeper(store, artifacts)

    async def leader() -> str | None:
        name: str | None = await raw.get(key("leader:sweeper"))
        return name

    async with sweeping(second):
        async with sweeping(first):
            await until(leader)
            leading = await leader()
            await ended(store, artifacts, "a")

            async def expired() -> bool:
                return await store.jobs.get("a") is None

            await until(expired)
            assert await leader() == leading, "it renews its leadership"
        # One of them has ended; the other leads, now or as before.
        await until(leader)
        await ended(store, artifacts, "b")

        async def also_expired() -> bool:
            return await store.jobs.get("b") is None

        await until(also_expired)
    assert await leader() is None, "a sweeper that stops steps down"


async def test_a_sweep_that_fails_is_logged_and_tried_again(
    store: Store, artifacts: FailingStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([ValueError("a bug")])

    async def expire() -> int:
        for failure in failures:
            raise failure
        return 0

    monkeypatch.setattr(store.upkeep, "expire", expire)
    async with sweeping(a_sweeper(store, artifacts)) as running:

        async def logged() -> bool:
            return "sweep of expired results failed, retrying" in caplog.text

        await until(logged)
        assert not running.done()


async def test_an_operator_can_have_audio_deleted_before_the_results(app: App, sample: Path, raw: Any) -> None:
    job_id = await app.submit(sample)
    await app.ended(job_id)
    await app.runner.stop()  # whose sweeper keeps audio
    assert (await app.jobs.artifact(ME, job_id, SOURCE)).size  # and it is remembered
    await raw.zadd(key("audio"), {job_id: 1})
    sweeper = a_sweeper(app.store, app.artifacts, audio_ttl_s=0.001)
    await sweeper.sweep()
    await sweeper.sweep()
    kept = await asyncio.to_thread(app.artifacts.keys, job_folder(job_id))
    assert [name.rpartition("/")[2].partition(".")[0] for name in kept] == ["transcript"]
    assert (await app.jobs.transcript(ME, job_id)).text
    for name in (SOURCE, AUDIO):
        with pytest.raises(RequestError, match="recording was deleted") as caught:
            await app.jobs.artifact(ME, job_id, name)
        assert caught.value.code == "gone"


async def test_a_failed_job_without_its_recording_is_not_retried(app: App, raw: Any) -> None:
    job_id = await app.submit(b"no sound")
    await app.ended(job_id)
    await app.runner.stop()  # whose sweeper keeps audio
    await raw.zadd(key("audio"), {job_id: 1})
    sweeper = a_sweeper(app.store, app.artifacts, audio_ttl_s=0.001)
    await sweeper.sweep()
    with pytest.raises(RequestError, match="send it again") as caught:
        await app.jobs.retry(ME, job_id)
    assert caught.value.code == "conflict"


async def test_a_failed_job_with_a_url_is_fetched_again(app: App, artifacts: FailingStorage) -> None:
    store, spec = app.store, replace(SPEC, url="https://there/", dialect="")
    await app.runner.stop()
    await store.jobs.submit("j", ME.owner, ME.tenant, spec, ttl_s=60)
    claim = await store.leases.claim("worker")
    assert claim
    await store.leases.finish(claim, Phase.FAILED, JobError("internal", "It failed."))
    await asyncio.to_thread(artifacts.put, source_key("j"), b"source")
    artifacts.stuck.add(source_key("j"))
    sweeper = a_sweeper(store, artifacts, audio_ttl_s=0.001)
    await sweeper.sweep()
    with pytest.raises(RequestError, match="being deleted"):
        await app.jobs.retry(ME, "j")
    artifacts.stuck.clear()
    artifacts.delete(source_key("j"))
    await store.upkeep.removed(source_key("j"))
    assert (await app.jobs.retry(ME, "j")).phase is Phase.QUEUED


async def test_urls_of_private_jobs_leave_the_append_only_file(
    store: Store, artifacts: FailingStorage, valkey: Valkey, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.runner.sweeper.STRAGGLER_S", 0.0)
    secret = "https://there/secret-of-a-private-job"
    await ended(store, artifacts, "j", replace(SPEC, private=True, url=secret), ttl_s=60)
    folder = Path((await raw.config_get("dir"))["dir"]) / (await raw.config_get("appenddirname"))["appenddirname"]

    def logged() -> bool:
        return any(secret.encode() in path.read_bytes() for path in folder.iterdir())

    assert logged()
    await a_sweeper(store, artifacts).sweep()

    async def rewritten() -> bool:
        return not await asyncio.to_thread(logged)

    await until(rewritten)
    await ended(store, artifacts, "k", replace(SPEC, private=True, url=secret), ttl_s=60)
    await a_sweeper(store, artifacts).sweep()
    assert await raw.get(key("rewrite_wanted")) == "1", "not again for a while"


async def test_a_redis_that_refuses_a_rewrite_is_told_once(
    store: Store, artifacts: FailingStorage, raw: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve_app.runner.sweeper.STRAGGLER_S", 0.0)
    monkeypatch.setattr("serve_app.runner.sweeper.REWRITE_EVERY_S", 0.001)
    sweeper = a_sweeper(store, artifacts)
    await raw.acl_setuser("default", commands=["-bgrewriteaof"], enabled=True, nopass=True)
    try:
        for job_id in ("j", "k"):
            await ended(store, artifacts, job_id, replace(SPEC, private=True), ttl_s=60)
            await sweeper.sweep()
            await asyncio.sleep(0.01)
    finally:
        await raw.acl_setuser("default", commands=["+bgrewriteaof"], enabled=True, nopass=True)
    assert caplog.text.count("Redis refuses BGREWRITEAOF") == 1


async def test_only_folders_without_a_job_are_removed(
    app: App, artifacts: Artifacts, store: Store, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "BATCH", 1)
    job_id = await app.submit(sample)
    await app.ended(job_id)
    artifacts.put("jobs/gone/source", b"x")
    artifacts.put("parts/dead", b"half")
    sweeper = a_sweeper(store, artifacts)
    assert await sweeper.sweep_orphans() == 0, "it may be an upload under way"
    kept = artifacts.keys(job_folder(job_id))
    assert artifacts.keys("parts") == ["parts/dead"]
    assert await sweeper.sweep_orphans(min_age_s=0) == 1
    assert artifacts.keys("parts") == []
    assert artifacts.folders("jobs") == [job_folder(job_id)]
    assert artifacts.keys(job_folder(job_id)) == kept


async def test_an_orphan_that_cannot_be_deleted_stops_no_other(store: Store, artifacts: FailingStorage) -> None:
    for name in ("a", "b", "c"):
        artifacts.put(f"jobs/{name}/source", b"x")
    artifacts.stuck.add("jobs/b")
    sweeper = a_sweeper(store, artifacts)
    assert await sweeper.sweep_orphans(min_age_s=0) == 2
    artifacts.stuck.clear()
    assert await sweeper.sweep_orphans(min_age_s=0) == 1


async def test_an_interrupted_sweep_of_orphans_goes_on_where_it_was(
    store: Store, artifacts: FailingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "BATCH", 1)
    for name in ("a", "b", "c"):
        artifacts.put(f"jobs/{name}/source", b"x")
    looked_at: list[str] = []
    keep = store.upkeep.jobs_keep_files

    async def look(ids: list[str]) -> list[bool]:
        looked_at.extend(ids)
        if looked_at == ["a", "b"]:
            raise OSError("the connection broke")
        return [True for _ in await keep(ids)]

    monkeypatch.setattr(store.upkeep, "jobs_keep_files", look)
    sweeper = a_sweeper(store, artifacts)
    with pytest.raises(OSError, match="broke"):
        await sweeper.sweep_orphans(min_age_s=0)
    await sweeper.sweep_orphans(min_age_s=0)
    assert looked_at == ["a", "b", "b", "c"]

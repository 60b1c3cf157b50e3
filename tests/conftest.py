"""What several tests need: a storage, a real Valkey, the recordings."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from deployments.storage.artifacts import Artifacts
from deployments.transcoding.ffmpeg import find_ffmpeg
from serve_app.local.valkey import Valkey
from serve_app.models.lease import LeaseRules
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from tests.lib.app import App, open_app
from tests.lib.recordings import SAMPLE
from tests.lib.s3 import Storage, storage

CLUSTER = {"test_cli", "test_cluster", "test_vendors"}
"""Files whose tests share the `cluster` of the session."""


class Rooms(LoadFileScheduling):  # type: ignore[misc] # it has no types
    """Tests of a file keep together, and those of the cluster, so that it is started once."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(super()._split_scope(nodeid))
        return "cluster" if file.stem in CLUSTER else str(file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Rooms:
    """What tests run together in one process, where there are several."""
    return Rooms(config, log)


@pytest.fixture(scope="session")
def s3() -> Iterator[Storage]:
    """A server of buckets."""
    with storage() as server:
        yield server


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """A storage in a folder of the test's own."""
    return Artifacts((tmp_path / "artifacts").as_uri())


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """The ffmpeg that the product finds."""
    return find_ffmpeg().path


@pytest.fixture(scope="session")
def sample() -> Path:
    """The shipped recording."""
    return SAMPLE


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A real server, started as `murmur up` starts it."""
    # A socket's path holds 107 bytes; pytest's folders may be longer than that.
    with tempfile.TemporaryDirectory(prefix="murmur-test-", dir="/tmp") as run_dir:
        server = Valkey(tmp_path_factory.mktemp("valkey"), Path(run_dir))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def leases() -> LeaseRules:
    """Those of a worker that a busy machine does not make look dead."""
    return LeaseRules(lease_s=30.0)


@pytest.fixture
async def store(valkey: Valkey, leases: LeaseRules) -> AsyncIterator[Store]:
    """An empty store."""
    redis = connect(valkey.url)
    await redis.flushall()
    store = Store(redis, leases)
    yield store
    await store.close()


@pytest.fixture
async def app(store: Store, artifacts: Artifacts, ffmpeg: str) -> AsyncIterator[App]:
    """The core without Ray, with its Runner working."""
    async with open_app(store, artifacts, ffmpeg) as app:
        yield app

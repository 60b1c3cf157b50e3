"""Fixtures shared by all tests, and their distribution over processes."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis.utils
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from deployments.storage.artifacts import Artifacts
from deployments.transcoding.ffmpeg import find_ffmpeg
from serve_app.local.valkey import Valkey
from serve_app.models.lease import LeaseRules
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from tests.lib.app import App, open_app
from tests.lib.memoized_vad import memoized_vad
from tests.lib.recordings import SAMPLE
from tests.lib.s3 import Storage, storage

if TYPE_CHECKING:
    from tests.lib.shared_api import SharedApi

# A busy machine makes single examples slow.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# Tests that start Ray, by fixture and by file, and files that load Whisper or fuzz the API: `make test-fast` leaves them
# out.
RAY_FIXTURES = {"cluster", "edge"}
RAY_FILES = {"test_chaos", "test_cli", "test_graph", "test_secure", "test_up"}
WHISPER_FILES = {
    "test_bf16_encoder",
    "test_faster_whisper",
    "test_faster_whisper_channels",
    "test_faster_whisper_parts",
    "test_gpu_bench",
}
FUZZ_FILES = {"test_fuzzed"}
# Files whose tests share the fixture `cluster`, and folders whose tests have a store of their own, or share nothing.
CLUSTER_FILES = {"test_cli", "test_cluster", "test_vendors"}
ANYWHERE = {"dialects", "http", "jobs", "runner", "store"}
# Files with a test that takes many seconds: begun early, it keeps no process waiting at the end.
LONG_FILES = {"test_fuzzed", "test_koldan_states", "test_store_model_based", "test_suspended"}
# Polling intervals, and the longest delay before a retry.
SHORT_WAITS_S = {
    "runner.IDLE_S": 0.1,
    "runner.LONGEST_DELAY_S": 0.2,
    "runner.OUTAGE_DELAY_S": 0.2,
    "downloads.PAUSE_S": 0.2,
    "patience.PAUSE_S": 0.05,
    "window_decoder.MODEL_AWAY_S": 0.2,
    "window_decoder.RETRY_S": 0.1,
    "summaries.IDLE_S": 0.1,
    "webhook_sender.IDLE_S": 0.1,
}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test as `ray`, `whisper` or `fuzz`; not in pytest_collection_modifyitems, where pytest selects by marks."""
    file = item.path.stem
    if file in RAY_FILES or RAY_FIXTURES & set(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.ray)
    if file in WHISPER_FILES:
        item.add_marker(pytest.mark.whisper)
    if file in FUZZ_FILES:
        item.add_marker(pytest.mark.fuzz)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc] # it has no types
    """Distribution over processes: by file, one service for the files of CLUSTER_FILES, single tests of ANYWHERE."""

    # xdist's own loadgroup writes groups into node ids, which pytest 9.2 no longer reads.
    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        if file.stem in CLUSTER_FILES:
            return "cluster"
        return nodeid if file.parent.name in ANYWHERE and file.stem not in LONG_FILES else str(file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Distribute tests by `Scheduling`, where there are several processes."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin long tests early, so that none keeps a process waiting at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG_FILES)


@pytest.fixture(scope="session", autouse=True)
def _short_waits() -> Iterator[None]:
    """Shorten what tests of one process would otherwise wait for."""
    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in SHORT_WAITS_S.items():
            patch.setattr(f"serve_app.runner.{name}", seconds)
        # Each SafeHttp loads the CA bundle (20 ms), each Redis connection reads its package's metadata (1 ms).
        patch.setattr(httpx, "create_ssl_context", cache(httpx.create_ssl_context))
        patch.setattr(redis.utils, "get_lib_version", cache(redis.utils.get_lib_version))
        yield


@pytest.fixture(scope="session")
def shared_api() -> SharedApi:
    """The application of this process; `bind` it to the objects of a test."""
    from tests.lib.shared_api import SharedApi

    return SharedApi()


@pytest.fixture(name="memoized_vad")
def _memoized_vad() -> Iterator[None]:
    """Run the VAD once on each recording, for tests that do not test it."""
    with memoized_vad():
        yield


@pytest.fixture(scope="session")
def s3() -> Iterator[Storage]:
    """S3 server (moto), once per process."""
    with storage() as server:
        yield server


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Empty storage in a temporary folder."""
    return Artifacts((tmp_path / "artifacts").as_uri())


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """Path of the ffmpeg that the product finds."""
    return find_ffmpeg().path


@pytest.fixture(scope="session")
def sample() -> Path:
    """Path of the shipped recording."""
    return SAMPLE


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """Valkey server, started as `murmur up` starts it."""
    # A socket's path holds 107 bytes; pytest's folders may be longer than that.
    with tempfile.TemporaryDirectory(prefix="murmur-test-", dir="/tmp") as run_dir:
        server = Valkey(tmp_path_factory.mktemp("valkey"), Path(run_dir))
        server.start()
        # No test cuts the power: an fsync for each write would take most of a test's time.
        with redis.Redis.from_url(server.url) as client:
            client.config_set("appendfsync", "no")
        yield server
        server.stop()


@pytest.fixture
def leases() -> LeaseRules:
    """Leases long enough not to expire on a busy machine."""
    return LeaseRules(lease_s=30.0)


@pytest.fixture
async def store(valkey: Valkey, leases: LeaseRules) -> AsyncIterator[Store]:
    """Empty store."""
    client = connect(valkey.url)
    await client.flushall()
    store = Store(client, leases)
    yield store
    await store.close()


@pytest.fixture
async def app(store: Store, artifacts: Artifacts, ffmpeg: str) -> AsyncIterator[App]:
    """Application core without Ray, with its Runner started."""
    async with open_app(store, artifacts, ffmpeg) as app:
        yield app

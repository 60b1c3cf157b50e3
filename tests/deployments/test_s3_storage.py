"""Artifacts in S3: objects are whole or not there, few requests, trouble is transient."""

from __future__ import annotations

import gc
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import pytest

from deployments.errors import SourceUnreachable, StorageFull, StorageUnavailable
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import Buckets
from deployments.ingestion.safe_http import SafeHttp
from deployments.ingestion.stage import Ingestion
from deployments.messages import FetchRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import PART_SAMPLES, PcmWriter
from deployments.storage.writer import DIRECT_BYTES
from tests.lib.recordings import ROOT
from tests.lib.s3 import DENIED, FULL, SLOW_DOWN, Failure, Storage
from tests.lib.web_server import WebServer, answer, serving

KEY = "jobs/j1/source"
LONG = bytes(range(256)) * (DIRECT_BYTES // 128)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Storage in a new bucket, and the server that counts its requests."""

    server: Storage
    artifacts: Artifacts


@pytest.fixture
def bucket(s3: Storage) -> Iterator[Bucket]:
    artifacts = s3.artifacts()
    s3.reset()
    yield Bucket(s3, artifacts)
    s3.reset()


def failing(pattern: str, failure: Failure = SLOW_DOWN) -> Callable[[str], Failure | None]:
    """Trouble with the requests that match."""
    return lambda request: failure if re.search(pattern, request) else None


def test_a_small_object_is_one_request(bucket: Bucket) -> None:
    bucket.artifacts.put(KEY, b"sound")
    assert [request.split("?")[0].rsplit("/", 3)[1:] for request in bucket.server.requests] == [["jobs", "j1", "source"]]


def test_a_minute_of_audio_is_one_request(bucket: Bucket) -> None:
    PcmWriter(bucket.artifacts, "jobs/j1/pcm").write(b"\1\0" * PART_SAMPLES)
    assert len(bucket.server.requests) == 1


def test_no_write_makes_a_directory_marker(bucket: Bucket) -> None:
    bucket.artifacts.put(KEY, b"sound")
    bucket.artifacts.put("jobs/j1/pcm/00000.s16le", b"sound")
    listed = bucket.server.client.list_objects_v2(Bucket=bucket.artifacts.uri.split("@")[1].split("/")[0])
    assert [entry["Key"] for entry in listed["Contents"]] == [
        "artifacts/jobs/j1/pcm/00000.s16le",
        "artifacts/jobs/j1/source",
    ]


def test_a_long_object_is_copied_to_its_key_once_it_is_whole(bucket: Bucket) -> None:
    with bucket.artifacts.writer(KEY) as writer:
        for start in range(0, len(LONG), 1 << 20):
            writer.write(LONG[start : start + (1 << 20)])
        assert bucket.artifacts.size(KEY) is None
    assert bucket.artifacts.read(KEY) == LONG
    assert bucket.artifacts.keys("parts") == []


def write_and_fail(artifacts: Artifacts, data: bytes) -> None:
    """Write `data`, and break off."""
    with artifacts.writer(KEY) as writer:
        writer.write(data)
        raise ZeroDivisionError


@pytest.mark.parametrize("data", [b"short", LONG])
def test_a_broken_upload_is_not_there_though_its_deletion_fails(bucket: Bucket, data: bytes) -> None:
    bucket.server.trouble = failing("^DELETE|[?]delete")
    with pytest.raises(ZeroDivisionError):
        write_and_fail(bucket.artifacts, data)
    bucket.server.reset()
    gc.collect()
    assert bucket.artifacts.size(KEY) is None
    assert bucket.artifacts.keys("jobs") == []
    bucket.artifacts.delete_unfinished(0.0)
    assert bucket.artifacts.keys("parts") == []


@pytest.mark.parametrize("data", [b"short", LONG])
def test_a_broken_rewrite_leaves_the_old_object(bucket: Bucket, data: bytes) -> None:
    bucket.artifacts.put(KEY, b"old")
    with pytest.raises(ZeroDivisionError):
        write_and_fail(bucket.artifacts, data)
    assert bucket.artifacts.read(KEY) == b"old"


DYING = """
import os, signal, sys
from deployments.storage.artifacts import Artifacts
with Artifacts(sys.argv[1]).writer("jobs/j1/source") as writer:
    for _ in range(30):
        writer.write(bytes(1 << 20))
    if sys.argv[2] == "exit":
        raise SystemExit(3)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("end", "code"), [("exit", 3), ("kill", -signal.SIGKILL)])
def test_a_process_that_dies_in_the_middle_leaves_no_object(bucket: Bucket, end: str, code: int) -> None:
    command = [sys.executable, "-c", DYING, bucket.artifacts.uri, end]
    assert subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False).returncode == code
    assert any("partNumber=" in request for request in bucket.server.requests)
    assert bucket.artifacts.size(KEY) is None


def write_long(artifacts: Artifacts) -> None:
    """Write 25 MiB in small pieces."""
    with artifacts.writer(KEY) as writer:
        for _ in range(25):
            writer.write(bytes(1 << 20))


@pytest.mark.parametrize(
    "step", ["uploads$", "partNumber=2", "^POST .*uploadId=", "^PUT .*/jobs/j1/source", "^HEAD .*/parts/"]
)
def test_a_long_upload_that_fails_at_any_step_is_transient_and_leaves_nothing(bucket: Bucket, step: str) -> None:
    bucket.server.trouble = failing(step)
    with pytest.raises(StorageUnavailable) as failed:
        write_long(bucket.artifacts)
    assert failed.value.transient
    bucket.server.reset()
    gc.collect()
    assert bucket.artifacts.size(KEY) is None


async def test_a_broken_download_is_fetched_again(bucket: Bucket, site: WebServer) -> None:
    ingestion = Ingestion(bucket.artifacts, SafeHttp(allowed := AllowList.parse(["127.0.0.1"])), Buckets(allowed))
    request = FetchRequest(site.url("/song"), KEY, 1 << 30)
    bucket.server.trouble = failing("^DELETE|[?]delete")
    site.replies["/song"] = answer(200, LONG)[:-1]
    with pytest.raises(SourceUnreachable):
        await ingestion.fetch(request)
    bucket.server.reset()
    site.replies["/song"] = answer(200, LONG)
    assert (await ingestion.fetch(request)).size == len(LONG)
    assert bucket.artifacts.read(KEY) == LONG


@pytest.fixture
async def site() -> AsyncIterator[WebServer]:
    async with serving() as site:
        yield site


@pytest.mark.parametrize(
    ("failure", "error"),
    [(SLOW_DOWN, StorageUnavailable), (FULL, StorageFull), (DENIED, StorageUnavailable)],
    ids=lambda value: getattr(value, "code", value),
)
def test_trouble_of_s3_is_no_fault_of_a_job(bucket: Bucket, failure: Failure, error: type[StorageUnavailable]) -> None:
    bucket.artifacts.put(KEY, b"sound")
    bucket.server.trouble = lambda _: failure
    for call in (
        lambda: bucket.artifacts.size(KEY),
        lambda: bucket.artifacts.read(KEY),
        lambda: list(bucket.artifacts.chunks(KEY)),
        lambda: bucket.artifacts.keys("jobs"),
        lambda: bucket.artifacts.put(KEY, b"new"),
        lambda: bucket.artifacts.delete("jobs"),
    ):
        with pytest.raises(StorageUnavailable) as failed:
            call()
        assert isinstance(failed.value, error)
    bucket.server.reset()
    assert bucket.artifacts.read(KEY) == b"sound"


def test_a_misconfiguration_is_logged_as_one(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    bucket.server.trouble = lambda _: DENIED
    with pytest.raises(StorageUnavailable):
        bucket.artifacts.put(KEY, b"x")
    assert "storage misconfigured" in caplog.text


def test_a_missing_bucket_is_no_missing_file(s3: Storage) -> None:
    artifacts = Artifacts(s3.uri("b-nothing"))
    for call in (artifacts.size, artifacts.read, lambda key: artifacts.put(key, b"x")):
        with pytest.raises(StorageUnavailable):
            call(KEY)


def test_a_server_that_nobody_runs_is_unavailable() -> None:
    artifacts = Artifacts("s3://k:s@bucket/artifacts?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1")
    with pytest.raises(StorageUnavailable):
        artifacts.size(KEY)


def test_each_call_has_a_time_limit_and_few_attempts(bucket: Bucket) -> None:
    _, (options,) = bucket.artifacts._fs.__reduce__()
    assert 0 < options["request_timeout"] <= 20
    bucket.server.trouble = lambda _: SLOW_DOWN
    with pytest.raises(StorageUnavailable):
        bucket.artifacts.size(KEY)
    assert len(bucket.server.requests) == 3


def test_concurrent_writers_of_one_key_do_not_mix(bucket: Bucket) -> None:
    threads = [threading.Thread(target=bucket.artifacts.put, args=(KEY, bytes([n]) * len(LONG))) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(bucket.artifacts.read(KEY))) == 1

"""Artifacts: atomic writes, range reads, no access outside the storage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.errors import StorageUnavailable
from deployments.storage.artifacts import CHUNK, MARKER, Artifacts
from tests.lib.s3 import Storage

KEY = "jobs/j1/source"


@pytest.fixture(params=["file", "s3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    """In a folder, and in a bucket."""
    if request.param == "file":
        return Artifacts((tmp_path / "artifacts").as_uri())
    server: Storage = request.getfixturevalue("s3")
    return server.artifacts()


def test_bytes_are_read_back(artifacts: Artifacts) -> None:
    artifacts.put(KEY, b"sound")
    assert (artifacts.read(KEY), artifacts.size(KEY)) == (b"sound", 5)


def test_an_artifact_may_be_empty(artifacts: Artifacts) -> None:
    artifacts.put(KEY, b"")
    assert (artifacts.read(KEY), artifacts.size(KEY), list(artifacts.chunks(KEY))) == (b"", 0, [])


def test_an_artifact_is_not_there_before_its_writer_closes(artifacts: Artifacts) -> None:
    with artifacts.writer(KEY) as writer:
        writer.write(b"so")
        writer.write(memoryview(b"und"))
        assert artifacts.size(KEY) is None
        with pytest.raises(FileNotFoundError):
            artifacts.read(KEY)
    assert (artifacts.read(KEY), writer.size) == (b"sound", 5)
    assert artifacts.keys("jobs") == [KEY]


def write_and_fail(artifacts: Artifacts) -> None:
    with artifacts.writer(KEY) as writer:
        writer.write(b"new")
        raise ZeroDivisionError


def test_a_writer_that_fails_leaves_nothing(artifacts: Artifacts) -> None:
    with pytest.raises(ZeroDivisionError):
        write_and_fail(artifacts)
    assert artifacts.size(KEY) is None
    assert artifacts.keys("jobs") == []


def test_a_writer_that_fails_in_a_folder_leaves_the_old_artifact(tmp_path: Path) -> None:
    artifacts = Artifacts((tmp_path / "artifacts").as_uri())
    artifacts.put(KEY, b"old")
    with pytest.raises(ZeroDivisionError):
        write_and_fail(artifacts)
    assert artifacts.read(KEY) == b"old"


def test_two_writers_do_not_mix(artifacts: Artifacts) -> None:
    with artifacts.writer(KEY) as first, artifacts.writer(KEY) as second:
        first.write(b"first")
        second.write(b"second")
        first.write(b"first")
    assert artifacts.read(KEY) in (b"firstfirst", b"second")
    assert artifacts.keys("jobs") == [KEY]


def test_an_artifact_that_is_put_again_is_replaced(artifacts: Artifacts) -> None:
    artifacts.put(KEY, b"old and long")
    artifacts.put(KEY, b"new")
    assert artifacts.read(KEY) == b"new"


@pytest.mark.parametrize(("start", "length"), [(0, 4), (3, 4), (7, None), (0, None), (10, None), (8, 100), (4, 0)])
def test_a_range_is_the_same_at_once_and_in_chunks(artifacts: Artifacts, start: int, length: int | None) -> None:
    data = b"0123456789"
    artifacts.put(KEY, data)
    end = None if length is None else start + length
    assert artifacts.read(KEY, start, length) == data[start:end]
    assert b"".join(artifacts.chunks(KEY, start, length)) == data[start:end]


def test_a_long_artifact_comes_in_pieces(artifacts: Artifacts) -> None:
    data = os.urandom(2 * CHUNK + 17)
    artifacts.put(KEY, data)
    pieces = list(artifacts.chunks(KEY))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= CHUNK
    assert b"".join(artifacts.chunks(KEY, CHUNK - 1, CHUNK + 2)) == data[CHUNK - 1 : 2 * CHUNK + 1]


def test_a_missing_artifact_is_reported(artifacts: Artifacts) -> None:
    assert artifacts.size(KEY) is None
    assert artifacts.keys("jobs") == []
    with pytest.raises(FileNotFoundError):
        artifacts.read(KEY)
    with pytest.raises(FileNotFoundError):
        list(artifacts.chunks(KEY))
    with pytest.raises(FileNotFoundError), artifacts.descriptor(KEY):
        pass


def test_a_folder_is_not_an_artifact(artifacts: Artifacts) -> None:
    artifacts.put(KEY, b"sound")
    assert artifacts.size("jobs/j1") is None


def test_keys_lists_a_folder_recursively(artifacts: Artifacts) -> None:
    for key in (KEY, "jobs/j1/pcm/0", "jobs/j10/source", "other/x"):
        artifacts.put(key, b"x")
    assert sorted(artifacts.keys("jobs/j1")) == ["jobs/j1/pcm/0", KEY]
    assert len(artifacts.keys("jobs")) == 3


def test_deleting_a_folder_deletes_no_other(artifacts: Artifacts) -> None:
    for key in (KEY, "jobs/j1/pcm/0", "jobs/j10/source"):
        artifacts.put(key, b"x")
    artifacts.delete("jobs/j1")
    artifacts.delete("jobs/j1")
    assert artifacts.keys("jobs") == ["jobs/j10/source"]


def test_deleting_an_artifact_deletes_no_other(artifacts: Artifacts) -> None:
    for key in (KEY, "jobs/j1/source.2"):
        artifacts.put(key, b"x")
    artifacts.delete(KEY)
    artifacts.delete(KEY)
    assert artifacts.keys("jobs") == ["jobs/j1/source.2"]


@pytest.mark.parametrize("key", ["", "..", "../x", "jobs/../../x", "jobs/..", "/etc/passwd", "/"])
def test_a_key_outside_the_storage_is_refused(artifacts: Artifacts, key: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not ours")
    for use in (artifacts.size, artifacts.read, artifacts.keys, artifacts.delete, artifacts.writer):
        with pytest.raises(ValueError, match="key"):
            use(key)
    with pytest.raises(ValueError, match="key"), artifacts.descriptor(key):
        pass
    assert (tmp_path / "x").read_bytes() == b"not ours"


def test_dots_in_a_name_are_allowed(artifacts: Artifacts) -> None:
    artifacts.put("jobs/a..b/...", b"x")
    assert artifacts.keys("jobs") == ["jobs/a..b/..."]


def test_a_descriptor_reads_and_seeks(artifacts: Artifacts) -> None:
    artifacts.put(KEY, b"0123456789")
    with artifacts.descriptor(KEY) as descriptor:
        assert os.read(descriptor, 3) == b"012"
        assert os.lseek(descriptor, -2, os.SEEK_END) == 8
        assert os.read(descriptor, 10) == b"89"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_the_uri_may_end_in_a_slash(tmp_path: Path) -> None:
    artifacts = Artifacts(f"{tmp_path.as_uri()}/")
    artifacts.put(KEY, b"x")
    assert artifacts.keys("jobs") == [KEY]


def test_a_read_beyond_the_end_is_empty(artifacts: Artifacts) -> None:
    artifacts.put("jobs/a", b"12345")
    assert artifacts.read("jobs/a", 9) == b""


def test_a_volume_that_is_not_mounted_is_an_outage_and_not_an_empty_storage(tmp_path: Path) -> None:
    root = tmp_path / "volume" / "artifacts"
    Artifacts(root.as_uri()).put(MARKER, b"id")
    artifacts = Artifacts(root.as_uri())
    artifacts.put(KEY, b"sound")
    root.parent.rename(tmp_path / "unmounted")
    root.parent.mkdir()

    def opened() -> None:
        with artifacts.descriptor(KEY):
            raise AssertionError("opened")

    reads: list[Callable[[], object]] = [
        artifacts.probe,
        opened,
        lambda: artifacts.read(KEY),
        lambda: artifacts.size(KEY),
        lambda: artifacts.keys("jobs/j1"),
        lambda: artifacts.delete(KEY),
        lambda: artifacts.put("jobs/j2/source", b"x"),
    ]
    for read in reads:
        with pytest.raises(StorageUnavailable):
            read()
    assert not root.exists()
    root.parent.rmdir()
    (tmp_path / "unmounted").rename(root.parent)
    assert artifacts.read(KEY) == b"sound"


def test_a_probe_sees_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(tmp_path.as_uri())
    artifacts.probe()
    monkeypatch.setattr(
        os, "access", lambda path, mode: not (str(path) == str(tmp_path) and mode & os.W_OK)
    )  # even for root
    with pytest.raises(StorageUnavailable):
        artifacts.probe()

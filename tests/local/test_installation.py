"""Pairing of a Redis with its storage: another storage, or another Redis, is refused by name until it is adopted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from deployments.storage.artifacts import MARKER, Artifacts
from serve_app.local.installation import check_installation
from serve_app.local.preflight import StartError
from tests.lib.murmur_process import valkey_server
from tests.lib.s3 import Storage


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """URL of an empty Redis."""
    with valkey_server(tmp_path / "redis") as server:
        yield server.url


def test_a_new_redis_is_paired_with_its_storage_and_starts_again(url: str, tmp_path: Path) -> None:
    storage = (tmp_path / "artifacts").as_uri()
    check_installation(url, storage)
    check_installation(url, storage)


def test_a_redis_of_another_storage_is_refused_by_name(url: str, tmp_path: Path) -> None:
    one, two = (tmp_path / "one").as_uri(), (tmp_path / "two").as_uri()
    check_installation(url, one)
    with pytest.raises(StartError, match=rf"storage {one}, and nothing of it is at {two}.*--adopt-storage"):
        check_installation(url, two)
    assert not (tmp_path / "two").exists()


def test_a_storage_that_was_moved_with_its_contents_is_accepted(url: str, tmp_path: Path) -> None:
    check_installation(url, (tmp_path / "one").as_uri())
    (tmp_path / "one").rename(tmp_path / "two")
    check_installation(url, (tmp_path / "two").as_uri())


def test_a_storage_of_another_redis_is_refused_as_its_contents_would_be_deleted(url: str, tmp_path: Path) -> None:
    storage = (tmp_path / "artifacts").as_uri()
    check_installation(url, storage)
    with valkey_server(tmp_path / "other") as other, pytest.raises(StartError, match="belongs to a service with another"):
        check_installation(other.url, storage)


def test_two_services_cannot_share_a_redis(url: str, tmp_path: Path) -> None:
    one, two = (tmp_path / "one").as_uri(), (tmp_path / "two").as_uri()
    check_installation(url, one)
    with valkey_server(tmp_path / "other") as other:
        check_installation(other.url, two)
        with pytest.raises(StartError, match=rf"storage {one}, not to {two}"):
            check_installation(url, two)


def test_a_storage_can_be_adopted(url: str, tmp_path: Path) -> None:
    one, two = (tmp_path / "one").as_uri(), (tmp_path / "two").as_uri()
    check_installation(url, one)
    check_installation(url, two, adopt=True)
    check_installation(url, two)
    with pytest.raises(StartError):
        check_installation(url, one)


def test_a_pairing_that_broke_off_is_finished_by_the_next_start(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = (tmp_path / "artifacts").as_uri()

    def fail(*_: object) -> None:
        raise OSError("the power was cut")

    with monkeypatch.context() as patch:
        patch.setattr(Artifacts, "put", fail)
        with pytest.raises(StartError):
            check_installation(url, storage)
    check_installation(url, storage)
    check_installation(url, storage)


def test_credentials_of_a_bucket_are_neither_stored_nor_shown(url: str, s3: Storage, tmp_path: Path) -> None:
    uri = s3.uri()
    check_installation(url, uri)
    assert Artifacts(uri).size(MARKER)
    with Redis.from_url(url) as redis:
        assert b"nothing-secret" not in b"".join(redis.hvals("murmur:{q}:installation"))
    with pytest.raises(StartError) as refused:
        check_installation(url, (tmp_path / "other").as_uri())
    assert "nothing-secret" not in str(refused.value)


@pytest.mark.parametrize("uri", ["ftp://user:hunter2@host/x", "s3://key:hunter2@", "s3://key:hunter2@bucket?nonsense=1"])
def test_a_storage_that_cannot_be_opened_is_refused_without_its_credentials(url: str, uri: str) -> None:
    with pytest.raises(StartError, match="MURMUR_STORAGE_URI") as refused:
        check_installation(url, uri)
    assert "hunter2" not in str(refused.value)

"""Checks before the start: they change nothing, and say in one line what to do."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from threading import Event

import pytest

from benchmarks.lib.harness import free_port as unused_port
from serve_app.local.preflight import (
    StartError,
    check_data_dir,
    check_host,
    check_port,
    check_ray,
    check_shared,
    free_port,
    lock_data_dir,
    start_lock,
    unreachable_host,
    without_password,
)
from serve_app.local.redis_checks import check_redis, service_connected
from serve_app.settings import Settings
from serve_app.store.connection import connect
from tests.lib.murmur_process import valkey_server


def test_a_data_directory_is_checked_without_creating_it(tmp_path: Path) -> None:
    check_data_dir(tmp_path / "a/b")
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_in_use_is_refused(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path), pytest.raises(StartError, match="another murmur uses"):
        check_data_dir(tmp_path)
    check_data_dir(tmp_path)
    with lock_data_dir(tmp_path):
        pass


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_data_directory_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StartError, match="is not writable"):
        check_data_dir(tmp_path / "data")
    tmp_path.chmod(0o700)


def test_a_file_in_place_of_the_data_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="cannot be used"):
        check_data_dir(tmp_path / "file/data")


def test_a_taken_port_is_refused_and_the_next_one_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", unused_port()))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} .*--port"):
            check_port("127.0.0.1", port)
        assert free_port(port) > port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_keys(host: str) -> None:
    check_host(host, keyed=False, allow_anonymous=False)


def test_other_hosts_need_keys_or_consent() -> None:
    with pytest.raises(StartError, match="without keys"):
        check_host("0.0.0.0", keyed=False, allow_anonymous=False)
    check_host("0.0.0.0", keyed=True, allow_anonymous=False)
    check_host("0.0.0.0", keyed=False, allow_anonymous=True)


def test_a_public_service_that_refuses_everybody_is_noticed() -> None:
    loopback = Settings.model_fields["allowed_hosts"].default
    assert "MURMUR_ALLOWED_HOSTS" in unreachable_host("0.0.0.0", loopback, keyed=False)
    assert not unreachable_host("0.0.0.0", loopback, keyed=True)
    assert not unreachable_host("0.0.0.0", (*loopback, "murmur.example"), keyed=False)
    assert not unreachable_host("127.0.0.1", loopback, keyed=False)


def test_a_data_directory_is_private_and_an_open_one_becomes_so(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir(mode=0o755)
    for name in ("old", "new"):
        with lock_data_dir(tmp_path / name):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_a_folder_that_all_users_share_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    with pytest.raises(StartError, match="shared by all users"), lock_data_dir(tmp_path / "shared"):
        pass
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o1777


@pytest.mark.parametrize(
    ("redis_url", "storage_uri", "reason"),
    [
        ("", "s3://bucket", "--redis-url"),
        ("unix:///run/redis.sock", "s3://bucket", "--redis-url"),
        ("redis://127.0.0.1:6379", "s3://bucket", "--redis-url"),
        ("redis://10.0.0.1:6379", "", "MURMUR_STORAGE_URI"),
        ("redis://10.0.0.1:6379", "s3://bucket", ""),
        ("redis://10.0.0.1:6379", "file:///mnt/shared", ""),  # declared, so a mount that all have
    ],
)
def test_a_cluster_needs_a_redis_and_a_storage_that_all_machines_reach(
    redis_url: str, storage_uri: str, reason: str
) -> None:
    settings = Settings.model_validate({"redis_url": redis_url, "storage_uri": storage_uri, "ray_address": "auto"})
    if not reason:
        check_shared(settings)
        return
    with pytest.raises(StartError, match=reason):
        check_shared(settings)


def test_unreachable_servers_are_refused_without_their_password() -> None:
    port = unused_port()
    with pytest.raises(StartError, match=f"no Redis answers at redis://127.0.0.1:{port}/0") as refused:
        check_redis(f"redis://:secret@127.0.0.1:{port}/0")
    assert "secret" not in str(refused.value)
    with pytest.raises(StartError, match="no Ray cluster answers"):
        check_ray(f"ray://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:p@ss@host:1/0", "redis://host:1/0"),
        ("redis://host", "redis://host"),
        ("unix:///tmp/s", "unix:///tmp/s"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


async def test_a_service_is_recognized_by_its_connections(tmp_path: Path) -> None:
    with valkey_server(tmp_path) as valkey:
        assert not service_connected(valkey.url)
        redis = connect(valkey.url, "ingress")
        await redis.ping()
        assert service_connected(valkey.url)
        await redis.aclose()


def test_an_interrupted_start_does_not_wait_for_the_lock() -> None:
    interrupted = Event()
    with start_lock(interrupted):
        interrupted.set()
        with start_lock(interrupted):
            pass

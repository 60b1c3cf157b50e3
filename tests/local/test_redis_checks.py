"""A Redis of one's own: refused by name where it loses jobs, warned about where it may, and read as far as it allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from benchmarks.lib.harness import free_port
from serve_app.local import redis_checks
from serve_app.local.preflight import StartError
from serve_app.local.redis_checks import RedisReport, check_own_redis, examine_redis
from serve_app.local.valkey import Valkey
from tests.lib.murmur_process import valkey_server

Servers = Callable[[str], Valkey]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Start Valkeys by name."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(valkey_server(tmp_path / name))


@pytest.fixture
def server(servers: Servers) -> Valkey:
    return servers("one")


def configure(server: Valkey, **settings: str) -> None:
    with Redis.from_url(server.url) as admin:
        for name, value in settings.items():
            admin.config_set(name.replace("_", "-"), value)


def report_on(server: Valkey, replicas: int = 0) -> RedisReport:
    report = examine_redis(server.url, replicas)
    assert report
    return report


def never(_: float) -> bool:
    return False


def test_a_durable_server_has_nothing_against_it(server: Valkey) -> None:
    report = report_on(server)
    assert (report.refusals, report.warnings) == ([], [])
    assert report.version.startswith("9")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_an_eviction_policy_is_refused_with_the_command_that_mends_it(server: Valkey, policy: str) -> None:
    configure(server, maxmemory_policy=policy)
    with pytest.raises(StartError, match=rf"evicts keys \({policy}\).*CONFIG SET maxmemory-policy noeviction"):
        check_own_redis(server.url, 0, never)


@pytest.mark.parametrize("save", ["", "3600 1"])
def test_a_server_without_an_append_only_file_is_refused_with_or_without_snapshots(server: Valkey, save: str) -> None:
    configure(server, appendonly="no", save=save)
    with pytest.raises(StartError, match=r"no append-only file.*CONFIG SET appendonly yes"):
        check_own_redis(server.url, 0, never)


@pytest.mark.parametrize(("fsync", "span"), [("everysec", "the last second"), ("no", "the last half minute")])
def test_a_slower_fsync_is_a_warning(server: Valkey, caplog: pytest.LogCaptureFixture, fsync: str, span: str) -> None:
    caplog.set_level(logging.WARNING)
    configure(server, appendfsync=fsync)
    check_own_redis(server.url, 0, never)
    assert f"a power cut loses jobs accepted in {span} (appendfsync {fsync})" in caplog.text


def test_a_replica_is_refused_and_its_primary_named(server: Valkey) -> None:
    with Redis.from_url(server.url) as admin:
        admin.replicaof("127.0.0.1", "9")
    with pytest.raises(StartError, match=r"it is a replica.*127\.0\.0\.1:9.*name the primary"):
        check_own_redis(server.url, 0, never)


def test_a_server_that_takes_no_writes_is_refused(server: Valkey) -> None:
    configure(server, maxmemory="1")
    with pytest.raises(StartError, match="raise maxmemory"):
        check_own_redis(server.url, 0, never)


def test_missing_replicas_are_refused_and_unused_ones_are_a_warning(
    servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    primary, replica = servers("primary"), servers("replica")
    with pytest.raises(StartError, match="0 replicas are connected, 1 must confirm each job"):
        check_own_redis(primary.url, 1, never)
    port = free_port()
    configure(primary, bind="127.0.0.1", protected_mode="no", port=str(port), repl_diskless_sync_delay="0")
    with Redis.from_url(replica.url) as admin, Redis.from_url(primary.url) as client:
        admin.replicaof("127.0.0.1", str(port))
        assert client.wait(1, 30_000) == 1
    check_own_redis(primary.url, 0, never)
    assert "set MURMUR_REDIS_REPLICAS=1" in caplog.text
    check_own_redis(primary.url, 1, never)


def test_a_managed_server_that_forbids_config_is_accepted_with_a_warning(server: Valkey) -> None:
    with Redis.from_url(server.url) as admin:
        admin.acl_setuser("managed", enabled=True, nopass=True, categories=["+@all"], commands=["-config"], keys=["*"])
    url = server.url.replace("unix://", "unix://managed:any@")
    report = examine_redis(url, 0)
    assert report
    assert report.refusals == []
    assert report.warnings == ["CONFIG is forbidden: make sure that appendfsync is always"]


def test_a_user_that_may_not_run_scripts_is_refused_with_the_remedy(server: Valkey) -> None:
    with Redis.from_url(server.url) as admin:
        admin.acl_setuser("weak", enabled=True, nopass=True, categories=["+@all"], commands=["-eval"], keys=["*"])
    report = examine_redis(server.url.replace("unix://", "unix://weak:any@"), 0)
    assert report
    assert "ACL SETUSER" in report.refusals[0]


@pytest.mark.parametrize(
    ("info", "refusal"),
    [
        ({"redis_version": "5.0.14"}, "its version is 5.0.14: at least 6.2"),
        ({"redis_version": "7.4.0", "cluster_enabled": 1}, "part of a Redis Cluster"),
    ],
)
def test_old_servers_and_clusters_are_refused_by_name(
    server: Valkey, monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], refusal: str
) -> None:
    usual = redis_checks._info
    monkeypatch.setattr(redis_checks, "_info", lambda client: {**usual(client), **info})
    assert refusal in report_on(server).refusals[0]


def test_a_server_that_loads_its_data_is_waited_for(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = iter([None, None, RedisReport("", "9")])
    monkeypatch.setattr(redis_checks, "examine_redis", lambda *_: next(reports))
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return False

    check_own_redis(server.url, 0, wait)
    assert len(waits) == 2


@pytest.mark.parametrize(
    "url", ["redis://:hunter#2@host:6379", "redis://user:hunter/2@host", "hunter2", "redis://h:hunter2"]
)
def test_a_url_that_cannot_be_read_or_reached_shows_no_part_of_its_password(url: str) -> None:
    with pytest.raises(StartError) as refused:
        examine_redis(url, 0)
    assert "hunter" not in str(refused.value)

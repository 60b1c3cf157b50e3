"""`murmur doctor`: finds what would prevent a start, names the remedy, and creates nothing."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.serve._private import replica
from redis import Redis

from benchmarks.lib.harness import free_port
from deployments.storage.artifacts import Artifacts
from deployments.transcoding.cage import Enforcement
from serve_app.cli.doctor import Finding, examine, examine_installation
from serve_app.local.installation import check_installation
from serve_app.local.preflight import lock_data_dir
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.lib.murmur_process import valkey_server
from tests.lib.s3 import Storage


def bad(data_dir: Path, **values: Any) -> dict[str, str]:
    """Details of the findings that are not ok."""
    return {finding.name: finding.detail for finding in findings(data_dir, **values) if not finding.ok}


def findings(data_dir: Path, **values: Any) -> Iterator[Finding]:
    defaults = {"data_dir": data_dir, "port": free_port(), "engine": "fake", "models": "fake"}
    return examine(Settings.model_validate(defaults | values))


def test_nothing_is_wrong_and_nothing_is_created(tmp_path: Path) -> None:
    assert bad(tmp_path / "data") == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("enforced", "words"), [(Enforcement(7, True), "Landlock 7, seccomp"), (Enforcement(0, True), "from this: read files")]
)
def test_it_says_what_the_sandbox_of_ffmpeg_is_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enforced: Enforcement, words: str
) -> None:
    monkeypatch.setattr("serve_app.cli.doctor.enforcement", lambda: enforced)
    (finding,) = (finding for finding in findings(tmp_path / "data") if finding.name == "sandbox of ffmpeg")
    assert finding.ok
    assert words in finding.detail


def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(finding.ok for finding in examine_installation())
    monkeypatch.setattr("serve_app.cli.doctor.PACKAGES", ("ray", "no-such-package"))
    assert examine_installation()[1].detail == "missing no-such-package: run make setup"


def test_a_package_that_cannot_be_imported_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    details = bad(tmp_path, engine="faster_whisper", models="base")
    assert "ctranslate2" in details["device"]


def test_a_taken_port_is_found(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        assert bad(tmp_path, port=port) == {
            "port": f"port {port} on 127.0.0.1 is taken (Address already in use): choose another by --port"
        }


def test_a_data_directory_in_use_is_found(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path):
        assert set(bad(tmp_path)) == {"data directory"}


def test_directories_that_cannot_be_written_are_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    details = bad(tmp_path / "file/data")
    assert "set MURMUR_DATA_DIR" in details["data directory"]
    assert "set MURMUR_STORAGE_URI" in details["storage"]


def test_unreachable_servers_are_found(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    details = bad(tmp_path, ray_address=address, redis_url=f"redis://:secret@{address}/0")
    assert details["ray cluster"].startswith(f"no Ray cluster answers at {address}")
    assert details["redis"].startswith(f"no Redis answers at redis://{address}/0")
    assert "secret" not in "".join(details.values())


def test_a_public_address_without_keys_is_found(tmp_path: Path) -> None:
    assert set(bad(tmp_path, host="0.0.0.0")) == {"host"}
    assert "MURMUR_ALLOWED_HOSTS" in bad(tmp_path, host="0.0.0.0", allow_anonymous=True)["host"]
    assert bad(tmp_path, host="0.0.0.0", allow_anonymous=True, allowed_hosts="murmur.example") == {}


def test_a_redis_that_loses_jobs_is_found_with_all_that_is_wrong(tmp_path: Path) -> None:
    with valkey_server(tmp_path / "redis") as server, Redis.from_url(server.url) as admin:
        assert bad(tmp_path, redis_url=server.url) == {}
        admin.config_set("maxmemory-policy", "allkeys-lru")
        admin.config_set("appendfsync", "everysec")
        detail = bad(tmp_path, redis_url=server.url)["redis"]
        assert "evicts keys (allkeys-lru)" in detail
        assert "appendfsync everysec" in detail


def test_a_redis_of_another_storage_is_found_and_left_as_it_is(tmp_path: Path) -> None:
    with valkey_server(tmp_path / "redis") as server:
        check_installation(server.url, (tmp_path / "one").as_uri())
        assert "--adopt-storage" in bad(tmp_path / "two", redis_url=server.url)["redis"]
        assert not (tmp_path / "two").exists()


def test_a_redis_and_a_storage_that_only_this_machine_reaches_are_found(tmp_path: Path) -> None:
    details = bad(tmp_path, ray_address=f"127.0.0.1:{free_port()}")
    assert "--redis-url" in details["shared by the cluster"]


def test_missing_keys_are_found(tmp_path: Path, valkey: Valkey) -> None:
    assert "murmur keys create" in bad(tmp_path, api_keys_required=True)["keys"]
    (tmp_path / "valkey").mkdir()
    [finding] = [f for f in findings(tmp_path, api_keys_required=True) if f.name == "keys"]
    assert finding.ok
    assert "not checked" in finding.detail


async def test_keys_in_redis_are_counted(valkey: Valkey) -> None:
    from serve_app.cli.doctor import _count_keys

    redis = connect(valkey.url)
    await redis.flushall()
    assert await _count_keys(valkey.url) == 0
    await ApiKeys(redis).create("a", "t", ["admin"])
    assert await _count_keys(valkey.url) == 1
    await redis.aclose()


def test_an_embedded_valkey_of_a_running_service_is_queried_for_keys(tmp_path: Path, valkey: Valkey) -> None:
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey/url").write_text("unix:///nonexistent/valkey.sock")
    with lock_data_dir(tmp_path):
        assert "start Redis" in bad(tmp_path, api_keys_required=True)["keys"]


def test_a_bucket_is_written_and_its_password_is_not_shown(tmp_path: Path, s3: Storage) -> None:
    uri = s3.uri()
    [finding] = [f for f in findings(tmp_path, storage_uri=uri) if f.name == "storage"]
    assert finding.ok
    assert "nothing-secret" not in finding.detail
    assert Artifacts(uri).keys("doctor") == []


def test_an_unsupported_ray_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(replica, "add_port_to_grpc_server")
    assert "install Ray 2.60" in bad(tmp_path)["ray"]


def test_weights_that_do_not_exist_are_found(tmp_path: Path) -> None:
    assert set(bad(tmp_path, engine="faster_whisper", models="none")) == {"weights of none"}

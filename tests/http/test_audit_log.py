"""Audit log: who made, read, cancelled and deleted which job, and who was refused."""

from __future__ import annotations

import asyncio
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serve_app.dialects.shift.routes import PREFIX as SHIFT
from serve_app.jobs.audit_log import FAILURES_PER_MINUTE, AuditLog
from tests.http.test_browsers import ticket
from tests.lib.edge import bearer, open_edge
from tests.lib.murmur_process import murmur
from tests.service.conftest import Served


def entries(data_dir: Path) -> list[dict[str, Any]]:
    """Lines of the audit log."""
    return [json.loads(line) for line in (data_dir / "logs" / "audit.jsonl").read_text().splitlines()]


def events(data_dir: Path, *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(entry[field] for field in ("event", *fields)) for entry in entries(data_dir)]


async def test_each_event_names_its_caller_job_and_request(served: Served, sample: Path, tmp_path: Path) -> None:
    async with open_edge(served, audit_log=AuditLog.under(tmp_path)) as edge:
        key = await edge.key("alice", "acme")
        headers = bearer(key) | {"X-Request-ID": "req-1", "X-Forwarded-For": "192.0.2.7"}
        made = await edge.http.post("/v1/jobs", files={"file": sample.read_bytes()}, headers=headers)
        job_id = made.json()["id"]
        assert "event: done" in (await edge.http.get(f"/v1/jobs/{job_id}/events", headers=headers)).text
        await edge.http.get("/v1/jobs", headers=headers)
        await edge.http.get(f"/v1/jobs/{job_id}", headers=headers)
        await edge.http.get(f"/v1/jobs/{job_id}/transcript", headers=headers)
        await edge.http.get(f"/v1/jobs/{job_id}/artifacts/audio.wav", headers=headers)
        await edge.http.post(f"/v1/jobs/{job_id}/cancel", headers=headers)
        value = await ticket(edge, job_id, key)
        await edge.http.get(f"/v1/jobs/{job_id}/transcript", params={"ticket": value})
        await edge.http.delete(f"/v1/jobs/{job_id}", headers=headers)
        await edge.http.get(f"/v1/jobs/{job_id}/transcript", headers=headers)
    path = f"/v1/jobs/{job_id}"
    assert events(tmp_path, "job_id", "request", "ticket") == [
        ("job.created", job_id, "POST /v1/jobs", False),
        ("job.read", job_id, f"GET {path}/events", False),
        ("job.read", job_id, f"GET {path}/transcript", False),
        ("job.read", job_id, f"GET {path}/artifacts/audio.wav", False),
        ("job.read", job_id, f"GET {path}/transcript", True),
        ("job.deleted", job_id, f"DELETE {path}", False),
    ]
    first = entries(tmp_path)[0]
    assert first["time"].endswith("Z")
    expected = {
        "tenant": "acme",
        "owner": "alice",
        "key_id": key.split("_")[1],
        "request_id": "req-1",
        "dialect": "native",
        "remote": "192.0.2.7",  # uvicorn believes a proxy on this machine
        "forwarded_for": "192.0.2.7",
        "result": "ok",
    }
    assert {name: first[name] for name in expected} == expected
    text = (tmp_path / "logs" / "audit.jsonl").read_text()
    assert key not in text
    assert value not in text


async def test_other_apis_are_audited_alike(served: Served, sample: Path, tmp_path: Path) -> None:
    async with open_edge(served, audit_log=AuditLog.under(tmp_path)) as edge:
        headers = bearer(await edge.key())
        form = {"model": "fake"}
        waited = await edge.http.post(
            "/v1/audio/transcriptions", data=form, files={"file": sample.read_bytes()}, headers=headers
        )
        assert waited.status_code == 200
        served.app.stages.gate = asyncio.Semaphore(0)
        sent = await edge.http.post("/v1/transcripts", files={"audio_file": sample.read_bytes()}, data=form, headers=headers)
        assert sent.status_code < 300, sent.text
        assert (await edge.http.delete(f"/v1/transcripts/{sent.json()['id']}", headers=headers)).status_code < 300
        await edge.http.get(SHIFT, headers=headers)
    assert events(tmp_path, "dialect") == [
        ("job.created", "openai"),
        ("job.read", "openai"),
        ("job.created", "transcripts"),
        ("job.deleted", "transcripts"),
    ]


async def test_refusals_are_audited_without_the_key(served: Served, tmp_path: Path) -> None:
    async with open_edge(served, audit_log=AuditLog.under(tmp_path)) as edge:
        await edge.http.get("/v1/jobs")
        await edge.http.get("/v1/jobs", headers=bearer("mur_guess"))
        reader = await edge.key("bob", "acme", "speech:transcriptions:read")
        await edge.http.post("/v1/jobs", files={"file": b"x"}, headers=bearer(reader))
    assert events(tmp_path, "owner", "result") == [
        ("auth.failed", None, "unauthenticated"),
        ("auth.failed", None, "unauthenticated"),
        ("auth.failed", "bob", "forbidden"),
    ]
    assert "mur_guess" not in (tmp_path / "logs" / "audit.jsonl").read_text()


def test_a_flood_of_refusals_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog.under(tmp_path)
    monkeypatch.setattr("serve_app.jobs.audit_log.time.monotonic", lambda: 600.0)
    for _ in range(FAILURES_PER_MINUTE + 40):
        log.write("auth.failed", result="unauthenticated")
    assert len(entries(tmp_path)) == FAILURES_PER_MINUTE
    monkeypatch.setattr("serve_app.jobs.audit_log.time.monotonic", lambda: 660.0)
    log.write("auth.failed", result="unauthenticated")
    log.write("auth.failed", result="unauthenticated")
    assert [entry.get("suppressed") for entry in entries(tmp_path)[-2:]] == [40, None]


def test_only_its_owner_reads_it_and_lines_of_several_writers_stay_whole(tmp_path: Path) -> None:
    logs = [AuditLog.under(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: logs[n % 4].write("job.read", job_id=f"{n}" * 200), range(400)))
    assert len(entries(tmp_path)) == 400
    assert stat.S_IMODE((tmp_path / "logs" / "audit.jsonl").stat().st_mode) == 0o600


def test_a_full_disk_is_logged_and_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("serve_app.jobs.audit_log.os.write", full)
    AuditLog.under(tmp_path).write("job.read", job_id="j")
    assert "audit log not written" in caplog.text


def test_keys_are_audited_by_the_command_line(tmp_path: Path) -> None:
    key = murmur("keys", "create", "--name", "alice", "--data-dir", tmp_path, MURMUR_AUDIT_LOG="true").stdout.strip()
    key_id = key.split("_")[1]
    murmur("keys", "revoke", key_id, "--data-dir", tmp_path, MURMUR_AUDIT_LOG="true")
    assert events(tmp_path, "key_id") == [("key.created", key_id), ("key.revoked", key_id)]
    assert key not in (tmp_path / "logs" / "audit.jsonl").read_text()

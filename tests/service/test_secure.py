"""`murmur up` with a certificate: HTTPS, a sanitized request id, and the audit log of several processes."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import httpx

from tests.lib.murmur_process import murmur, up
from tests.local.test_tls import certificate


def test_a_service_with_a_certificate_speaks_https(tmp_path: Path, sample: Path) -> None:
    cert, key = certificate(tmp_path)
    environment = {
        "MURMUR_TLS_CERT": str(cert),
        "MURMUR_TLS_KEY": str(key),
        "MURMUR_ENGINE": "fake",
        "MURMUR_MODELS": "fake",
        "MURMUR_DASHBOARD": "false",
        "MURMUR_AUDIT_LOG": "true",
    }
    with up(tmp_path / "data", **environment) as service:
        assert service.ready() == f"ready https://127.0.0.1:{service.port}", service.errors.read_text()
        url = f"https://localhost:{service.port}"
        context = ssl.create_default_context(cafile=cert)
        with httpx.Client(base_url=url, verify=context, timeout=30, trust_env=False) as http:
            forged = http.get("/healthz", headers={"X-Request-ID": "a job_id=SPOOFED"})
            assert len(forged.headers.get_list("x-request-id")[0]) == 32
            made = http.post("/v1/jobs", files={"file": sample.read_bytes()})
            job_id = made.json()["id"]
            ticket = http.post(f"/v1/jobs/{job_id}/ticket").json()["ticket"]
            assert "event: done" in http.get(f"/v1/jobs/{job_id}/events", params={"ticket": ticket}).text
        listed = murmur("jobs", "list", "--server", url, SSL_CERT_FILE=str(cert))
        assert job_id in listed.stdout, listed.stderr
        logs = service.data_dir / "logs"
        entries = [json.loads(line) for line in (logs / "audit.jsonl").read_text().splitlines()]
        assert [(entry["event"], entry["job_id"]) for entry in entries] == [
            ("job.created", job_id),
            ("job.read", job_id),
        ]
        assert not [path for path in logs.iterdir() if ticket in path.read_text()]

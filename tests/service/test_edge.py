"""A service with keys, through `murmur up`: JWTs, limits, webhooks, raw uploads, traces and metrics."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import jwt
import pytest
from prometheus_client.parser import text_string_to_metric_families
from standardwebhooks import Webhook

from serve_app.dialects.koldan.routes import PREFIX as KOLDAN
from tests.lib.murmur_process import Up, murmur, up
from tests.runner.test_summaries import Server
from tests.service.conftest import MAX_UPLOAD_BYTES, Served
from tests.service.test_keys import bearer
from tests.service.test_native import finished, problem

SECRET = "a secret that is long enough for any of the three hashes, so that no one warns of it"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass(slots=True)
class Sink:
    """Webhook receiver in its own thread."""

    url: str = ""
    calls: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    sink = Sink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            sink.calls.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()
            sink.came.set()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sink.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield sink
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data directory of the service."""
    return tmp_path_factory.mktemp("edge")


@pytest.fixture(scope="module")
def key(data: Path) -> str:
    """Key that is created before the service starts."""
    return murmur("keys", "create", "--name", "alice", "--data-dir", data).stdout.strip()


@pytest.fixture(scope="module")
def summarizer() -> Iterator[Server]:
    """Server of a model that writes summaries."""
    server = Server()
    threading.Thread(target=server.http.serve_forever, daemon=True).start()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(scope="module")
def edge(data: Path, key: str, summarizer: Server) -> Iterator[Up]:
    """`murmur up` with the fake engine, required keys or tokens, limits and summaries."""
    environment = {
        "MURMUR_ENGINE": "fake",
        "MURMUR_MODELS": "fake",
        "MURMUR_FETCH_ALLOW": "127.0.0.1",
        "MURMUR_API_KEYS_REQUIRED": "true",
        "MURMUR_JWT_ISSUER": "https://id.example",
        "MURMUR_JWT_AUDIENCE": "murmur",
        "MURMUR_JWT_SECRET": SECRET,
        "MURMUR_TENANT_REQUESTS_PER_MINUTE": "60",
        "MURMUR_TENANT_MINUTES_PER_MONTH": "1",
        "MURMUR_LOG_FORMAT": "json",
        "MURMUR_SUMMARY_BASE_URL": f"http://127.0.0.1:{summarizer.http.server_port}/v1",
        "MURMUR_SUMMARY_MODEL": "small",
        "MURMUR_SUMMARY_KEY": "secret",
        "MURMUR_SUMMARY_PROMPTS": '{"brief": "Sum up: {transcript}"}',
    }
    with up(data, **environment) as up_:
        assert up_.ready(), up_.errors.read_text()
        yield up_


def client(edge: Up, tenant: str, scope: str = "admin", subject: str = "alice") -> httpx.Client:
    """Client with a token."""
    now = time.time()
    claims = {
        "iss": "https://id.example",
        "aud": "murmur",
        "sub": subject,
        "exp": now + 600,
        "tenant": tenant,
        "scope": scope,
    }
    token = jwt.encode(claims, SECRET, "HS256")
    return httpx.Client(
        base_url=edge.url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=30, http2=False
    )


def ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    with httpx_sse.connect_sse(http, "GET", f"/v1/jobs/{job_id}/events") as source:
        for event in source.iter_sse():
            if event.event == "done":
                break
    body: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").json()
    return body


def test_a_token_works_like_a_key_and_requests_without_one_are_refused(edge: Up) -> None:
    with client(edge, "tokens") as http:
        assert http.get("/v1/jobs").status_code == 200
        problem(http.get("/v1/jobs", headers={"Authorization": "Bearer a.b.c"}), 401, "unauthenticated")
    problem(httpx.get(f"{edge.url}/v1/jobs", trust_env=False), 401, "unauthenticated")
    with client(edge, "tokens", scope="speech:transcriptions:read") as http:
        problem(http.post("/v1/jobs", json={"source": {"url": "https://a/b"}}), 403, "forbidden")


def test_a_service_that_requires_keys_refuses_requests_without_one(edge: Up, key: str) -> None:
    with httpx.Client(base_url=edge.url, trust_env=False) as http:
        assert http.get("/v1/jobs").status_code == 401
        assert http.get("/v1/jobs", headers=bearer(key)).status_code == 200
        assert http.get("/v1/jobs", headers={**bearer(key), "Host": "murmur.example"}).status_code == 200
        assert http.get("/healthz").status_code == 200
    assert murmur("jobs", "list", "--server", edge.url).returncode == 1
    assert murmur("jobs", "list", "--server", edge.url, MURMUR_API_KEY=key).returncode == 0


def test_a_summary_is_written_after_the_transcript(edge: Up, summarizer: Server, sample: Path) -> None:
    with client(edge, "summaries") as http:
        fields = {
            "name": "a talk",
            "transcription": '{"model": "fake", "language": {}}',
            "summary": '{"promptTemplateId": "brief"}',
        }
        made = http.post(f"{KOLDAN}/upload", files={"file": sample.read_bytes()}, data=fields)
        assert made.status_code == 201, made.text
        job_id = made.json()["job"]["id"]
        ended(http, job_id)
        deadline = time.monotonic() + 30
        while (summary := http.get(f"{KOLDAN}/{job_id}").json()["summary"])["status"] == "IN_PROGRESS":
            assert time.monotonic() < deadline
            time.sleep(1)
        text = http.get(f"/v1/jobs/{job_id}/transcript").json()["text"]
        assert (summary["status"], summary["text"]) == ("COMPLETED", f"About: Sum up: {text[:4]}")
    [(path, authorization, body)] = summarizer.requests
    assert (path, authorization, body["model"]) == ("/v1/chat/completions", "Bearer secret", "small")
    assert text in body["messages"][0]["content"]


def test_a_webhook_is_delivered_with_its_trace_and_counted_in_the_metrics(edge: Up, sink: Sink, sample: Path) -> None:
    with client(edge, "hooks") as http:
        (secret,) = http.get("/v1/webhooks/secrets").json()["secrets"]
        made = http.post(
            "/v1/jobs",
            content=sample.read_bytes(),
            params={"webhook": sink.url, "metadata": '{"a": "b"}', "filename": "two voices.flac"},
            headers={"content-type": "audio/flac", "traceparent": TRACE, "x-request-id": "req-7"},
        )
        assert (made.status_code, made.headers["x-request-id"]) == (202, "req-7")
        job = ended(http, made.json()["id"])
        assert job["phase"] == "completed"
        assert sink.came.wait(30)
        headers, body = sink.calls[0]
        assert Webhook(secret).verify(body, headers)["data"]["id"] == job["id"]
        assert headers["traceparent"].split("-")[1] == TRACE.split("-")[1]
        (delivery,) = settled(http)
        assert (delivery["job_id"], delivery["attempts"][0]["status"]) == (job["id"], 204)
        again = http.post(f"/v1/webhooks/deliveries/{delivery['id']}/redeliver")
        assert (again.status_code, again.json()["state"]) == (202, "pending")
    figures = {m.name: m for m in text_string_to_metric_families(httpx.get(f"{edge.url}/metrics", trust_env=False).text)}
    samples = {(s.name, *sorted(s.labels.values())): s.value for m in figures.values() for s in m.samples}
    assert samples["murmur_webhook_tries_total", "delivered"] >= 1
    assert samples["murmur_windows_total",] >= 2
    assert samples["murmur_first_segment_seconds_count",] >= 1
    assert samples["murmur_real_time_factor_count",] >= 1
    assert samples["murmur_phase_seconds_count", "transcribing"] >= 1
    assert ("murmur_queue_age_seconds",) in samples
    assert ("murmur_windows_redone_total",) in samples


def test_the_log_names_job_and_request_ids(edge: Up, sample: Path) -> None:
    with client(edge, "logs") as http:
        headers = {"content-type": "audio/flac", "x-request-id": "req-of-the-log"}
        job = ended(http, http.post("/v1/jobs", content=sample.read_bytes(), headers=headers).json()["id"])
    lines = [json.loads(line) for line in (edge.data_dir / "logs" / "murmur.log").read_text().splitlines()]
    mine = [line for line in lines if line.get("job_id") == job["id"]]
    assert "req-of-the-log" in {line.get("request_id") for line in mine}
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)


def settled(http: httpx.Client) -> list[dict[str, Any]]:
    """Deliveries, once one has succeeded."""
    for _ in range(200):
        deliveries: list[dict[str, Any]] = http.get("/v1/webhooks/deliveries", params={"state": "delivered"}).json()[
            "deliveries"
        ]
        if deliveries:
            return deliveries
        time.sleep(0.6)  # within the limit of requests
    raise AssertionError("not delivered")


def test_a_monthly_quota_applies_to_its_tenant_only(edge: Up, sample: Path) -> None:
    with client(edge, "months") as http, client(edge, "months-other") as other:
        first, second = (
            ended(http, http.post("/v1/jobs", files={"file": sample.read_bytes()}).json()["id"]) for _ in range(2)
        )
        assert first["phase"] == "completed"
        # Only three seconds were left of its minute.
        assert (second["phase"], second["error"]["code"], second["partial"]) == ("failed", "quota_exceeded", True)
        refused = http.post("/v1/jobs", files={"file": sample.read_bytes()})
        problem(refused, 429, "quota_exceeded")
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["ratelimit-policy"] == '"minutes";q=1'
        assert other.post("/v1/jobs", files={"file": sample.read_bytes()}).status_code == 202


def test_a_rate_limited_request_gets_retry_after(edge: Up) -> None:
    with client(edge, "rates") as http, client(edge, "rates", subject="bob") as same, client(edge, "rates-other") as other:
        answers = [http.get("/v1/models") for _ in range(80)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        problem(refused[0], 429, "rate_limited")
        assert int(refused[0].headers["retry-after"]) >= 1
        assert refused[0].headers["ratelimit-policy"] == '"requests";q=60;w=60'
        assert same.get("/v1/models").status_code == 429
        assert other.get("/v1/models").status_code == 200


async def test_a_raw_body_is_the_recording(served: Served, sample: Path) -> None:
    made = await served.http.post(
        "/v1/jobs?language=de&word_timestamps=true&filename=a.flac",
        content=sample.read_bytes(),
        headers={"content-type": "application/octet-stream"},
    )
    assert made.status_code == 202
    assert (made.json()["language"], made.json()["options"]["word_timestamps"]) == ("de", True)
    assert (await finished(served, made.json()["id"]))["phase"] == "completed"


@pytest.mark.parametrize(
    ("query", "body", "status", "code"),
    [
        ("", b"", 422, "no_audio"),
        ("?nonsense=1", b"x", 422, "invalid_request"),
        ("?language=de&language=en", b"x", 422, "invalid_request"),
        (f"?webhook_secret=whsec_{'A' * 32}", b"x", 422, "invalid_request"),
        ("?webhook_secret=short", b"x", 422, "invalid_request"),
        ("?webhook=http://example.com/", b"x", 422, "source_forbidden"),
        ("", b"x" * (MAX_UPLOAD_BYTES + 1), 413, "source_too_large"),
    ],
)
async def test_an_invalid_raw_body_is_refused(served: Served, query: str, body: bytes, status: int, code: str) -> None:
    answer = await served.http.post(f"/v1/jobs{query}", content=body, headers={"content-type": "audio/wav"})
    problem(answer, status, code)
    assert served.app.artifacts.keys("jobs") == []


async def test_the_decoded_audio_is_a_wav_file(served: Served, sample: Path) -> None:
    with sample.open("rb") as file:
        made = await served.http.post("/v1/jobs", files={"file": file})
    job = await finished(served, made.json()["id"])
    (audio,) = [a for a in job["artifacts"] if a["name"] == "audio.wav"]
    whole = await served.http.get(audio["url"])
    assert (whole.headers["content-type"], len(whole.content)) == ("audio/wav", audio["size"])
    part = await served.http.get(audio["url"], headers={"Range": "bytes=40-99"})
    assert (part.status_code, part.content) == (206, whole.content[40:100])


async def test_every_response_names_its_request(served: Served) -> None:
    named = await served.http.get("/healthz", headers={"x-request-id": "abc-1"})
    assert named.headers["x-request-id"] == "abc-1"
    first, second = [(await served.http.get("/healthz")).headers["x-request-id"] for _ in range(2)]
    assert first != second
    assert (await served.http.get("/healthz", headers={"x-request-id": "a b"})).headers["x-request-id"] != "a b"
    assert json.loads((await served.http.get("/v1/nothing")).text)["code"] == "not_found"

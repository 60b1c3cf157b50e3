"""`murmur up`: refused starts, and that it stops everything that it started and nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx
import httpx_sse
import orjson
import psutil
import pytest

from benchmarks.lib.harness import free_port
from serve_app.local.valkey import Valkey
from tests.lib.murmur_process import MURMUR, Up, command, murmur, up

DASHBOARD = "ray-dashboard-"
FAKE = {"MURMUR_ENGINE": "fake", "MURMUR_MODELS": "fake"}


def refused(data_dir: Path, *arguments: str, **environment: str) -> str:
    """Run a start that is refused with status 2 and leaves no process; returns its one line."""
    done = murmur("up", "--data-dir", data_dir, "--port", str(free_port()), *arguments, **environment)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("starting: ")]
    assert len(lines) == 1, done.stderr
    assert not [p for p in psutil.process_iter() if str(data_dir) in " ".join(command(p))]
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (("--host", "0.0.0.0"), {}, "refused to listen on 0.0.0.0 without keys"),
        (("--redis-url", "redis://127.0.0.1:9/0"), {}, "no Redis answers at redis://127.0.0.1:9/0"),
        (("--ray-address", "127.0.0.1:9"), {}, "no Ray cluster answers at 127.0.0.1:9"),
        ((), {"MURMUR_MODELS": "large-v9"}, "There is no model 'large-v9': use base (multilingual), tiny.en (English)"),
        ((), {"MURMUR_DEVICE": "cuda"}, "no usable NVIDIA GPU"),
        ((), {"MURMUR_BATCH_SIZE": "-1"}, "MURMUR_BATCH_SIZE"),
        ((), {"MURMUR_RESULT_TTL": "5"}, "MURMUR_RESULT_TTL: there is no such setting, did you mean MURMUR_RESULT_TTL_S?"),
        ((), {"PATH": "/nonexistent", "IMAGEIO_FFMPEG_EXE": "/nonexistent"}, "no usable ffmpeg"),
    ],
)
def test_a_refused_start_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], reason: str
) -> None:
    assert reason in refused(tmp_path / "data", *arguments, **environment)


@pytest.mark.skipif(
    all(name.startswith("lo") for name in psutil.net_if_addrs()), reason="this machine has no network interface"
)
def test_a_ray_that_listens_beyond_loopback_is_stopped_and_named(tmp_path: Path) -> None:
    reason = refused(tmp_path / "data", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1", MURMUR_DASHBOARD="false", **FAKE)
    assert "listens beyond this machine" in reason
    assert "unset RAY_ variables" in reason


def test_an_invalid_port_is_refused() -> None:
    done = murmur("up", "--port", "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port} on 127.0.0.1 is taken" in refused(tmp_path / "data", "--port", port)


def test_an_unusable_data_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be used" in refused(tmp_path / "file/data")


def test_two_can_start_at_the_same_time_and_an_external_redis_keeps_running(tmp_path: Path, valkey: Valkey) -> None:
    with up(tmp_path / "one", **FAKE) as one, up(tmp_path / "two", "--redis-url", valkey.url, **FAKE) as two:
        for service in (one, two):
            assert service.ready() == f"ready {service.url}", service.errors.read_text()
        dashboards = {service.errors.read_text().partition("dashboard ")[2].split()[0] for service in (one, two)}
        assert len(dashboards) == 2
        assert (len(one.named("valkey-server")), len(two.named("valkey-server"))) == (1, 0)
        family = two.family()
        assert two.stop() == 0
    assert psutil.wait_procs(family, timeout=0)[1] == []
    assert valkey.pid


def test_an_interrupted_start_leaves_no_process(tmp_path: Path) -> None:
    with up(tmp_path / "data", **FAKE) as service:
        while not service.named("raylet/raylet"):
            assert service.process.poll() is None, service.errors.read_text()
        family = service.family()
        assert service.stop() == 130
        assert psutil.wait_procs(family, timeout=0)[1] == []
        assert service.ready() == ""


def test_transcribe_without_a_server_starts_a_temporary_one(tmp_path: Path, sample: Path) -> None:
    """It leaves no process and no file behind."""
    keyed = {"MURMUR_API_KEYS_REQUIRED": "true"}  # applies to shared servers only
    done = murmur("transcribe", sample, MURMUR_MODELS="tiny.en", XDG_DATA_HOME=str(tmp_path), **keyed)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5
    left = [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("XDG_DATA_HOME") == str(tmp_path)]
    assert psutil.wait_procs(left, timeout=1)[1] == []
    assert list(tmp_path.iterdir()) == []


def answers_503_until_it_is_ready(service: Up) -> None:
    """No client takes a start for a server that does not know its path."""
    answers: list[httpx.Response] = []
    while not answers or answers[-1].status_code != 200:
        assert service.process.poll() is None, service.errors.read_text()
        with suppress(httpx.TransportError):
            answers.append(httpx.get(f"{service.url}/readyz", trust_env=False, timeout=30))
        time.sleep(0.05)
    assert {answer.status_code for answer in answers} <= {503, 200}
    assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 503)


def no_other_user_reads_its_files(service: Up) -> None:
    """Recordings, logs and the append-only file are its own."""
    paths = [service.data_dir, *service.data_dir.rglob("*")]
    assert len(paths) > 5
    assert not [path for path in paths if path.lstat().st_mode & 0o077 and not path.is_symlink()]


def no_worker_preempts_another(service: Up) -> None:
    """Ray's processes run under SCHED_BATCH; the command itself and Valkey do not."""
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except (AttributeError, OSError):
        return  # not available here
    workers = service.named("ray::", "raylet/raylet", "gcs_server")
    assert len(workers) > 5
    assert {os.sched_getscheduler(worker.pid) for worker in workers} == {os.SCHED_BATCH}
    others = [service.process.pid, *(server.pid for server in service.named("valkey-server"))]
    assert {os.sched_getscheduler(pid) for pid in others} == {os.SCHED_OTHER}


def outlives_its_valkey(service: Up, sample: Path) -> None:
    """A killed Valkey is restarted, and nothing is lost."""
    with subprocess.Popen(
        [MURMUR, "transcribe", sample, "--server", service.url, "--format", "json"], stdout=subprocess.PIPE, text=True
    ) as following:
        listed = ""
        while "transcribing" not in listed:
            listed = murmur("jobs", "list", "--server", service.url).stdout
        [server] = service.named("valkey-server")
        server.kill()
        output, _ = following.communicate(timeout=120)
    assert following.returncode == 0
    segments = orjson.loads(output)["segments"]
    assert [segment["id"] for segment in segments] == list(range(len(segments)))
    assert "embedded Valkey died, restarted" in service.errors.read_text()
    job = httpx.get(f"{service.url}/v1/jobs", trust_env=False).json()["jobs"][0]
    assert (job["phase"], job["attempts"]) == ("completed", 1)


def test_a_stopped_service_leaves_no_process_and_the_next_one_resumes_its_jobs_even_if_valkey_dies(
    tmp_path: Path, sample: Path
) -> None:
    """It gives them back at once: no lease is left to run out, and the next one goes on where this one stopped,
    Valkey or no."""
    data = tmp_path / "data"
    slow = {"MURMUR_ENGINE": "fake", "MURMUR_MODELS": "fake-3", "MURMUR_LEASE_S": "3600"}
    data.mkdir(mode=0o755)
    with up(data, **slow) as first:
        answers_503_until_it_is_ready(first)
        assert first.ready(), first.errors.read_text()
        with sample.open("rb") as file, httpx.Client(base_url=first.url, trust_env=False, timeout=60) as http:
            job_id = http.post("/v1/jobs", files={"file": file}, data={"segment_duration": "6"}).json()["id"]
            with httpx_sse.connect_sse(http, "GET", f"/v1/jobs/{job_id}/events") as source:
                next(event for event in source.iter_sse() if event.event == "segment")
        family = first.family()
        assert len(family) > 5
        no_worker_preempts_another(first)
        no_other_user_reads_its_files(first)
        assert len(first.named(DASHBOARD)) > 5
        assert first.stop(signal.SIGINT) == 0
        assert psutil.wait_procs(family, timeout=0)[1] == []
    with up(data, MURMUR_ENGINE="fake", MURMUR_MODELS="fake-3", MURMUR_DASHBOARD="false") as second:
        assert second.ready(), second.errors.read_text()
        assert second.named(DASHBOARD) == []
        assert "dashboard" not in second.errors.read_text()
        with httpx.Client(base_url=second.url, trust_env=False, timeout=60) as http:
            with httpx_sse.connect_sse(http, "GET", f"/v1/jobs/{job_id}/events") as source:
                events = [event for event in source.iter_sse() if event.data]
            ids = [event.json()["id"] for event in events if event.event == "segment"]
            assert ids == list(range(len(ids)))
            job = http.get(f"/v1/jobs/{job_id}").json()
            assert (job["phase"], job["attempts"]) == ("completed", 1)
            assert http.get(f"/v1/jobs/{job_id}/transcript").status_code == 200
            phases = [event.json()["phase"] for event in events if event.event == "phase"]
            assert phases.count("queued") == 2, "it was given back"
            figures = http.get("/metrics").text
            assert "murmur_leases_expired_total 0.0" in figures
        outlives_its_valkey(second, sample)
        assert second.stop() == 0

"""The command line against a running service."""

from __future__ import annotations

import subprocess
from pathlib import Path

import orjson
import pytest

from benchmarks.lib.harness import free_port, looped
from tests.lib.murmur_process import MURMUR, Up, murmur
from tests.lib.recordings import ROOT, word_error_rate

TEXT = (ROOT / "tests/samples/two_voices.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def job_id(cluster: Up, sample: Path) -> str:
    """Completed job of a `murmur transcribe`."""
    done = murmur("transcribe", sample, "--server", cluster.url, "--model", "tiny.en")
    assert done.returncode == 0, done.stderr
    listed = murmur("jobs", "list", "--server", cluster.url, "--limit", "1").stdout
    return listed.splitlines()[1].split()[0]


def test_segments_are_printed_with_their_times(cluster: Up, sample: Path) -> None:
    done = murmur("transcribe", sample, "--server", cluster.url)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 5
    assert all(line.startswith("[00:0") and "] " in line for line in lines)
    assert word_error_rate(TEXT, " ".join(line.split("] ", 1)[1] for line in lines)) <= 0.1


@pytest.mark.parametrize(
    ("format", "begins"), [("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n"), ("tsv", "start\t"), ("json", "{"), ("text", "")]
)
def test_a_transcript_is_printed_in_the_requested_format(cluster: Up, sample: Path, format: str, begins: str) -> None:
    done = murmur("transcribe", sample, "--server", cluster.url, "--model", "tiny.en", "--format", format)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(begins)
    assert "-->" not in done.stdout or format in ("srt", "vtt")


def test_several_recordings_are_written_and_one_that_fails_is_reported(cluster: Up, sample: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_bytes(b"no audio")
    out = tmp_path / "out"
    options = ("--output", out, "--format", "json", "--words", "--language", "en")
    done = murmur("transcribe", sample, bad, tmp_path / "none.wav", "--server", cluster.url, *options)
    assert done.returncode == 1
    assert "bad: The source is not audio" in done.stderr
    assert "none: No such file" in done.stderr
    assert [path.name for path in out.iterdir()] == ["two_voices.json"]
    assert orjson.loads((out / "two_voices.json").read_bytes())["segments"][0]["words"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "doc"), "there is no format 'doc'"),
        (("--server", "http://127.0.0.1:9"), "No server answers at http://127.0.0.1:9"),
    ],
)
def test_an_error_is_one_line(sample: Path, arguments: tuple[str, ...], message: str) -> None:
    done = murmur("transcribe", sample, *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_job_is_listed_shown_and_watched(cluster: Up, job_id: str) -> None:
    listed = murmur("jobs", "list", "--server", cluster.url)
    assert job_id in listed.stdout
    lines = murmur("jobs", "list", "--json", "--server", cluster.url).stdout.splitlines()
    assert job_id in [orjson.loads(line)["id"] for line in lines]
    shown = orjson.loads(murmur("jobs", "show", job_id, MURMUR_SERVER=cluster.url).stdout)
    assert (shown["id"], shown["phase"], shown["metadata"]) == (job_id, "completed", {"name": "two_voices"})
    watched = murmur("jobs", "watch", job_id, "--server", cluster.url)
    assert watched.returncode == 0
    assert watched.stdout.splitlines()[-1] == 'done {"phase":"completed"}'


def test_a_job_that_has_ended_cannot_be_cancelled_but_deleted(cluster: Up, job_id: str) -> None:
    refused = murmur("jobs", "cancel", job_id, "--server", cluster.url)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "murmur: The job has completed: there is nothing to cancel.\n"
    deleted = murmur("jobs", "delete", job_id, "--server", cluster.url)
    assert (deleted.returncode, deleted.stdout) == (0, f"{job_id}: deleted\n")
    gone = murmur("jobs", "show", job_id, "--server", cluster.url)
    assert (gone.returncode, gone.stderr) == (1, "murmur: There is no such job.\n")


def test_a_watched_job_that_is_cancelled_ends_with_1(cluster: Up, sample: Path, tmp_path: Path) -> None:
    long = looped(sample, 900, tmp_path / "long.mp3")
    with subprocess.Popen(
        [MURMUR, "transcribe", long, "--server", cluster.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        assert running.stdout.readline().startswith("[")
        job = murmur("jobs", "list", "--server", cluster.url, "--limit", "1").stdout.splitlines()[1].split()[0]
        cancelled = murmur("jobs", "cancel", job, "--server", cluster.url)
        assert (cancelled.returncode, cancelled.stdout[: len(job) + 8]) == (0, f"{job}: cancel"), cancelled.stderr
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "The job was cancelled." in errors
    assert murmur("jobs", "watch", job, "--server", cluster.url).returncode == 1


def test_a_failed_job_is_listed_with_its_error_and_queued_again(cluster: Up, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_bytes(b"no audio")
    assert murmur("transcribe", bad, "--server", cluster.url).returncode == 1
    row = murmur("jobs", "list", "--server", cluster.url, "--limit", "1").stdout.splitlines()[1]
    assert "The source is not audio" in row
    job = row.split()[0]
    queued = murmur("jobs", "retry", job, "--server", cluster.url)
    assert (queued.returncode, queued.stdout) == (0, f"{job}: queued again\n")
    assert murmur("jobs", "watch", job, "--server", cluster.url).returncode == 1


def test_the_doctor_reports_what_is_wrong(tmp_path: Path) -> None:
    environment = {"MURMUR_DATA_DIR": str(tmp_path / "data"), "MURMUR_PORT": str(free_port())}
    well = murmur("doctor", **environment)
    assert well.returncode == 0, well.stdout
    assert all(line.startswith("ok ") for line in well.stdout.splitlines())
    assert list(tmp_path.iterdir()) == []
    ill = murmur("doctor", **environment, MURMUR_MODELS="none", MURMUR_REDIS_URL="redis://127.0.0.1:9/0")
    assert ill.returncode == 1
    bad = [line for line in ill.stdout.splitlines() if line.startswith("BAD")]
    assert [line.split(":")[0] for line in bad] == ["BAD  weights of none", "BAD  redis"]

"""Durability: what is stored is on disk, file and folders, before the writer returns; decoded audio may be lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from deployments.errors import StorageFull, StorageUnavailable
from deployments.messages import TranscodeProgress, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import part_key
from deployments.transcoding.plan import plan_key
from deployments.transcoding.stage import Transcoder
from deployments.transcription import weights
from tests.lib.power import watched_disk
from tests.lib.recordings import ROOT

KEY = "jobs/j1/source"


def test_an_artifact_survives_a_power_cut(tmp_path: Path) -> None:
    with watched_disk() as disk:
        artifacts = Artifacts((tmp_path / "data/artifacts").as_uri())
        (tmp_path / "data").mkdir()
        for n in range(3):
            artifacts.put(f"jobs/j{n}/source", b"sound %d" % n)
            artifacts.put(f"files/f{n}/source", b"file %d" % n)
        survivors = disk.after_power_cut(tmp_path / "data")
    assert survivors == {
        **{f"artifacts/jobs/j{n}/source": b"sound %d" % n for n in range(3)},
        **{f"artifacts/files/f{n}/source": b"file %d" % n for n in range(3)},
    }


def test_a_rewritten_artifact_survives_as_the_new_one(tmp_path: Path) -> None:
    with watched_disk() as disk:
        artifacts = Artifacts((tmp_path / "artifacts").as_uri())
        artifacts.put(KEY, b"old")
        artifacts.put(KEY, b"new")
        assert disk.after_power_cut(tmp_path) == {f"artifacts/{KEY}": b"new"}


def test_a_folder_that_an_audio_part_made_is_synced_with_the_first_durable_file(tmp_path: Path) -> None:
    with watched_disk() as disk:
        artifacts = Artifacts((tmp_path / "artifacts").as_uri())
        artifacts.put("jobs/j1/pcm/00000.s16le", b"\1\0", durable=False)
        assert disk.synced == []
        artifacts.put("jobs/j1/pcm/plan.json", b"{}")
        assert "artifacts/jobs/j1/pcm/plan.json" in disk.after_power_cut(tmp_path)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_kernel_sees_the_file_synced_before_its_name_and_the_folders_after(tmp_path: Path) -> None:
    log = tmp_path / "log"
    put = f"from deployments.storage.artifacts import Artifacts; Artifacts({(tmp_path / 'a').as_uri()!r}).put({KEY!r}, b'x')"
    calls = "trace=fsync,rename,renameat,renameat2"
    command = ["strace", "-f", "-y", "-e", calls, "-o", str(log), sys.executable, "-c", put]
    ran = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    if ran.returncode and not (log.exists() and log.read_text()):
        pytest.skip("strace may not trace here")
    seen = re.findall(r"(fsync|rename\w*)\((?:AT_FDCWD[^,]*, )?(?:\d+<([^>]*)>|\"([^\"]*)\")", log.read_text())
    paths = [(call[:6], Path(by_descriptor or by_name)) for call, by_descriptor, by_name in seen]
    steps = [(call, path.relative_to(tmp_path).parts) for call, path in paths if path.is_relative_to(tmp_path)]
    assert [call for call, _ in steps[:2]] == ["fsync", "rename"]
    assert steps[0][1] == steps[1][1]
    assert [parts for _, parts in steps[2:6]] == [("a", "jobs", "j1"), ("a", "jobs"), ("a",), ()]


REQUEST = TranscodeRequest(KEY, "jobs/j1/pcm", 30.0, 3600.0)


async def decode(artifacts: Artifacts, program: str) -> list[TranscodeProgress]:
    return [progress async for progress in Transcoder(artifacts, program).windows(REQUEST)]


@pytest.mark.parametrize("damage", ["missing", "empty", "short"])
async def test_audio_that_a_power_cut_took_is_decoded_again(
    artifacts: Artifacts, ffmpeg: str, sample: Path, memoized_vad: None, damage: str
) -> None:
    artifacts.put(KEY, sample.read_bytes())
    first = await decode(artifacts, ffmpeg)
    part, plan = part_key(REQUEST.pcm_prefix, 0), artifacts.read(plan_key(REQUEST.pcm_prefix))
    audio = artifacts.read(part)
    artifacts.delete(part)
    if damage != "missing":
        artifacts.put(part, b"" if damage == "empty" else audio[:-2])
    again = await decode(artifacts, ffmpeg)
    assert artifacts.read(part) == audio
    assert artifacts.read(plan_key(REQUEST.pcm_prefix)) == plan
    assert [w for p in again for w in p.windows] == [w for p in first for w in p.windows]
    assert len(await decode(artifacts, "/nowhere")) == 1, "it is whole, and not decoded a third time"


def test_unpacked_weights_are_synced_before_they_are_trusted(tmp_path: Path) -> None:
    with watched_disk() as disk:
        weights.locate("tiny.en", str(tmp_path))
        survivors = disk.after_power_cut(tmp_path / "weights")
    assert {f"tiny.en/{name}" for name in ("model.bin", "config.json", "tokenizer.json")} <= set(survivors)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.mkdir"])
def test_a_full_disk_is_its_own_error_and_leaves_nothing(artifacts: Artifacts, number: int, call: str) -> None:
    artifacts.put("jobs/other/source", b"x")
    with pytest.raises(StorageFull), patch(call, side_effect=OSError(number, os.strerror(number))):
        artifacts.put(KEY, b"sound")
    assert artifacts.keys("jobs") == ["jobs/other/source"]
    assert artifacts.keys("parts") == []


WRITE_UNTIL_FULL = """
import resource, signal, sys
from deployments.errors import StorageFull
from deployments.storage.artifacts import Artifacts
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
artifacts = Artifacts(sys.argv[1])
try:
    with artifacts.writer("jobs/j1/source") as writer:
        for _ in range(20):
            writer.write(bytes(100_001))
except StorageFull:
    files = [path for path in __import__("pathlib").Path(artifacts._root).rglob("*") if path.is_file()]
    raise SystemExit(7 if not files else 8)
"""


def test_a_file_that_the_kernel_refuses_to_grow_is_a_full_storage(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_UNTIL_FULL, tmp_path.as_uri()]
    assert subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False).returncode == 7


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EROFS, errno.ESTALE, errno.EMFILE])
def test_a_failing_disk_is_waited_for(artifacts: Artifacts, number: int) -> None:
    artifacts.put(KEY, b"old")
    with pytest.raises(StorageUnavailable) as failed, patch("os.fsync", side_effect=OSError(number, os.strerror(number))):
        artifacts.put(KEY, b"sound")
    assert not isinstance(failed.value, StorageFull)
    assert artifacts.read(KEY) == b"old"


def test_a_message_shows_no_path(artifacts: Artifacts) -> None:
    with pytest.raises(StorageUnavailable) as failed, patch("os.fsync", side_effect=OSError(5, "x", artifacts.uri)):
        artifacts.put(KEY, b"sound")
    assert "/" not in failed.value.message

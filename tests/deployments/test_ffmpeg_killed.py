"""A killed ffmpeg has not decoded its file, whatever it wrote until then."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from batching.types import SAMPLE_RATE
from deployments.errors import StageLost
from deployments.transcoding.decoder import Decoder
from tests.lib.media import children, wav


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_decoder_did_not_decode_its_file(ffmpeg: str, tmp_path: Path, number: int) -> None:
    (tmp_path / "long.wav").write_bytes(wav(bytes(2 * 600 * SAMPLE_RATE)))
    before = children()
    with (tmp_path / "long.wav").open("rb") as file:
        decoder = await Decoder.start(ffmpeg, file.fileno(), 3600)
        await decoder.read(SAMPLE_RATE)
        (pid,) = children() - before
        os.kill(pid, number)
        while await decoder.read(SAMPLE_RATE):
            pass
        with pytest.raises(StageLost):
            await decoder.check_exit()
        await decoder.stop()

"""What the tests of the stages send in: media made by ffmpeg, WAV files of any claim, and PCM got back."""

from __future__ import annotations

import io
import subprocess
import wave
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from batching.types import SAMPLE_RATE
from deployments.storage.pcm import to_float
from deployments.transcoding.ffmpeg import Decoder, decode_command


def make(program: str, target: Path, *arguments: str) -> Path:
    """A file made by ffmpeg."""
    subprocess.run([program, "-v", "error", "-nostdin", "-y", *arguments, str(target)], check=True)
    return target


def wav(pcm: bytes, claims: int | None = None) -> bytes:
    """s16le at 16 kHz with the header of a WAV file, which claims to hold `claims` bytes."""
    held = (len(pcm) if claims is None else claims).to_bytes(4, "little")
    head = b"RIFF" + held + b"WAVEfmt " + (16).to_bytes(4, "little") + b"\1\0\1\0" + SAMPLE_RATE.to_bytes(4, "little")
    return head + (2 * SAMPLE_RATE).to_bytes(4, "little") + b"\2\0\x10\0" + b"data" + held + pcm


def side_by_side(*channels: bytes) -> bytes:
    """s16le of as many channels at 16 kHz as one WAV file; those that are shorter end in silence."""
    longest = max(map(len, channels))
    padded = [np.frombuffer(channel.ljust(longest, b"\0"), "<i2") for channel in channels]
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((len(channels), 2, SAMPLE_RATE, 0, "NONE", ""))
        sound.writeframes(np.stack(padded, axis=1).tobytes())
    return file.getvalue()


async def decode(program: str, source: Path, seconds: float = 3600.0) -> bytes:
    """All samples of a source as s16le; raises what the decoder raises."""
    with source.open("rb") as file:
        decoder = await Decoder.start(program, file.fileno(), seconds)
        try:
            pcm = bytearray()
            while chunk := await decoder.read(SAMPLE_RATE):
                pcm += chunk
            await decoder.verdict()
        finally:
            await decoder.stop()
    assert decoder.samples * 2 == len(pcm)
    return bytes(pcm)


def decode_at_once(program: str, source: Path) -> bytes:
    """The same of a sound file, without a loop: for fixtures that many tests share."""
    with source.open("rb") as file:
        return subprocess.run(decode_command(program, 3600), stdin=file, capture_output=True, check=True).stdout


async def heard(program: str, source: Path) -> NDArray[np.float32]:
    """All samples of a source."""
    return to_float(await decode(program, source))


def children() -> set[int]:
    """The processes that this one has started and that still run."""
    return {child.pid for child in psutil.Process().children()}

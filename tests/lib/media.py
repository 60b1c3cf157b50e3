"""Media for tests: files made by ffmpeg, WAV files with any header, and decoded PCM."""

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
from deployments.transcoding.decoder import Decoder
from deployments.transcoding.ffmpeg import decode_command


def make(program: str, target: Path, *arguments: str) -> Path:
    """Make a file with ffmpeg."""
    subprocess.run([program, "-v", "error", "-nostdin", "-y", *arguments, str(target)], check=True)
    return target


def wav(pcm: bytes, claims: int | None = None) -> bytes:
    """s16le at 16 kHz with a WAV header that declares `claims` bytes."""
    length = (len(pcm) if claims is None else claims).to_bytes(4, "little")
    head = b"RIFF" + length + b"WAVEfmt " + (16).to_bytes(4, "little") + b"\1\0\1\0" + SAMPLE_RATE.to_bytes(4, "little")
    return head + (2 * SAMPLE_RATE).to_bytes(4, "little") + b"\2\0\x10\0" + b"data" + length + pcm


def side_by_side(*channels: bytes) -> bytes:
    """One WAV file of s16le channels at 16 kHz; shorter ones end in silence."""
    longest = max(map(len, channels))
    padded = [np.frombuffer(channel.ljust(longest, b"\0"), "<i2") for channel in channels]
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((len(channels), 2, SAMPLE_RATE, 0, "NONE", ""))
        writer.writeframes(np.stack(padded, axis=1).tobytes())
    return file.getvalue()


async def decode(program: str, source: Path, seconds: float = 3600.0) -> bytes:
    """Decode a source to s16le. Raises WorkError."""
    with source.open("rb") as file:
        decoder = await Decoder.start(program, file.fileno(), seconds)
        try:
            pcm = bytearray()
            while chunk := await decoder.read(SAMPLE_RATE):
                pcm += chunk
            await decoder.check_exit()
        finally:
            await decoder.stop()
    assert decoder.samples * 2 == len(pcm)
    return bytes(pcm)


def decode_at_once(program: str, source: Path) -> bytes:
    """Decode an audio file without an event loop, for shared fixtures."""
    with source.open("rb") as file:
        return subprocess.run(decode_command(program, 3600), stdin=file, capture_output=True, check=True).stdout


async def decode_floats(program: str, source: Path) -> NDArray[np.float32]:
    """Decode a source to samples in [-1, 1)."""
    return to_float(await decode(program, source))


def children() -> set[int]:
    """Process ids of running child processes."""
    return {child.pid for child in psutil.Process().children()}

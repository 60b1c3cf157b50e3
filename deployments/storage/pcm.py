"""Decoded audio in storage: numbered parts of a minute, signed 16-bit little-endian, 16 kHz, one channel each."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from batching.types import SAMPLE_RATE
from deployments.storage.artifacts import Artifacts

PART_SAMPLES = 60 * SAMPLE_RATE
SAMPLE_BYTES = 2
WAV_HEADER_BYTES = 44


def part_key(prefix: str, number: int) -> str:
    """Where a part lies."""
    return f"{prefix}/{number:05d}.s16le"


def channel_prefix(prefix: str, channel: int | None) -> str:
    """Where the parts of a channel lie; of the mix of all if it is None."""
    return prefix if channel is None else f"{prefix}/c{channel}"


def apart(pcm: bytes, channels: int) -> list[bytes]:
    """Interleaved s16le → each channel's."""
    return [channel.tobytes() for channel in np.frombuffer(pcm, "<i2").reshape(-1, channels).T]


def to_float(pcm: bytes) -> NDArray[np.float32]:
    """Bytes of s16le → samples in [-1, 1)."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0


class PcmWriter:
    """Cuts a stream of PCM into parts; a part is stored when it is full, the last by `finish`."""

    def __init__(self, artifacts: Artifacts, prefix: str) -> None:
        self._artifacts = artifacts
        self._prefix = prefix
        self._buffer = bytearray()
        self._parts = 0
        self.stored = 0

    def write(self, pcm: bytes) -> None:
        """Append whole samples. `stored` then says how many samples can be read back."""
        self._buffer += pcm
        part_bytes = PART_SAMPLES * SAMPLE_BYTES
        while len(self._buffer) >= part_bytes:
            self._store(bytes(self._buffer[:part_bytes]))
            del self._buffer[:part_bytes]

    def finish(self) -> None:
        """Store what is left."""
        if self._buffer:
            self._store(bytes(self._buffer))
            self._buffer.clear()

    def _store(self, pcm: bytes) -> None:
        self._artifacts.put(part_key(self._prefix, self._parts), pcm)
        self._parts += 1
        self.stored += len(pcm) // SAMPLE_BYTES


def wav_header(samples: int, channels: int = 1) -> bytes:
    """What makes a WAV file of `samples` samples a channel that follow; the lengths of one beyond 4 GiB say that it is
    longer."""
    frame = channels * SAMPLE_BYTES
    size = min(samples * frame, 0xFFFFFFFF - WAV_HEADER_BYTES)
    sound = struct.pack("<IHHIIHH", 16, 1, channels, SAMPLE_RATE, SAMPLE_RATE * frame, frame, 8 * SAMPLE_BYTES)
    return b"RIFF" + struct.pack("<I", size + WAV_HEADER_BYTES - 8) + b"WAVEfmt " + sound + b"data" + struct.pack("<I", size)


def wav_chunks(
    artifacts: Artifacts, prefix: str, samples: int, start: int, length: int, channels: int | None = None
) -> Iterator[bytes]:
    """Bytes `[start, start + length)` of the parts as one WAV file, at most a part's length at a time: there is no second
    copy of it. `channels` kept apart are interleaved."""
    tracks = [channel_prefix(prefix, channel) for channel in (range(channels) if channels else (None,))]
    header = wav_header(samples, len(tracks))[start : start + length]
    if header:
        yield header
    frame, most = len(tracks) * SAMPLE_BYTES, PART_SAMPLES // len(tracks)
    at, left = max(start - WAV_HEADER_BYTES, 0), length - len(header)
    while left > 0:
        sample, skip = divmod(at, frame)
        number, offset = divmod(sample, PART_SAMPLES)
        wanted = min(-(-(skip + left) // frame), PART_SAMPLES - offset, most)
        pieces = [artifacts.read(part_key(track, number), offset * SAMPLE_BYTES, wanted * SAMPLE_BYTES) for track in tracks]
        piece = interleaved(pieces)[skip : skip + left]
        if not piece:
            return
        yield piece
        at += len(piece)
        left -= len(piece)


def interleaved(channels: list[bytes]) -> bytes:
    """The contrary of `apart`."""
    return np.stack([np.frombuffer(channel, "<i2") for channel in channels], axis=1).tobytes()


def read_pcm(artifacts: Artifacts, prefix: str, start: int, end: int) -> NDArray[np.float32]:
    """Samples `[start, end)` as floats, from as many parts as they span."""
    pieces = []
    while start < end:
        number, offset = divmod(start, PART_SAMPLES)
        length = min(end - start, PART_SAMPLES - offset)
        pieces.append(artifacts.read(part_key(prefix, number), offset * SAMPLE_BYTES, length * SAMPLE_BYTES))
        start += length
    return to_float(b"".join(pieces))

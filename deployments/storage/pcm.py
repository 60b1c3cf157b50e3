"""Decoded audio: one-minute parts of s16le at 16 kHz, one channel each."""

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
# A part of zeros is stored as their number alone. Its odd length tells it from samples.
SILENCE = struct.Struct("<BI")


def part_key(prefix: str, number: int) -> str:
    return f"{prefix}/{number:05d}.s16le"


def channel_prefix(prefix: str, channel: int | None) -> str:
    """Folder of a channel's parts; None for the mix."""
    return prefix if channel is None else f"{prefix}/c{channel}"


def deinterleave(pcm: bytes, channels: int) -> list[bytes]:
    """Interleaved s16le → s16le per channel."""
    return [channel.tobytes() for channel in np.frombuffer(pcm, "<i2").reshape(-1, channels).T]


def to_float(pcm: bytes) -> NDArray[np.float32]:
    """s16le → samples in [-1, 1)."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0


class PcmWriter:
    """Writes a stream of PCM as parts."""

    def __init__(self, artifacts: Artifacts, prefix: str) -> None:
        self._artifacts = artifacts
        self._prefix = prefix
        self._buffer = bytearray()
        self._parts = 0
        self.stored = 0  # samples that can be read back

    def write(self, pcm: bytes) -> None:
        """Append whole samples; full parts are stored."""
        self._buffer += pcm
        part_bytes = PART_SAMPLES * SAMPLE_BYTES
        while len(self._buffer) >= part_bytes:
            self._store(bytes(self._buffer[:part_bytes]))
            del self._buffer[:part_bytes]

    def finish(self) -> None:
        """Store the rest."""
        if self._buffer:
            self._store(bytes(self._buffer))
            self._buffer.clear()

    def _store(self, pcm: bytes) -> None:
        # Not durable: parts that a power cut took are missed by `parts_stored`, and decoded again.
        samples = len(pcm) // SAMPLE_BYTES
        data = pcm if pcm != bytes(len(pcm)) else SILENCE.pack(0, samples)
        self._artifacts.put(part_key(self._prefix, self._parts), data, durable=False)
        self._parts += 1
        self.stored += samples


def parts_stored(artifacts: Artifacts, prefix: str, samples: int, channels: int | None = None) -> bool:
    """Whether all parts of a recording are stored, each whole."""
    sizes = artifacts.sizes(prefix)
    for track in tracks_of(prefix, channels):
        for number in range(-(-samples // PART_SAMPLES)):
            whole = min(samples - number * PART_SAMPLES, PART_SAMPLES) * SAMPLE_BYTES
            if sizes.get(part_key(track, number)) not in (whole, SILENCE.size):
                return False
    return True


def read_part(artifacts: Artifacts, prefix: str, number: int, start: int, length: int) -> bytes:
    """`length` bytes of a part from the byte `start`, fewer at its end. Raises FileNotFoundError."""
    key = part_key(prefix, number)
    beyond = max(length, SILENCE.size + 1 - start)  # beyond the end of a part of zeros
    data = artifacts.read(key, start, beyond)
    if len(data) == beyond:
        return data[:length]
    marker = artifacts.read(key, 0, SILENCE.size + 1)
    if len(marker) != SILENCE.size:
        return data[:length]
    _, samples = SILENCE.unpack(marker)
    return bytes(max(min(length, samples * SAMPLE_BYTES - start), 0))


def tracks_of(prefix: str, channels: int | None) -> list[str]:
    """Folders of the parts of all channels, or of the mix."""
    return [channel_prefix(prefix, channel) for channel in (range(channels) if channels else (None,))]


def wav_header(samples: int, channels: int = 1) -> bytes:
    """WAV header; `samples` per channel."""
    # The length fields saturate: a file beyond 4 GiB says that it is as long as they can say.
    frame = channels * SAMPLE_BYTES
    size = min(samples * frame, 0xFFFFFFFF - WAV_HEADER_BYTES)
    fmt = struct.pack("<IHHIIHH", 16, 1, channels, SAMPLE_RATE, SAMPLE_RATE * frame, frame, 8 * SAMPLE_BYTES)
    return b"RIFF" + struct.pack("<I", size + WAV_HEADER_BYTES - 8) + b"WAVEfmt " + fmt + b"data" + struct.pack("<I", size)


def wav_chunks(
    artifacts: Artifacts, prefix: str, samples: int, start: int, length: int, channels: int | None = None
) -> Iterator[bytes]:
    """Stream bytes `[start, start + length)` of the parts as one WAV file, separate `channels` interleaved."""
    tracks = tracks_of(prefix, channels)
    header = wav_header(samples, len(tracks))[start : start + length]
    if header:
        yield header
    frame, most = len(tracks) * SAMPLE_BYTES, PART_SAMPLES // len(tracks)
    position, left = max(start - WAV_HEADER_BYTES, 0), length - len(header)
    while left > 0:
        sample, skip = divmod(position, frame)
        number, offset = divmod(sample, PART_SAMPLES)
        count = min(-(-(skip + left) // frame), PART_SAMPLES - offset, most)
        pieces = [read_part(artifacts, track, number, offset * SAMPLE_BYTES, count * SAMPLE_BYTES) for track in tracks]
        piece = interleave(pieces)[skip : skip + left]
        if not piece:
            return
        yield piece
        position += len(piece)
        left -= len(piece)


def interleave(channels: list[bytes]) -> bytes:
    """Inverse of `deinterleave`."""
    return np.stack([np.frombuffer(channel, "<i2") for channel in channels], axis=1).tobytes()


def read_pcm(artifacts: Artifacts, prefix: str, start: int, end: int) -> NDArray[np.float32]:
    """Samples `[start, end)` as floats."""
    pieces = []
    while start < end:
        number, offset = divmod(start, PART_SAMPLES)
        length = min(end - start, PART_SAMPLES - offset)
        pieces.append(read_part(artifacts, prefix, number, offset * SAMPLE_BYTES, length * SAMPLE_BYTES))
        start += length
    return to_float(b"".join(pieces))

"""PCM parts: writing and reading across part borders, and WAV files."""

from __future__ import annotations

import io
import wave
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.storage import pcm
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import (
    PART_SAMPLES,
    WAV_HEADER_BYTES,
    PcmWriter,
    channel_prefix,
    deinterleave,
    part_key,
    parts_stored,
    read_part,
    read_pcm,
    to_float,
    wav_chunks,
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 25), max_size=12), st.data())
def test_written_samples_are_read_back(pieces: list[int], data: st.DataObject) -> None:
    total = sum(pieces)
    start = data.draw(st.integers(0, total))
    end = data.draw(st.integers(start, total))
    sound = np.arange(total, dtype="<i2")
    with TemporaryDirectory() as folder, patch.object(pcm, "PART_SAMPLES", 10):
        artifacts = Artifacts(f"file://{folder}")
        writer = PcmWriter(artifacts, "job/pcm")
        written = 0
        for piece in pieces:
            writer.write(sound[written : written + piece].tobytes())
            written += piece
            # Before the end, all whole parts can be read.
            assert writer.stored == written // 10 * 10
        writer.finish()
        assert writer.stored == total
        assert np.array_equal(read_pcm(artifacts, "job/pcm", start, end), to_float(sound[start:end].tobytes()))
        assert len(artifacts.keys("job/pcm")) == -(-total // 10)


def test_a_part_holds_a_minute(artifacts: Artifacts) -> None:
    writer = PcmWriter(artifacts, "pcm")
    writer.write(bytes(2 * (PART_SAMPLES - 1)))
    assert writer.stored == 0
    writer.write(b"\1\0\2\0\3\0")
    assert writer.stored == PART_SAMPLES
    writer.finish()
    assert artifacts.size(part_key("pcm", 0)) == 2 * PART_SAMPLES == 2 * 60 * 16_000
    assert artifacts.size(part_key("pcm", 1)) == 4
    across = read_pcm(artifacts, "pcm", PART_SAMPLES - 2, PART_SAMPLES + 2) * 32_768
    assert across.tolist() == [0, 1, 2, 3]


def test_without_samples_nothing_is_stored(artifacts: Artifacts) -> None:
    writer = PcmWriter(artifacts, "pcm")
    writer.finish()
    assert artifacts.keys("pcm") == []
    assert len(read_pcm(artifacts, "pcm", 0, 0)) == 0


def test_samples_are_between_minus_one_and_one() -> None:
    loudest = np.array([-32_768, 0, 16_384, 32_767], "<i2")
    assert to_float(loudest.tobytes()).tolist() == [-1.0, 0.0, 0.5, 32_767 / 32_768]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(0, 60), st.data())
def test_channels_are_one_wav_file_in_any_range(channels: int, samples: int, data: st.DataObject) -> None:
    sound = np.arange(samples * channels, dtype="<i2").tobytes()
    size = WAV_HEADER_BYTES + len(sound)
    start = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - start))
    with TemporaryDirectory() as folder, patch.object(pcm, "PART_SAMPLES", 12):
        artifacts = Artifacts(f"file://{folder}")
        for channel, piece in enumerate(deinterleave(sound, channels)):
            writer = PcmWriter(artifacts, channel_prefix("job/pcm", channel))
            writer.write(piece)
            writer.finish()
        whole = b"".join(wav_chunks(artifacts, "job/pcm", samples, 0, size, channels))
        part = b"".join(wav_chunks(artifacts, "job/pcm", samples, start, length, channels))
    with wave.open(io.BytesIO(whole)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (channels, 16_000, samples)
        assert file.readframes(samples) == sound
    assert part == whole[start : start + length]


def test_a_wav_file_of_channels_comes_in_pieces_no_longer_than_a_part(artifacts: Artifacts) -> None:
    for channel in range(8):
        writer = PcmWriter(artifacts, channel_prefix("pcm", channel))
        writer.write(bytes(2 * (PART_SAMPLES + 10)))
        writer.finish()
    size = WAV_HEADER_BYTES + 16 * (PART_SAMPLES + 10)
    pieces = [len(piece) for piece in wav_chunks(artifacts, "pcm", PART_SAMPLES + 10, 0, size, 8)]
    assert sum(pieces) == size
    assert max(pieces) <= 2 * PART_SAMPLES


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 25)), max_size=8), st.data())
def test_silence_is_read_back_sample_by_sample(stretches: list[tuple[bool, int]], data: st.DataObject) -> None:
    sound = np.concatenate([np.zeros(0), *(np.full(n, 0 if silent else 700) for silent, n in stretches)]).astype("<i2")
    start = data.draw(st.integers(0, len(sound)))
    end = data.draw(st.integers(start, len(sound)))
    size = WAV_HEADER_BYTES + 2 * len(sound)
    first = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - first + 10))
    with TemporaryDirectory() as folder, patch.object(pcm, "PART_SAMPLES", 10):
        artifacts = Artifacts(f"file://{folder}")
        writer = PcmWriter(artifacts, "pcm")
        writer.write(sound.tobytes())
        writer.finish()
        assert writer.stored == len(sound)
        assert np.array_equal(read_pcm(artifacts, "pcm", start, end), to_float(sound[start:end].tobytes()))
        whole = b"".join(wav_chunks(artifacts, "pcm", len(sound), 0, size))
        part = b"".join(wav_chunks(artifacts, "pcm", len(sound), first, min(length, size - first)))
        assert parts_stored(artifacts, "pcm", len(sound))
        assert not parts_stored(artifacts, "pcm", len(sound) + 10)
    assert whole[WAV_HEADER_BYTES:] == sound.tobytes()
    assert part == whole[first : first + length]


def test_hours_of_silence_take_no_space(artifacts: Artifacts) -> None:
    writer = PcmWriter(artifacts, "pcm")
    writer.write(b"\1\0" * 16_000)
    for _ in range(4 * 60):
        writer.write(bytes(2 * PART_SAMPLES))
    writer.finish()
    sizes = artifacts.sizes("pcm")
    assert len(sizes) == 4 * 60 + 1
    assert sum(sizes.values()) < 2 * (2 * PART_SAMPLES) + 10 * len(sizes)
    assert read_pcm(artifacts, "pcm", 15_999, 16_001).tolist() == [1 / 32_768, 0.0]
    assert not read_pcm(artifacts, "pcm", 100 * PART_SAMPLES - 7, 101 * PART_SAMPLES + 7).any()


def test_a_read_beyond_the_end_of_silence_ends(artifacts: Artifacts) -> None:
    writer = PcmWriter(artifacts, "pcm")
    writer.write(bytes(2 * 1000))
    writer.finish()
    assert len(read_part(artifacts, "pcm", 0, 1990, 100)) == 10
    assert read_part(artifacts, "pcm", 0, 2000, 100) == b""
    assert len(b"".join(wav_chunks(artifacts, "pcm", 1000, 0, WAV_HEADER_BYTES + 2000))) == WAV_HEADER_BYTES + 2000

"""Timestamps with gaps and jumps: silence within limits, no audio dropped, and a warning for each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from batching.types import SAMPLE_RATE
from deployments.messages import MediaWarning
from deployments.transcoding.decoder import Decoder, damage
from deployments.transcoding.timestamps import GAP_S, MOST_WARNINGS, TimestampLog
from tests.lib.media import make


async def decode(program: str, source: Path) -> tuple[int, list[MediaWarning]]:
    """Decode a source → samples, warnings."""
    with source.open("rb") as file:
        decoder = await Decoder.start(program, file.fileno(), 86_400)
        try:
            while await decoder.read(60 * SAMPLE_RATE):
                pass
            await decoder.check_exit()
        finally:
            await decoder.stop()
    return decoder.samples, list(decoder.new_warnings())


def with_gaps(program: str, target: Path, shift: str, seconds: int = 6) -> Path:
    """A tone whose timestamps are shifted by an expression of its time T."""
    tone = ("-f", "lavfi", "-i", f"sine=440:duration={seconds}:sample_rate=16000", "-c:a", "flac")
    return make(program, target, *tone, "-af", f"asetpts='PTS+({shift})/TB'", "-cluster_time_limit", "500")


async def test_a_gap_of_hours_becomes_minutes_of_silence_and_a_warning(ffmpeg: str, tmp_path: Path) -> None:
    source = with_gaps(ffmpeg, tmp_path / "gap.mka", "if(gte(T,3),4*3600,0)")
    samples, warnings = await decode(ffmpeg, source)
    assert source.stat().st_size < 100_000
    assert samples / SAMPLE_RATE == pytest.approx(6 + GAP_S, abs=0.1)
    assert [warning.code for warning in warnings] == ["timestamp_gap", "shorter_than_declared"]
    assert warnings[0].start == pytest.approx(3, abs=0.3)
    assert "leave out 14400.0 s" in warnings[0].message


async def test_shorter_gaps_keep_the_sources_clock(ffmpeg: str, tmp_path: Path) -> None:
    source = with_gaps(ffmpeg, tmp_path / "gaps.mka", "20*floor(T/5)", seconds=20)
    samples, warnings = await decode(ffmpeg, source)
    assert samples / SAMPLE_RATE == pytest.approx(80, abs=0.1)
    assert warnings == []


async def test_many_gaps_together_are_limited_by_the_audio_there_is(ffmpeg: str, tmp_path: Path) -> None:
    source = with_gaps(ffmpeg, tmp_path / "gaps.mka", f"{GAP_S - 1}*floor(T)", seconds=30)
    samples, warnings = await decode(ffmpeg, source)
    assert samples / SAMPLE_RATE < GAP_S + 30 * 12
    assert len(warnings) == MOST_WARNINGS + 1
    assert "more such places" in warnings[MOST_WARNINGS - 1].message


async def test_a_track_that_begins_hours_late_begins_with_minutes_of_silence(ffmpeg: str, tmp_path: Path) -> None:
    late = ("-itsoffset", "7200", "-f", "lavfi", "-i", "sine=440:duration=4", "-c:v", "mpeg4", "-shortest")
    pictures = ("-f", "lavfi", "-i", "testsrc=duration=4:size=64x64:rate=1")
    source = make(ffmpeg, tmp_path / "late.mkv", *pictures, *late[:-1])
    samples, warnings = await decode(ffmpeg, source)
    assert samples / SAMPLE_RATE == pytest.approx(4 + GAP_S, abs=0.2)
    assert warnings[0].code == "timestamp_gap"


async def test_audio_is_kept_where_timestamps_go_back(ffmpeg: str, tmp_path: Path) -> None:
    source = with_gaps(ffmpeg, tmp_path / "plain.mka", "0", seconds=30)
    content = bytearray(source.read_bytes())
    for cluster in re.finditer(rb"\x1f\x43\xb6\x75.{1,8}?\xe7([\x81-\x84])", bytes(content), re.DOTALL):
        place = slice(cluster.end(), cluster.end() + cluster[1][0] - 0x80)
        milliseconds = int.from_bytes(content[place], "big")
        if milliseconds >= 20_000:
            content[place] = (milliseconds - 15_000).to_bytes(place.stop - place.start, "big")
    source.write_bytes(content)
    samples, warnings = await decode(ffmpeg, source)
    assert samples / SAMPLE_RATE == pytest.approx(30, abs=0.1)
    assert [warning.code for warning in warnings] == ["timestamps_go_back"]
    assert "15.0 s at 20." in warnings[0].message


async def test_a_source_without_oddities_has_no_warnings(ffmpeg: str, sample: Path) -> None:
    assert (await decode(ffmpeg, sample))[1] == []


async def test_a_recording_that_breaks_off_is_decoded_and_reported(ffmpeg: str, tmp_path: Path) -> None:
    noise = ("-f", "lavfi", "-i", "anoisesrc=duration=30:sample_rate=16000:amplitude=0.3", "-c:a", "flac")
    source = make(ffmpeg, tmp_path / "whole.flac", *noise)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 3])
    samples, warnings = await decode(ffmpeg, source)
    assert 8 < samples / SAMPLE_RATE < 12
    assert "shorter_than_declared" in [warning.code for warning in warnings]


def test_decode_errors_are_reported_with_their_number() -> None:
    (warning,) = damage("9 frames decoded; 3 decode errors", 10.0, None)
    assert (warning.code, "3 parts" in warning.message) == ("damaged_audio", True)


def test_an_estimated_duration_is_not_compared() -> None:
    assert damage("Estimating duration from bitrate, this may be inaccurate", 10.0, 100.0) == []


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_log_may_come_in_any_pieces(size: int) -> None:
    text = b"Duration: 1\n[Eval @ 0x7f] 12.500000\n[Eval @ 0x7f] 1000003600.000000\n  title: [Eval @ 0x1] 3.0\n"
    log = TimestampLog()
    warnings = [w for at in range(0, len(text), size) for w in log.feed(text[at : at + size])]
    assert [(w.code, w.start) for w in warnings] == [("timestamp_gap", 12.5)]
    assert "3600.0 s at 12.5 s" in warnings[0].message

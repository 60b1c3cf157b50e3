"""Finds a safe ffmpeg, and builds its command line."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

import ffmpeg
import imageio_ffmpeg

from batching.types import SAMPLE_RATE
from deployments.transcoding.timestamps import on_time

AUDIO_ONLY = {"vn": None, "sn": None, "dn": None}
OLDEST_SAFE = (8, 1, 3)  # older versions follow playlists inside a source (CVE-2026-107697)
FORMATS = "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
# The sample rate that LAME itself takes for this bit rate in stereo, and two thirds of the work of its default effort.
MP3_RATE, MP3_BITRATE, MP3_EFFORT = 24_000, "64k", 7


@dataclass(frozen=True, slots=True)
class Program:
    """Usable ffmpeg."""

    path: str
    version: str


class NoFfmpeg(Exception):
    """No usable ffmpeg is installed."""


def find_ffmpeg() -> Program:
    """Prefer the system's ffmpeg to the packaged one. Raises NoFfmpeg."""
    for path in (shutil.which("ffmpeg"), _packaged()):
        program = path and _probe(path)
        if program:
            return program
    raise NoFfmpeg("no usable ffmpeg: install the package imageio-ffmpeg, or ffmpeg 8.1.3 or newer on the PATH")


def _packaged() -> str | None:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return None


def _probe(path: str) -> Program | None:
    try:
        banner = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=20, check=True).stdout
        protocols = subprocess.run([path, "-protocols"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"ffmpeg version n?(\d+)\.(\d+)(?:\.(\d+))?", banner)
    if not match or "fd" not in protocols.split():
        return None
    version = tuple(int(number or 0) for number in match.groups())
    return Program(path, ".".join(map(str, version))) if version >= OLDEST_SAFE else None


@cache
def encodes_mp3(program: str) -> bool:
    """Whether this build has an MP3 encoder."""
    try:
        command = [program, "-hide_banner", "-encoders"]
        encoders = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return "libmp3lame" in encoders.split()


def decode_command(program: str, seconds: float, separate: bool = False, mp3: int | None = None) -> list[str]:
    """Decode the first audio track of standard input to standard output: mono s16le, or WAV with `separate` channels. An MP3
    copy goes to the descriptor `mp3`."""
    source = ffmpeg.input("fd:", fd=0, protocol_whitelist="fd", format_whitelist=FORMATS, threads=1)
    track = source["a:0"]
    # The number of separate channels is in the WAV header.
    shape = {"format": "wav", "bitexact": None} if separate else {"format": "s16le", "ac": 1}
    sink = track.output(
        "pipe:1", ar=SAMPLE_RATE, af=on_time(SAMPLE_RATE), t=f"{seconds:.3f}", flush_packets=0, **shape, **AUDIO_ONLY
    )
    if mp3 is not None:
        # No headers that ffmpeg would patch at the end: a pipe cannot seek.
        no_headers = {"write_xing": 0, "id3v2_version": 0, "map_metadata": -1}
        encoding = {"ar": MP3_RATE, "audio_bitrate": MP3_BITRATE, "compression_level": MP3_EFFORT}
        copy = track.output(
            f"pipe:{mp3}",
            format="mp3",
            acodec="libmp3lame",
            af=on_time(MP3_RATE, report=False),
            t=f"{seconds:.3f}",
            **no_headers,
            **encoding,
            **AUDIO_ONLY,
        )
        sink = ffmpeg.merge_outputs(sink, copy)
    arguments: list[str] = ffmpeg.compile(sink.global_args("-hide_banner", "-nostats", "-v", "verbose"), cmd=program)
    return arguments

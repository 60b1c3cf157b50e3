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
from deployments.transcoding.cage import caged
from deployments.transcoding.timestamps import on_time

QUERY_CPU_S = 10
AUDIO_ONLY = {"vn": None, "sn": None, "dn": None}
OLDEST_SAFE = (8, 1, 3)  # older versions follow playlists inside a source (CVE-2026-107697)
FORMATS = "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
# Decoders of the audio in these formats. Those of video are not opened, not even to look at a stream, but for H.264: without
# it, ffmpeg does not know when such a track begins, and so when the audio begins that starts later.
CODECS = (
    "h264,aac,aac_fixed,aac_latm,ac3,ac3_fixed,adpcm_g722,g722,g726,g726le,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,"
    "adpcm_yamaha,alac,amrnb,amrwb,ape,comfortnoise,dca,dst,dvaudio,eac3,evrc,flac,g723_1,g729,gsm,gsm_ms,ilbc,libgsm,"
    "libgsm_ms,libopencore_amrnb,libopencore_amrwb,libopus,libspeex,libvorbis,mace3,mace6,mlp,mp1,mp1float,mp2,mp2float,mp3,"
    "mp3adu,mp3adufloat,mp3float,mp3on4,mp3on4float,mpc7,mpc8,msnsiren,nellymoser,opus,pcm_alaw,pcm_bluray,pcm_dvd,"
    "pcm_f16le,pcm_f24le,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_lxf,pcm_mulaw,pcm_s16be,pcm_s16be_planar,pcm_s16le,"
    "pcm_s16le_planar,pcm_s24be,pcm_s24daud,pcm_s24le,pcm_s24le_planar,pcm_s32be,pcm_s32le,pcm_s32le_planar,pcm_s64be,"
    "pcm_s64le,pcm_s8,pcm_s8_planar,pcm_u16be,pcm_u16le,pcm_u24be,pcm_u24le,pcm_u32be,pcm_u32le,pcm_u8,qcelp,qdm2,qdmc,"
    "s302m,speex,tak,truehd,truespeech,tta,vorbis,wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice"
)
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
        banner, protocols = _query(path, "-version"), _query(path, "-protocols")
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"ffmpeg version n?(\d+)\.(\d+)(?:\.(\d+))?", banner)
    if not match or "fd" not in protocols.split():
        return None
    version = tuple(int(number or 0) for number in match.groups())
    return Program(path, ".".join(map(str, version))) if version >= OLDEST_SAFE else None


def _query(program: str, option: str) -> str:
    """Output of an information option of ffmpeg, run in the sandbox. Raises OSError, SubprocessError."""
    command = caged([program, "-hide_banner", option], QUERY_CPU_S)
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, env={}).stdout


@cache
def encodes_mp3(program: str) -> bool:
    """Whether this build has an MP3 encoder."""
    try:
        encoders = _query(program, "-encoders")
    except (OSError, subprocess.SubprocessError):
        return False
    return "libmp3lame" in encoders.split()


def decode_command(program: str, seconds: float, separate: bool = False, mp3: int | None = None) -> list[str]:
    """Decode the first audio track of standard input to standard output: mono s16le, or WAV with `separate` channels. An MP3
    copy goes to the descriptor `mp3`."""
    source = ffmpeg.input("fd:", fd=0, protocol_whitelist="fd", format_whitelist=FORMATS, codec_whitelist=CODECS, threads=1)
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

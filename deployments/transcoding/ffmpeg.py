"""ffmpeg as a subprocess that reads one file descriptor and nothing else: media in, 16 kHz PCM out, mixed to one channel or
with the source's channels apart, and an MP3 to listen to beside it if it is wanted.

The origin of time is where the source begins to play: an audio track that begins later than the rest begins with silence
here, an offset that the whole container starts at does not count. In MPEG-TS ffmpeg itself knows no such silence.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import ffmpeg
import imageio_ffmpeg

from batching.types import SAMPLE_RATE
from deployments.errors import CorruptMedia, NoAudio, StageDied, UnsupportedMedia, WorkError

LOG = logging.getLogger(__name__)

SOUND_ALONE = {"vn": None, "sn": None, "dn": None}
OLDEST_SAFE = (8, 1, 3)
"""Older ones follow playlists inside a file they were given (CVE-2026-107697)."""
FORMATS = "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
LOG_BYTES = 16_384
CPU_S, CPU_PER_S, MP3_CPU_PER_S = 120, 0.03, 0.03
"""Processor time for a source: an hour of FLAC takes less than a second of it, of film or of MP3 to be made some tens."""
OUT_OF_TIME = re.compile(rf"received signal {signal.SIGXCPU:d}\b|Received > 3 system signals")
"""ffmpeg catches the signal that says that its time is over, and ends as if it had been asked to."""
MEMORY_BYTES, OPEN_FILES = 2 << 30, 32
MOST_CHANNELS = 8
"""What 7.1 surround has; more are tracks of a studio."""
MP3_RATE, MP3_BITRATE, MP3_EFFORT = 24_000, "64k", 7
"""The rate that LAME itself takes for so many bits of stereo; and a third less work than it would do if let."""
STALLED_S = 300.0
"""A decoder that gives no five seconds of audio in so long never will."""


@dataclass(frozen=True, slots=True)
class Program:
    """An ffmpeg that may be used: its path and version."""

    path: str
    version: str


class NoFfmpeg(Exception):
    """There is no ffmpeg that may be used."""


def find_ffmpeg() -> Program:
    """The system's ffmpeg if it is new enough and reads file descriptors, else the packaged one; NoFfmpeg if neither."""
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
    found = re.match(r"ffmpeg version n?(\d+)\.(\d+)(?:\.(\d+))?", banner)
    if not found or "fd" not in protocols.split():
        return None
    numbers = tuple(int(n or 0) for n in found.groups())
    return Program(path, ".".join(map(str, numbers))) if numbers >= OLDEST_SAFE else None


@cache
def encodes_mp3(program: str) -> bool:
    """Whether an ffmpeg can make MP3: not every build can."""
    try:
        told = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return "libmp3lame" in told.stdout.split()


def decode_command(program: str, seconds: float, apart: bool = False, mp3: int | None = None) -> list[str]:
    """The argument vector that decodes the first audio track of standard input, at most `seconds` of it: as bare
    samples, or where channels stay `apart` as WAV, whose header tells how many there are; and as MP3 to a descriptor."""
    source = ffmpeg.input("fd:", fd=0, protocol_whitelist="fd", format_whitelist=FORMATS, threads=1)
    sound = source["a:0"]
    shape = {"format": "wav", "bitexact": None} if apart else {"format": "s16le", "ac": 1}
    sink = sound.output(
        "pipe:1", ar=SAMPLE_RATE, af=_on_time(SAMPLE_RATE), t=f"{seconds:.3f}", flush_packets=0, **shape, **SOUND_ALONE
    )
    if mp3 is not None:
        # Nothing is written that would have to be mended at the end: a pipe does not go back.
        plain = {"write_xing": 0, "id3v2_version": 0, "map_metadata": -1}
        how = {"ar": MP3_RATE, "audio_bitrate": MP3_BITRATE, "compression_level": MP3_EFFORT}
        copy = sound.output(
            f"pipe:{mp3}",
            format="mp3",
            acodec="libmp3lame",
            af=_on_time(MP3_RATE),
            t=f"{seconds:.3f}",
            **plain,
            **how,
            **SOUND_ALONE,
        )
        sink = ffmpeg.merge_outputs(sink, copy)
    arguments: list[str] = ffmpeg.compile(sink.global_args("-hide_banner", "-nostats", "-v", "verbose"), cmd=program)
    return arguments


def _on_time(rate: int) -> str:
    """The filter that starts the clock with the source's, and fills with silence where the source has a gap."""
    return f"aresample={rate}:async=1:first_pts=0"


def cage(pid: int, seconds: float, mp3: bool = False) -> None:
    """Leave a decoder no file to write, few to open, bounded memory and processor time. From outside, as Linux alone can:
    between fork and exec a child of a large parent needs more than that itself."""
    if sys.platform != "linux":
        return
    cpu_s = int(CPU_S + seconds * (CPU_PER_S + MP3_CPU_PER_S * mp3))
    for what, soft, hard in (
        # Past the soft limit of processor time the kernel says why it kills; at the hard one it does not.
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 5),
        (resource.RLIMIT_AS, MEMORY_BYTES, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES),
    ):
        with suppress(ProcessLookupError, ValueError, PermissionError):  # it has ended, or may have less already
            resource.prlimit(pid, what, (soft, hard))


class Decoder:
    """One run of ffmpeg. `begin`, then `read` until it gives nothing, then `verdict`; `stop` in any case."""

    def __init__(self, process: asyncio.subprocess.Process, apart: bool = False) -> None:
        assert process.stdout
        assert process.stderr
        self._process = process
        self._out = process.stdout
        self._log = bytearray()
        self._logging = asyncio.create_task(self._keep_log(process.stderr))
        self.channels = 1 if apart else None
        self.samples = 0
        self.declared_s: float | None = None

    @classmethod
    async def start(
        cls, program: str, descriptor: int, seconds: float, *, apart: bool = False, mp3: int | None = None
    ) -> Decoder:
        """Begin to decode what `descriptor` reads, at most `seconds` of audio, with its channels mixed or `apart`. An MP3
        of it goes to the descriptor `mp3`, a pipe's: who reads that must go on to its end, else ffmpeg waits for it."""
        process = await asyncio.create_subprocess_exec(
            *decode_command(program, seconds, apart, mp3),
            stdin=descriptor,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=() if mp3 is None else (mp3,),
            # A group of its own, to be killed whole; no session, in which Linux would weigh its niceness by itself alone.
            preexec_fn=os.setpgrp,
            env={},
        )
        cage(process.pid, seconds, mp3 is not None)
        return cls(process, apart)

    async def begin(self) -> None:
        """Learn how many `channels` there are, if they are kept apart. UnsupportedMedia if those are too many."""
        if self.channels is None:
            return
        await self._exactly(12)
        while (head := await self._exactly(8)) and head[:4] != b"data":
            chunk = await self._exactly(int.from_bytes(head[4:], "little"))
            if head[:4] == b"fmt ":
                self.channels = int.from_bytes(chunk[2:4], "little")
        if self.channels > MOST_CHANNELS:
            raise UnsupportedMedia(
                f"The source has {self.channels} channels, but {MOST_CHANNELS} at most can be kept apart: send fewer."
            )

    async def read(self, samples: int) -> bytes:
        """The next `samples` samples of each channel as s16le, interleaved; fewer at the end, none after it. CorruptMedia
        where they do not come."""
        frame = 2 * (self.channels or 1)
        data = await self._exactly(samples * frame)
        self.samples += len(data) // frame
        return data[: len(data) - len(data) % frame]

    async def _exactly(self, length: int) -> bytes:
        try:
            async with asyncio.timeout(STALLED_S):
                return await self._out.readexactly(length)
        except asyncio.IncompleteReadError as short:
            return short.partial
        except TimeoutError:
            raise CorruptMedia("The source takes too long to decode: send it in another format.") from None

    async def verdict(self) -> None:
        """Wait for the end; raise what made it give no audio at all. What could be decoded of a damaged file counts; what
        was decoded until the decoder was killed (StageDied) does not."""
        status = await self._process.wait()
        await self._logging
        log = self._log.decode(errors="replace")
        if status == -signal.SIGXCPU or OUT_OF_TIME.search(log):
            raise CorruptMedia("The source takes too much work to decode: send it in another format.")
        if status < 0 or "Exiting normally, received signal" in log:
            said = log.strip().rpartition("\n")[2]
            LOG.warning("ffmpeg ended with status %d after %d samples: %s", status, self.samples, said)
            raise StageDied("The decoder was stopped before its end: try the job again.")
        if self.samples == 0 and (error := explain(log, status)):
            raise error

    async def stop(self) -> None:
        """Kill the whole process group, if it still runs."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        # asyncio's wait ends when the pipes have; one that is full ends when it has been read.
        while await self._out.read(65_536):
            pass
        await self._process.wait()
        await self._logging

    async def _keep_log(self, stream: asyncio.StreamReader) -> None:
        """Keep the beginning and the end of the log: a damaged file can complain without end."""
        while chunk := await stream.read(65_536):
            self._log += chunk
            if self.declared_s is None:
                self.declared_s = declared(self._log.decode(errors="replace"))
            if len(self._log) > 2 * LOG_BYTES:
                del self._log[LOG_BYTES:-LOG_BYTES]


def declared(log: str) -> float | None:
    """How long the source says that it is, in seconds; None where it does not. No tag of it can begin a line so."""
    found = re.search(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+),", log, re.MULTILINE)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def explain(log: str, status: int) -> WorkError | None:
    """Why ffmpeg with this log and exit status gave no samples; None where the source really holds next to nothing."""
    if "matches no streams" in log or "does not contain any stream" in log:
        return NoAudio("The source has no audio track: send a file that holds sound.")
    if "Error opening input" in log:
        return UnsupportedMedia(
            "The source is not audio or video in a format that can be read: send WAV, MP3, M4A, FLAC, OGG, WebM or the like."
        )
    decoded = re.search(r"(\d+) frames decoded; (\d+) decode errors", log)
    if status != 0 or (decoded and int(decoded[2])):
        return CorruptMedia("The source is damaged, and no audio in it could be decoded: send an intact file.")
    if decoded and int(decoded[1]):
        return None
    return NoAudio("The source holds no audio: its length is zero.")

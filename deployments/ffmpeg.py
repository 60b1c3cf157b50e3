"""ffmpeg as a subprocess that reads one file descriptor and nothing else: media in, 16 kHz mono PCM out.

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

import ffmpeg
import imageio_ffmpeg

from batching.types import SAMPLE_RATE
from deployments.errors import CorruptMedia, NoAudio, StageDied, UnsupportedMedia, WorkError

LOG = logging.getLogger(__name__)

OLDEST_SAFE = (8, 1, 3)
"""Older ones follow playlists inside a file they were given (CVE-2026-107697)."""
FORMATS = "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
LOG_BYTES = 16_384
CPU_S, CPU_PER_S = 120, 0.03
"""Processor time for a source: an hour of FLAC takes less than a second of it, of film some tens."""
OUT_OF_TIME = re.compile(rf"received signal {signal.SIGXCPU:d}\b|Received > 3 system signals")
"""ffmpeg catches the signal that says that its time is over, and ends as if it had been asked to."""
MEMORY_BYTES, OPEN_FILES = 2 << 30, 32
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


def decode_command(program: str, seconds: float) -> list[str]:
    """The argument vector that decodes the first audio track of standard input, at most `seconds` of it."""
    source = ffmpeg.input("fd:", fd=0, protocol_whitelist="fd", format_whitelist=FORMATS, threads=1)
    sink = source["a:0"].output(
        "pipe:1",
        format="s16le",
        ac=1,
        ar=SAMPLE_RATE,
        af=f"aresample={SAMPLE_RATE}:async=1:first_pts=0",
        t=f"{seconds:.3f}",
        flush_packets=0,
        **{"vn": None, "sn": None, "dn": None},
    )
    arguments: list[str] = ffmpeg.compile(sink.global_args("-hide_banner", "-nostats", "-v", "verbose"), cmd=program)
    return arguments


def cage(pid: int, seconds: float) -> None:
    """Leave a decoder no file to write, few to open, bounded memory and processor time. From outside, as Linux alone can:
    between fork and exec a child of a large parent needs more than that itself."""
    if sys.platform != "linux":
        return
    cpu_s = int(CPU_S + seconds * CPU_PER_S)
    for what, soft, hard in (
        # Past the soft limit of processor time the kernel says why it kills; at the hard one it does not.
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 5),
        (resource.RLIMIT_AS, MEMORY_BYTES, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        with suppress(ProcessLookupError, ValueError, PermissionError):  # it has ended, or may have less already
            resource.prlimit(pid, what, (soft, hard))


class Decoder:
    """One run of ffmpeg. `read` until it gives nothing, then `verdict`; `stop` in any case."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout
        assert process.stderr
        self._process = process
        self._out = process.stdout
        self._log = bytearray()
        self._logging = asyncio.create_task(self._keep_log(process.stderr))
        self.samples = 0

    @classmethod
    async def start(cls, program: str, descriptor: int, seconds: float) -> Decoder:
        """Begin to decode what `descriptor` reads, at most `seconds` of audio."""
        process = await asyncio.create_subprocess_exec(
            *decode_command(program, seconds),
            stdin=descriptor,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A group of its own, to be killed whole; no session, in which Linux would weigh its niceness by itself alone.
            preexec_fn=os.setpgrp,
            env={},
        )
        cage(process.pid, seconds)
        return cls(process)

    async def read(self, samples: int) -> bytes:
        """The next `samples` samples as s16le, fewer at the end, none after it. CorruptMedia where they do not come."""
        try:
            async with asyncio.timeout(STALLED_S):
                data = await self._out.readexactly(samples * 2)
        except asyncio.IncompleteReadError as short:
            data = short.partial[: len(short.partial) & ~1]
        except TimeoutError:
            raise CorruptMedia("The source takes too long to decode: send it in another format.") from None
        self.samples += len(data) // 2
        return data

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
            if len(self._log) > 2 * LOG_BYTES:
                del self._log[LOG_BYTES:-LOG_BYTES]


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

"""Decoder: sandboxed ffmpeg process, from a file descriptor to 16 kHz PCM."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from contextlib import suppress

import psutil

from batching.types import SAMPLE_RATE
from deployments.errors import CorruptMedia, NoAudio, StageDied, StageLost, UnsupportedMedia, WorkError
from deployments.messages import MediaWarning
from deployments.transcoding.cage import caged
from deployments.transcoding.ffmpeg import decode_command
from deployments.transcoding.timestamps import TimestampLog

log = logging.getLogger(__name__)

LOG_BYTES = 16_384  # kept from each end of ffmpeg's log
# CPU time limit: a base, and seconds per second of audio. An hour of FLAC takes less than 1 s, of film or for an MP3 copy
# some tens.
CPU_S, CPU_PER_S, MP3_CPU_PER_S = 120, 0.03, 0.03
# ffmpeg catches SIGXCPU and exits as if it had been asked to quit.
CPU_LIMIT_REACHED = re.compile(rf"received signal {signal.SIGXCPU:d}\b|Received > 3 system signals")
MOST_CHANNELS = 8  # 7.1 surround; more channels are studio tracks
STALLED_S = 300.0  # timeout of a read
STALL_PROBE_S = 1.0  # time for which a decoder is watched that has reached it
COUNTS = re.compile(r"(\d+) frames decoded; (\d+) decode errors")
WHOLE = 0.95  # share of the declared duration from which a source counts as whole


class Decoder:
    """ffmpeg process. Use: `read_header`, `read` to the end, `check_exit`; `stop` in any case."""

    def __init__(self, process: asyncio.subprocess.Process, separate: bool = False) -> None:
        assert process.stdout
        assert process.stderr
        self._process = process
        self._out = process.stdout
        self._log = bytearray()
        self._timestamps = TimestampLog()
        self._warnings: list[MediaWarning] = []
        self._logging = asyncio.create_task(self._keep_log(process.stderr))
        self.channels = 1 if separate else None  # number of separate channels, None for a mix
        self.samples = 0  # read so far, per channel
        self.declared_s: float | None = None  # duration that the source's header declares

    @classmethod
    async def start(
        cls, program: str, descriptor: int, seconds: float, *, separate: bool = False, mp3: int | None = None
    ) -> Decoder:
        """Decode at most `seconds` of the source at `descriptor`; see `decode_command`."""
        # A reader of the pipe `mp3` must read to its end: ffmpeg blocks on it.
        cpu_s = int(CPU_S + seconds * (CPU_PER_S + MP3_CPU_PER_S * (mp3 is not None)))
        process = await asyncio.create_subprocess_exec(
            *caged(decode_command(program, seconds, separate, mp3), cpu_s),
            stdin=descriptor,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=() if mp3 is None else (mp3,),
            env={},
        )
        return cls(process, separate)

    async def read_header(self) -> None:
        """Read the number of separate channels. Raises UnsupportedMedia for too many."""
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
        """Read interleaved s16le samples, fewer at the end. Raises CorruptMedia, StageLost on a timeout."""
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
            if await self._works():
                raise CorruptMedia("The source takes too long to decode: send it in another format.") from None
            log.warning("ffmpeg hangs after %d samples, decoder lost", self.samples)
            raise StageLost("The decoder made no progress: another worker tries the job again.") from None

    async def _works(self) -> bool:
        # A process that uses no CPU waits for a disk or the kernel, which is no fault of the source.
        try:
            before = sum(psutil.Process(self._process.pid).cpu_times()[:2])
            await asyncio.sleep(STALL_PROBE_S)
            return sum(psutil.Process(self._process.pid).cpu_times()[:2]) - before > STALL_PROBE_S / 10
        except psutil.Error:
            return False

    async def check_exit(self) -> None:
        """Wait for the exit. Raises CorruptMedia, NoAudio, StageDied, UnsupportedMedia."""
        status = await self._process.wait()
        await self._logging
        text = self._log.decode(errors="replace")
        if status == -signal.SIGXCPU or CPU_LIMIT_REACHED.search(text):
            raise CorruptMedia("The source takes too much work to decode: send it in another format.")
        if status < 0 or "Exiting normally, received signal" in text:
            last_line = text.strip().rpartition("\n")[2]
            log.warning("ffmpeg was killed, status %d after %d samples: %s", status, self.samples, last_line)
            raise StageDied("The decoder was stopped before its end: try the job again.")
        # What could be decoded of a damaged source counts.
        if self.samples == 0 and (error := explain(text, status)):
            raise error
        self._warnings += damage(text, self.samples / SAMPLE_RATE, self.declared_s)

    def new_warnings(self) -> tuple[MediaWarning, ...]:
        """Warnings since the last call."""
        warnings, self._warnings = tuple(self._warnings), []
        return warnings

    async def stop(self) -> None:
        """Kill the process, if it still runs."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        # asyncio's `wait` returns only once the pipes are at their end: drain a full one.
        while await self._out.read(65_536):
            pass
        await self._process.wait()
        await self._logging

    async def _keep_log(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(65_536):
            self._log += chunk
            self._warnings += self._timestamps.feed(chunk)
            if self.declared_s is None:
                self.declared_s = declared_duration(self._log.decode(errors="replace"))
            if len(self._log) > 2 * LOG_BYTES:  # a damaged source can log without end
                del self._log[LOG_BYTES:-LOG_BYTES]


def declared_duration(log: str) -> float | None:
    """Parse the declared duration in seconds from ffmpeg's log."""
    # Metadata of the source cannot spoof it: no tag is printed with this indentation.
    match = re.search(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+),", log, re.MULTILINE)
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None


def explain(log: str, status: int) -> WorkError | None:
    """Error for an ffmpeg without output; None if the source is merely shorter than a sample."""
    if "matches no streams" in log or "does not contain any stream" in log:
        return NoAudio("The source has no audio track: send a file that holds sound.")
    if codec := re.search(r"Codec \((\w+)\) not on whitelist(?s:.*)Error while opening decoder", log):
        return UnsupportedMedia(
            f"The audio codec {codec[1]} is not supported: send WAV, MP3, M4A, FLAC, OGG, WebM or the like."
        )
    if "Error opening input" in log:
        return UnsupportedMedia(
            "The source is not audio or video in a format that can be read: send WAV, MP3, M4A, FLAC, OGG, WebM or the like."
        )
    counts = COUNTS.search(log)
    if status != 0 or (counts and int(counts[2])):
        return CorruptMedia("The source is damaged, and no audio in it could be decoded: send an intact file.")
    if counts and int(counts[1]):
        return None
    return NoAudio("The source holds no audio: its length is zero.")


def damage(log: str, decoded_s: float, declared_s: float | None) -> list[MediaWarning]:
    """Warnings about a source that was decoded, but not all of it."""
    warnings = []
    counts = COUNTS.search(log)
    if counts and int(counts[2]):
        message = f"The recording is damaged: {counts[2]} parts of it could not be decoded, and their text is missing."
        warnings.append(MediaWarning("damaged_audio", message))
    # A duration that ffmpeg estimates from the bit rate says nothing.
    if declared_s and decoded_s < WHOLE * declared_s and "Estimating duration from bitrate" not in log:
        message = f"The recording declares {declared_s:.1f} s but holds {decoded_s:.1f} s of audio: it may be cut off."
        warnings.append(MediaWarning("shorter_than_declared", message, decoded_s, declared_s))
    return warnings

"""class Pipeline: transcode a job, decode its windows meanwhile, commit them in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import aclosing
from dataclasses import replace

from batching.stitch import stitch
from batching.types import SAMPLE_RATE, Segment, Window
from batching.windows import WindowLimits
from deployments.errors import WorkError
from deployments.messages import TranscodeProgress, TranscodeRequest, WindowResult
from deployments.storage.artifacts import Artifacts
from serve_app.models.event import Progress, dump_segment
from serve_app.models.job import Job, JobWarning, Phase
from serve_app.models.lease import Commit, CommitOutcome
from serve_app.models.storage_paths import pcm_prefix, progress_key
from serve_app.runner.channel_state import ChannelStates, Decoded, DecodeTask, WindowFailure
from serve_app.runner.lease import Lease
from serve_app.runner.patience import Patience
from serve_app.runner.place_publisher import PlacePublisher
from serve_app.runner.stages import Stages
from serve_app.runner.window_decoder import WindowDecoder

log = logging.getLogger(__name__)

RECENT = 8  # windows: if more than half of them fail, it is not the windows


class CancelRequested(Exception):
    """A cancel was requested: nothing more is committed."""


class ShareUsed(Exception):
    """Others wait for their share: the job goes back to the queue."""


class QuotaUsed(WorkError):
    """The tenant's month is used up."""

    code = "quota_exceeded"


class Pipeline:
    """A claimed job, from its stored source to the last commit."""

    def __init__(
        self,
        lease: Lease,
        stages: Stages,
        artifacts: Artifacts,
        patience: Patience,
        job: Job,
        *,
        max_audio_s: float,
        in_flight: int,
    ) -> None:
        self._lease = lease
        self._stages = stages
        self._patience = patience
        self._decoder = WindowDecoder(stages, job, patience)
        self._job = job
        self._max_audio_s = max_audio_s
        self._slots = asyncio.Semaphore(in_flight)
        self._queue: asyncio.Queue[tuple[Window, DecodeTask] | None] = asyncio.Queue()
        self._tasks: set[DecodeTask] = set()
        self._all_dispatched = False
        self._windows = job.checkpoint.next_window  # committed
        self.segments = job.checkpoint.segments  # committed
        self._channels = ChannelStates(job, in_flight)
        self._language = job.checkpoint.language
        self._failed = deque([False] * min(self._windows, RECENT), RECENT)  # whether each of the latest windows was
        self._done_s = job.audio_done_s
        self._place = PlacePublisher(artifacts, progress_key(job.id, lease.claim.token), job.id, job.audio_done_s)
        self._declared_s: float | None = None
        self._total_s: float | None = None
        self._began: tuple[float, float] | None = None  # loop time, and seconds done by then

    async def run(self) -> float:
        """Run to the end. Returns the decoded seconds."""
        dispatching = asyncio.create_task(self._dispatch_windows())
        try:
            while (entry := await self._queue.get()) is not None:
                window, task = entry
                await self._commit(window, await task)
                self._slots.release()
            await dispatching
        finally:
            dispatching.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(dispatching, *self._tasks, return_exceptions=True)
        assert self._total_s is not None
        return self._total_s

    async def _dispatch_windows(self) -> None:
        try:
            async with self._place.published():
                await self._patience.insist(self._transcode, self._job.id, "transcoding", storing=True)
            await self._lease.enter(Phase.TRANSCRIBING)
            self._all_dispatched = True
        finally:
            self._queue.put_nowait(None)

    async def _transcode(self) -> None:
        """Dispatch windows as they close, with back-pressure; called again, it goes on after those in flight."""
        async with aclosing(self._stages.windows(self._transcode_request())) as messages:
            async for progress in messages:
                await self._record_audio(progress)
                received_s = progress.decoded_s
                for window in progress.windows:
                    self._place.received(window.start / SAMPLE_RATE)
                    received_s = max(received_s, window.end / SAMPLE_RATE)
                    if rest := self._rest_of(window):
                        await self._dispatch(rest)
                self._place.received(received_s)

    def _rest_of(self, window: Window) -> Window | None:
        return self._channels.of(window.channel).rest_of(window)

    async def _record_audio(self, progress: TranscodeProgress) -> None:
        if self._declared_s is None and progress.declared_s is not None:
            self._declared_s = progress.declared_s
            await self._lease.note_audio(declared_s=progress.declared_s)
        for warning in progress.warnings:
            await self._lease.warn(JobWarning(warning.code, warning.message, warning.start, warning.end))
        if progress.finished:
            self._total_s = progress.decoded_s
            await self._lease.note_audio(total_s=progress.decoded_s, channels=progress.channels)

    async def _dispatch(self, window: Window) -> None:
        if self._began is None:
            self._began = asyncio.get_running_loop().time(), self._job.audio_done_s
            await self._lease.enter(Phase.TRANSCRIBING)
        await self._slots.acquire()
        channel = self._channels.of(window.channel)
        likely = channel.vote.likely(window.index)
        task = asyncio.create_task(self._decoder.decode(window, likely, tuple(channel.undetermined)))
        channel.dispatched(window, task)
        self._place.dispatched(window)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._queue.put_nowait((window, task))

    async def _commit(self, window: Window, result: Decoded) -> None:
        warning = self._checked(window, result)
        channel = self._channels.of(window.channel)
        channel.decoded(window, result)
        segments = self._stitched(window, result, channel.end_s) if isinstance(result, WindowResult) else []
        channel.end_s = segments[-1].end if segments else channel.end_s
        # The next window may be of another channel and end before this one.
        self._done_s = max(self._done_s, window.end * 1000 // SAMPLE_RATE / 1000)
        language = self._channels.language
        commit = Commit(
            window=self._windows,
            segments=tuple(dump_segment(segment) for segment in segments),
            end_s=self._channels.end_s,
            language=language if language != self._language else None,
            device=result.device if isinstance(result, WindowResult) else self._job.device or "",
            progress=self._progress(),
            decodes=result.decodes if isinstance(result, WindowResult) else 1,
            fill=result.fill if isinstance(result, WindowResult) else 1.0,
            channel=window.channel,
            state=channel.checkpoint,
            warning=warning,
        )
        outcome = await self._lease.commit(commit)
        if outcome is CommitOutcome.CANCELLING:
            raise CancelRequested
        self._language = language
        self._place.committed()
        self._windows += 1
        self.segments += len(segments)
        if outcome is CommitOutcome.YIELD and not self._is_last():
            raise ShareUsed
        if outcome is CommitOutcome.EXHAUSTED:
            raise QuotaUsed("The minutes of audio of this month are used up: the transcript ends where they did.")

    def _is_last(self) -> bool:
        return self._all_dispatched and self._queue.qsize() == 1

    def _checked(self, window: Window, result: Decoded) -> JobWarning | None:
        """Warning for a window that was given up. Raises its error if a fallback may do better, or most windows fail."""
        self._failed.append(isinstance(result, WindowFailure))
        if not isinstance(result, WindowFailure):
            return None
        if self._job.next_model or 2 * sum(self._failed) > len(self._failed):
            raise result.error
        start, end = round(window.start / SAMPLE_RATE, 3), round(window.end / SAMPLE_RATE, 3)
        log.warning("job_id=%s window given up, %.1f to %.1f s are missing: %s", self._job.id, start, end, result.error)
        message = "The model failed on this part of the recording each time: its text is missing."
        return JobWarning("window_failed", message, start, end)

    def _stitched(self, window: Window, result: WindowResult, end_s: float) -> list[Segment]:
        segments = stitch(
            result.segments,
            next_id=self.segments,
            end_s=end_s,
            min_confidence=self._job.spec.min_confidence,
            window=window,
        )
        return [self._annotated(segment, window, result, len(segments)) for segment in segments]

    def _annotated(self, segment: Segment, window: Window, result: WindowResult, count: int) -> Segment:
        """Add the facts of the window, which has `count` segments."""
        return replace(
            segment,
            channel=window.channel,
            words=segment.words if self._job.spec.word_timestamps else None,
            seek=round(window.start / SAMPLE_RATE, 3),
            language_probability=round(result.language_probability, 4),
            decode_s=round(result.decode_s / count, 3),
        )

    def _progress(self) -> Progress:
        eta_s = None
        total_s = self._total_s or self._declared_s  # a long recording is decoded to its end only late
        if self._began and total_s is not None:
            began, done_before_s = self._began
            pace = (self._done_s - done_before_s) / max(asyncio.get_running_loop().time() - began, 1e-3)
            eta_s = round(max(total_s - self._done_s, 0.0) / pace, 1) if pace > 0 else None
        return Progress(self._done_s, self._total_s, self._windows + 1, None, eta_s)

    def _transcode_request(self) -> TranscodeRequest:
        return TranscodeRequest(
            source_key=self._job.source,
            pcm_prefix=pcm_prefix(self._job.id),
            longest_s=self._job.spec.segment_duration or WindowLimits().longest_s,
            max_audio_s=self._max_audio_s,
            channels=self._job.spec.channels,
            listening_key=self._job.listening if self._job.spec.listening else None,
            tenant=self._job.tenant,
            ahead_s=self._place.ahead_s,
            progress_key=self._place.key,
        )

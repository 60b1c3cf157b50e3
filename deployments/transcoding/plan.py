"""Stored plan of a source, so that a resumed job has the same windows."""

# While the source is decoded, windows are stored in parts (`plan.00000.json`) before they are handed out. Each part names
# the digest of the part before: two Transcoders that decode one source, after a lost lease, cannot mix their plans. Once
# the source is decoded to its end, `plan.json` holds the whole plan, and the source is not decoded again.

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from batching.types import SAMPLE_RATE, Span, Window
from deployments.messages import MediaWarning, TranscodeProgress
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import PART_SAMPLES, parts_stored

log = logging.getLogger(__name__)

PLANNER_VERSION = 1  # to be raised by a change of speech detection or planning that moves windows
PART_WINDOWS = 64  # windows in a part: bounds what is written again as it grows


class StoredPlan:
    """Use: `load`, `append`, `finish`."""

    def __init__(self, artifacts: Artifacts, prefix: str, decoder_version: str = "") -> None:
        self._artifacts = artifacts
        self._prefix = prefix
        self._versions = {"planner": PLANNER_VERSION, "ffmpeg": decoder_version}
        self.windows: list[Window] = []  # so far
        self.channels: int | None = None  # number of separate channels, None for a mix
        self.audio_stored = False  # of all windows so far, from before
        self._part = 0  # number of the part that grows
        self._first = 0  # index of its first window
        self._previous = ""  # digest of the part before

    def load(self) -> TranscodeProgress | None:
        """Load what is stored; return the last message of a whole plan."""
        keys = set(self._artifacts.keys(self._prefix))
        if plan_key(self._prefix) in keys:
            plan = json.loads(self._artifacts.read(plan_key(self._prefix)))
            whole = _whole(plan)
            # The plan survives a power cut, audio may not.
            if parts_stored(self._artifacts, self._prefix, plan["samples"], whole.channels):
                return whole
            log.warning("audio in %s is incomplete, decoding the source again", self._prefix)
            self.windows, self.channels = list(whole.windows), whole.channels
        elif part_key(self._prefix, 0) in keys:
            self._load_parts(keys)
            samples = max((-(-window.end // PART_SAMPLES) * PART_SAMPLES for window in self.windows), default=0)
            self.audio_stored = parts_stored(self._artifacts, self._prefix, samples, self.channels)
        return None

    def _load_parts(self, keys: Collection[str]) -> None:
        versions = self._versions
        while (key := part_key(self._prefix, self._part)) in keys:
            content = self._artifacts.read(key)
            part = json.loads(content)
            if part["previous"] != self._previous:
                break
            self.channels, versions = part["channels"], part["versions"]
            self.windows += map(_window, part["windows"])
            if len(part["windows"]) < PART_WINDOWS:
                break
            self._end_part(content)
        if versions != self._versions:
            log.info("%s: begun to plan with %s, going on with %s", self._prefix, versions, self._versions)

    def append(self, windows: Sequence[Window], channels: int | None) -> None:
        """Store windows before they are handed out, but for those that are stored already."""
        self.channels = channels
        windows = [window for window in windows if window.index >= len(self.windows)]
        for window in windows:
            self.windows.append(window)
            if len(self.windows) - self._first == PART_WINDOWS:
                self._end_part(self._write_part())
        if windows and len(self.windows) > self._first:
            self._write_part()

    def finish(self, progress: TranscodeProgress, samples: int, warnings: Sequence[MediaWarning]) -> None:
        """Store the whole plan and its last message."""
        known = len(self.windows)
        self.windows += [window for window in progress.windows if window.index >= known]
        plan = {
            "samples": samples,
            "channels": progress.channels,
            "declared_s": progress.declared_s,
            "versions": self._versions,
            "warnings": [asdict(warning) for warning in warnings],
            "windows": [asdict(window) for window in self.windows],
        }
        self._artifacts.put(plan_key(self._prefix), json.dumps(plan).encode())

    def _write_part(self) -> bytes:
        part = {
            "previous": self._previous,
            "versions": self._versions,
            "channels": self.channels,
            "windows": [asdict(window) for window in self.windows[self._first :]],
        }
        content = json.dumps(part).encode()
        self._artifacts.put(part_key(self._prefix, self._part), content)
        return content

    def _end_part(self, content: bytes) -> None:
        self._previous = hashlib.sha256(content).hexdigest()
        self._part += 1
        self._first = len(self.windows)


def _window(fields: dict[str, Any]) -> Window:
    return Window(**{**fields, "speech": tuple(Span(**span) for span in fields["speech"])})


def _whole(plan: dict[str, Any]) -> TranscodeProgress:
    windows = tuple(map(_window, plan["windows"]))
    warnings = tuple(MediaWarning(**fields) for fields in plan.get("warnings", ()))
    seconds = plan["samples"] / SAMPLE_RATE
    return TranscodeProgress(windows, seconds, True, plan.get("channels"), plan.get("declared_s"), warnings)


def plan_key(prefix: str) -> str:
    """Key of the whole plan."""
    return f"{prefix}/plan.json"


def part_key(prefix: str, number: int) -> str:
    return f"{prefix}/plan.{number:05d}.json"

"""Supervision of the embedded Valkey: restarts, back-off, disk space, log rotation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from serve_app.local.preflight import StartError, free_space
from serve_app.local.valkey import DiskFull, Valkey, ValkeyFailed

log = logging.getLogger(__name__)

CHECK_S = 0.5
MAX_BACKOFF_S = 30.0
DISK_CHECK_S = 5.0
REMINDER_S = 60.0  # between two log lines on a full disk


class ValkeySupervisor:
    """Call `check` every CHECK_S."""

    def __init__(
        self,
        valkey: Valkey,
        data_dir: Path,
        min_free_bytes: int,
        abandoned: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.valkey = valkey
        self._data_dir = data_dir
        self._min_free = min_free_bytes
        self._abandoned = abandoned
        self._clock = clock
        self._backoff_s = CHECK_S
        self._next_check = 0.0
        self._next_disk_check = 0.0
        self._next_reminder = 0.0
        self._disk_low = False

    def start(self) -> str:
        """Start it; returns its URL. Raises StartError."""
        try:
            self.valkey.start(self._abandoned)
        except ValkeyFailed as error:
            raise StartError(str(error)) from None
        return self.valkey.url

    def check(self) -> None:
        """Restart it if it has died."""
        now = self._clock()
        if now >= self._next_disk_check:
            self._next_disk_check = now + DISK_CHECK_S
            self._watch_disk()
            self.valkey.rotate_log()
        if now < self._next_check:
            return
        try:
            if self.valkey.restart_if_dead(self._abandoned):
                log.warning("embedded Valkey died, restarted")
            self._backoff_s, self._next_reminder = CHECK_S, 0.0
        except DiskFull as error:
            # There may be space at any moment: look again soon, and say so seldom.
            self._next_check = now + DISK_CHECK_S
            if now >= self._next_reminder:
                self._next_reminder = now + REMINDER_S
                log.error("embedded Valkey died, its disk is full; it is restarted once there is space: %s", error)
        except ValkeyFailed as error:
            self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
            self._next_check = now + self._backoff_s
            log.error("embedded Valkey died, restart failed, retrying in %g s: %s", self._backoff_s, error)

    def _watch_disk(self) -> None:
        free = free_space(self._data_dir)
        low = free < self._min_free
        if low and not self._disk_low:
            log.error(
                "%d MiB are free at %s, less than MURMUR_MIN_FREE_BYTES: uploads are refused until there is more",
                free >> 20,
                self._data_dir,
            )
        elif self._disk_low and not low:
            log.warning("%d MiB are free at %s again: uploads are accepted", free >> 20, self._data_dir)
        self._disk_low = low

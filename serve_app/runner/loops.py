"""Background loops that survive outages of Redis and failing steps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

from serve_app.errors import StoreUnavailable

log = logging.getLogger(__name__)


async def every(
    period_s: float, step: Callable[[], Awaitable[object]], name: str, wake: asyncio.Event | None = None
) -> NoReturn:
    """Call `step` every `period_s` seconds, or as soon as `wake` is set, until cancelled."""
    wake = wake or asyncio.Event()
    while True:
        wake.clear()
        try:
            await step()
        except StoreUnavailable as outage:
            log.warning("%s: Redis unavailable, retrying: %s", name, outage)
        except Exception:  # a loop that ended would leave its work undone while the process looks healthy
            log.exception("%s failed, retrying", name)
        with suppress(TimeoutError):
            async with asyncio.timeout(period_s):
                await wake.wait()

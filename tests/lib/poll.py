"""Polling of conditions that no event announces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PERIOD_S, LONGEST_S = 0.01, 60.0


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(LONGEST_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(PERIOD_S)

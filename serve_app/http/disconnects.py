"""Clients that disconnect while they wait."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import Request


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, None]) -> None:
    """Wait for the end of `work`; cancel it if the client disconnects."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

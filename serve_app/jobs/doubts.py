"""A window in doubt about its language, heard before it is known what the recording is in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from batching.languages import SURE
from deployments.messages import WindowResult

Task = asyncio.Task[WindowResult]
Hear = Callable[[str | None], Awaitable[WindowResult]]
"""The language that is likely, if one is known → what a window says."""


async def heard(hear: Hear, likely: str | None, earlier: Sequence[Task]) -> WindowResult:
    """What a window says. The windows before it are `earlier`, those that are being heard too, in order: where nobody knows
    yet what language is likely, it is not waited for, and one in doubt asks them afterwards. So the text does not depend on
    the pace, and no recording waits for its first window."""
    result = await hear(likely)
    if likely or result.certainty >= SURE or not (first := await first_language(earlier)):
        return result
    # What was heard by chance is what would have been assumed.
    return replace(result, certainty=0.0) if first == result.language else await hear(first)


async def first_language(earlier: Sequence[Task]) -> str | None:
    """The language of the first of them that has something to say."""
    for task in earlier:
        await asyncio.wait([task])  # to be cancelled while it waits must not cancel the other
        result = task.result()
        if result.segments and result.language:
            return result.language
    return None

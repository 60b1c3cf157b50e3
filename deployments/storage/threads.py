"""class StorageThreads: storage calls for event loops, in a bounded pool of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

THREADS = 32  # concurrent calls; others wait, and take no thread from name resolution or decoding


class StorageThreads:
    """Pool of threads, started as they are needed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "storage")

    async def run(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call a blocking function in a thread. A cancelled caller does not stop it."""
        work = partial(copy_context().run, partial(call, *args, **options))
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @asynccontextmanager
    async def entered(self, context: AbstractContextManager[T]) -> AsyncIterator[T]:
        """Enter and leave a blocking context manager in threads, never two of its steps at once."""
        value = await self._enter(context)
        try:
            yield value
        except BaseException as error:
            await uninterrupted(self.run(context.__exit__, type(error), error, error.__traceback__))
            raise
        await uninterrupted(self.run(context.__exit__, None, None, None))

    async def iterate(self, values: Iterator[T]) -> AsyncGenerator[T, None]:
        """Iterate over a blocking generator in threads; it is closed at the end."""
        try:
            while (value := await uninterrupted(self.run(next, values, None))) is not None:
                yield value
        finally:
            close = getattr(values, "close", None)
            if close:
                await uninterrupted(self.run(close))

    async def _enter(self, context: AbstractContextManager[T]) -> T:
        entering = asyncio.create_task(self.run(context.__enter__))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError as error:
            await asyncio.wait([entering])
            if not entering.cancelled() and entering.exception() is None:
                await self.run(context.__exit__, type(error), error, error.__traceback__)
            raise


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; a cancellation that arrives meanwhile is raised after its end."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # retrieved: the cancellation is raised instead
        raise

"""An answer that is given while what it answers still arrives: how much of an upload has come, told as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Generic, TypeVar

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from serve_app.http.sse import HEADERS, PING_S
from serve_app.http.uploads import Form

T = TypeVar("T")
HELD_BYTES = 256 << 10
"""So much of a body may come before anything is answered: what is wrong with its fields can be a refusal till then."""
TOLD_EVERY_S = 0.5


class Arrival(Generic[T]):
    """An upload that is received by a task of its own, whoever listens. `size` is how much of the file has come; `check` is
    given what has come of the form when the answer begins before its end, and may raise."""

    def __init__(self, check: Callable[[Form], None]) -> None:
        self.size = 0
        self._check = check
        self._answering = asyncio.Event()
        self._work: asyncio.Task[T] | None = None

    def watch(self, received: int, form: Form) -> None:
        """To be told of each piece (`uploads.Watch`)."""
        self.size = form.size
        if received > HELD_BYTES and not self._answering.is_set():
            self._check(form)
            self._answering.set()

    async def begin(self, work: Coroutine[Any, Any, T]) -> None:
        """Receive until it is time to answer; raises what `work` raises till then."""
        self._work = asyncio.create_task(work)
        self._work.add_done_callback(lambda _: self._answering.set())
        try:
            await self._answering.wait()
        except asyncio.CancelledError:
            await self.stop()
            raise
        if self._work.done():
            self._work.result()

    async def told(self) -> AsyncGenerator[int, None]:
        """How much has come: at once, then several times a second until all has."""
        assert self._work
        yield 0
        while not (await asyncio.wait([self._work], timeout=TOLD_EVERY_S))[0]:
            yield self.size

    async def made(self) -> T:
        """What came of it, at its end."""
        assert self._work
        return await asyncio.shield(self._work)

    async def over(self) -> None:
        """Wait for its end, whatever that is."""
        assert self._work
        await asyncio.wait([self._work])

    async def stop(self) -> None:
        """Receive no more: what has come is dropped, unless all has."""
        if self._work and not self._work.done():
            self._work.cancel()
            await asyncio.wait([self._work])


class ArrivalResponse(EventSourceResponse):
    """A stream that begins before its request has ended. A response listens for its reader to leave, and what it hears while
    the body arrives is the body: until that is over it must not listen."""

    def __init__(self, content: AsyncGenerator[Any, None], arrival: Arrival[Any]) -> None:
        super().__init__(content, ping=PING_S, headers=HEADERS, sep="\n")
        self._arrival = arrival

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""

        async def receive_after() -> Any:
            await self._arrival.over()
            return await receive()

        try:
            await super().__call__(scope, receive_after, send)
        finally:
            await asyncio.shield(self._arrival.stop())

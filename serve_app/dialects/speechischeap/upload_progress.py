"""Upload progress: an SSE response that starts before the request body is complete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Generic, TypeVar

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from serve_app.http.sse import HEADERS, PING_S
from serve_app.http.uploads import Form

T = TypeVar("T")
# Read before the response starts: until then, invalid fields can be refused with a status.
BYTES_BEFORE_RESPONSE = 256 << 10
PROGRESS_PERIOD_S = 0.5


class UploadTask(Generic[T]):
    """Receives an upload in its own task."""

    def __init__(self, check: Callable[[Form], None]) -> None:
        self.size = 0  # bytes of the file so far
        self._check = check  # validates the partial form just before the response starts; may raise
        self._respond = asyncio.Event()
        self._task: asyncio.Task[T] | None = None

    def watch(self, received: int, form: Form) -> None:
        """Note the progress (an `uploads.Watch`)."""
        self.size = form.size
        if received > BYTES_BEFORE_RESPONSE and not self._respond.is_set():
            self._check(form)
            self._respond.set()

    async def start(self, work: Coroutine[Any, Any, T]) -> None:
        """Run `work` until the response should start. Raises what it raises until then."""
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(lambda _: self._respond.set())
        try:
            await self._respond.wait()
        except asyncio.CancelledError:
            await self.cancel()
            raise
        if self._task.done():
            self._task.result()

    async def progress(self) -> AsyncGenerator[int, None]:
        """Yield the size periodically until the upload is complete."""
        assert self._task
        yield 0
        while not (await asyncio.wait([self._task], timeout=PROGRESS_PERIOD_S))[0]:
            yield self.size

    async def result(self) -> T:
        """Wait for the result of `work`."""
        assert self._task
        return await asyncio.shield(self._task)

    async def wait(self) -> None:
        """Wait for the end of `work`."""
        assert self._task
        await asyncio.wait([self._task])

    async def cancel(self) -> None:
        """Cancel `work`; an incomplete upload is discarded."""
        if self._task and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


class UploadResponse(EventSourceResponse):
    """SSE response that ignores disconnects while the request body arrives."""

    def __init__(self, content: AsyncGenerator[Any, None], upload: UploadTask[Any]) -> None:
        super().__init__(content, ping=PING_S, headers=HEADERS, sep="\n")
        self._upload = upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_after_body() -> Any:
            # The response listens for a disconnect; while the body arrives, it would take messages of the body.
            await self._upload.wait()
            return await receive()

        try:
            await super().__call__(scope, receive_after_body, send)
        finally:
            await asyncio.shield(self._upload.cancel())

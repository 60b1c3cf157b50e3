"""class TenantSlots: how many requests of one kind a tenant may hold open in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from serve_app.errors import RequestError

T = TypeVar("T")
RETRY_S = 5


class TenantSlots:
    """Slots of every tenant; a limit of 0 is none."""

    def __init__(self, limit: int, kind: str) -> None:
        self._limit = limit
        self._kind = kind  # of request, for the error
        self._taken: Counter[str] = Counter()

    def take(self, tenant: str) -> Slot:
        """Raises RequestError `rate_limited`."""
        if self._limit and self._taken[tenant] >= self._limit:
            message = f"There are {self._limit} open {self._kind} of this tenant: close one, or try again later."
            raise RequestError("rate_limited", message, retry_after_s=RETRY_S)
        self._taken[tenant] += 1
        return Slot(self._taken, tenant)


class Slot:
    """Slot that is released once: at its end, or when nobody refers to it any more."""

    def __init__(self, taken: Counter[str], tenant: str) -> None:
        self._taken = taken
        self._tenant: str | None = tenant

    def release(self) -> None:
        """Release the slot, unless that has been done."""
        tenant, self._tenant = self._tenant, None
        if tenant is None:
            return
        self._taken[tenant] -= 1
        if not self._taken[tenant]:
            del self._taken[tenant]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Release the slot only if the block raises: what comes after it holds the slot on."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # A response that is never sent leaves its generator unstarted, and such a one runs no `finally`.
    def __del__(self) -> None:
        self.release()


class Slotted(AsyncGenerator[T, None]):
    """Generator that holds a slot until it ends or is closed."""

    def __init__(self, inner: AsyncGenerator[T, None], slot: Slot) -> None:
        self._inner = inner
        self._slot = slot

    async def asend(self, value: None) -> T:
        try:
            return await self._inner.asend(value)
        except BaseException:  # whatever is raised has ended the generator
            self._slot.release()
            raise

    async def athrow(self, typ: Any, val: BaseException | object = None, tb: TracebackType | None = None) -> T:
        try:
            return await self._inner.athrow(typ, val, tb)
        except BaseException:
            self._slot.release()
            raise

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._slot.release()

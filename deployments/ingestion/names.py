"""Resolves host names: in threads of its own, in bounded time, with a share for each tenant."""

# A lookup cannot be interrupted: until the system's resolver gives up, which may take half a minute, it holds its thread.
# So no other work may run in these threads, and none of a tenant's names may take the threads of the others.

from __future__ import annotations

import asyncio
from contextlib import suppress
from ipaddress import ip_address
from socket import SOCK_STREAM, getaddrinfo
from threading import Thread
from weakref import WeakValueDictionary

from deployments.errors import SourceUnreachable
from deployments.ingestion.allow_list import Address

LOOKUP_S = 5.0
TENANT_LOOKUPS, LOOKUPS = 32, 512  # threads of a tenant, and of all


class Resolver:
    """Shared by all requests of a process, in one event loop."""

    def __init__(self) -> None:
        self._threads = asyncio.Semaphore(LOOKUPS)
        self._tenants: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def resolve(self, host: str, port: int, tenant: str = "", within_s: float = LOOKUP_S) -> list[Address]:
        """Addresses of a host. Raises SourceUnreachable."""
        with suppress(ValueError):
            return [ip_address(host.partition("%")[0])]
        share = self._tenants.setdefault(tenant, asyncio.Semaphore(TENANT_LOOKUPS))
        try:
            async with asyncio.timeout(min(within_s, LOOKUP_S)):
                return await self._look_up(host, port, share)
        except TimeoutError:
            raise SourceUnreachable("The source's host name takes too long to resolve: try again, or check it.") from None
        except (OSError, UnicodeError):
            raise SourceUnreachable("The source's host name could not be resolved: check the URL.") from None

    async def _look_up(self, host: str, port: int, share: asyncio.Semaphore) -> list[Address]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Address]] = loop.create_future()
        await share.acquire()
        try:
            await self._threads.acquire()
        except asyncio.CancelledError:
            share.release()
            raise

        def settle(addresses: list[Address], error: Exception | None) -> None:
            share.release()
            self._threads.release()
            if found.done():  # given up
                return
            if error:
                found.set_exception(error)
            else:
                found.set_result(addresses)

        def look_up() -> None:
            addresses: list[Address] = []
            failure: Exception | None = None
            try:
                addresses = _addresses(host, port)
            except Exception as error:  # noqa: BLE001 - raised again where the addresses are awaited
                failure = error
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, addresses, failure)

        # Daemons: no lookup that hangs holds up the end of the process.
        Thread(target=look_up, name="resolver", daemon=True).start()
        return await found


def _addresses(host: str, port: int) -> list[Address]:
    entries = getaddrinfo(host, port, type=SOCK_STREAM)
    # Without the scope that an address may carry (fe80::1%eth0).
    return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]

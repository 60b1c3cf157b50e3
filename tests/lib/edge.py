"""The API with settings of its own, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from serve_app.dialects import key_headers
from serve_app.http.auth import Auth
from serve_app.http.jwt_tokens import JwtVerifier
from serve_app.ingress import create_api
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.store.api_keys import ApiKeys
from tests.service.conftest import LOOPBACK, Served


@dataclass(frozen=True, slots=True)
class Edge:
    """Client without a key, and the keys of the service."""

    http: httpx.AsyncClient
    keys: ApiKeys
    served: Served
    url: str

    async def key(self, name: str = "me", tenant: str = "t", *scopes: str) -> str:
        """Create a key, with every scope unless some are named."""
        return await self.keys.create(name, tenant, scopes or ("admin",))


@asynccontextmanager
async def listening(api: FastAPI) -> AsyncIterator[str]:
    """URL of an application, served without its lifespan."""
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="warning", access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        for socket in server.servers:
            socket.close()
        for connection in list(server.server_state.connections):
            connection.transport.close()
        serving.cancel()
        await asyncio.wait({serving, *server.server_state.tasks})


@asynccontextmanager
async def open_edge(
    served: Served,
    *,
    required: bool = True,
    origins: tuple[str, ...] = (),
    tokens: JwtVerifier | None = None,
    context: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Edge]:
    """Serve the API beside `served`, with `options` of create_api."""
    store = served.app.store
    quotas = Quotas(store, TenantLimits())
    auth = Auth(store.keys, quotas, tokens, required=required, hosts=LOOPBACK, origins=origins, key_headers=key_headers())
    own = replace(served.context, **(context or {}))
    api = create_api(own, auth, store, served.app.events, version="0", cors_origins=origins, **options)
    async with listening(api) as url, httpx.AsyncClient(base_url=url, timeout=30, verify=False) as http:
        yield Edge(http, store.keys, served, url)


def bearer(key: str) -> dict[str, str]:
    """Headers with a key."""
    return {"Authorization": f"Bearer {key}"}

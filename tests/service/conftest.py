"""Fixtures: the API over a real socket without Ray, and `murmur up` with Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest
import uvicorn

from deployments.storage.artifacts import Artifacts
from serve_app.dialects import key_headers
from serve_app.dialects.base import ApiContext
from serve_app.http.auth import Auth
from serve_app.jobs.deliveries import Deliveries
from serve_app.jobs.event_stream import EventStreams
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.local.valkey import Valkey
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.webhook_outbox import Outbox
from tests.lib.app import App, open_app
from tests.lib.murmur_process import Up, up
from tests.lib.shared_api import SharedApi

MAX_UPLOAD_BYTES = 8 << 20
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Served:
    """Client of the API, and the application behind it."""

    http: httpx.AsyncClient
    app: App
    url: str
    context: ApiContext
    auth: Auth


@pytest.fixture
async def served(
    valkey: Valkey, store: Store, artifacts: Artifacts, ffmpeg: str, shared_api: SharedApi
) -> AsyncIterator[Served]:
    """Serve the API with the fake engine. Sources on loopback may be fetched."""
    async with open_app(store, artifacts, ffmpeg, allow=("127.0.0.0/8",)) as app:
        redis = connect(valkey.url)
        context = ApiContext(
            app.jobs,
            Deliveries(Outbox(redis)),
            artifacts,
            MAX_UPLOAD_BYTES,
            sse_max_age_s=30.0,
        )
        own = Store(redis)
        auth = Auth(ApiKeys(redis), Quotas(own, TenantLimits()), required=False, hosts=LOOPBACK, key_headers=key_headers())
        events = EventStreams(own, artifacts)
        api = shared_api.bind(context, auth, own)
        await events.start()
        server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30, verify=False) as http:
            yield Served(http, app, f"http://{host}:{port}", context, auth)
        # An orderly shutdown of uvicorn would poll every 0.1 s and wait for its connections.
        for socket in server.servers:
            socket.close()
        for connection in list(server.server_state.connections):
            connection.transport.close()
        serving.cancel()
        await asyncio.wait({serving, *server.server_state.tasks})
        await events.stop()
        await own.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`murmur up` with real Whisper on its own Ray cluster, once per session."""
    with up(tmp_path_factory.mktemp("cluster"), MURMUR_MODELS="base,tiny.en", MURMUR_FETCH_ALLOW="127.0.0.0/8") as up_:
        assert up_.ready() == f"ready {up_.url}", up_.errors.read_text()
        yield up_

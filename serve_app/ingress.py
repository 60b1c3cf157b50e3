"""create_api(): the routers of all dialects, health, and errors told in the dialect that was spoken to."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from deployments.errors import WorkError
from serve_app.dialects import DIALECTS, native_webhooks
from serve_app.dialects.base import ApiContext, Dialect, invalid
from serve_app.dialects.native import NATIVE, PROBLEMS
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.http.auth import Auth
from serve_app.http.metrics import exposition
from serve_app.http.request_ids import RequestIds
from serve_app.jobs.event_stream import EventStreams
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)


def create_api(
    context: ApiContext,
    auth: Auth,
    store: Store,
    events: EventStreams,
    *,
    version: str,
    devices: Mapping[str, str] = MappingProxyType({}),
    dialects: Sequence[Dialect] = DIALECTS,
    request_id: Callable[[], str] | None = None,
) -> FastAPI:
    """The application, which names requests by `request_id` if somebody before it tells their ids. It starts and stops
    `events` and closes `store` with itself; `devices` may fill as models are heard of."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await events.start()
        yield
        await events.stop()
        await store.close()

    api = FastAPI(title="Murmuration", version=version, lifespan=lifespan, redoc_url=None)
    api.state.auth = auth
    api.add_middleware(RequestIds, outer=request_id)
    # One flat list: a router that is included is built a second time, and searched twice for every request.
    for router in (*(dialect.routes(context) for dialect in dialects), native_webhooks.routes(context.deliveries, PROBLEMS)):
        api.router.routes.extend(router.routes)
    _add_health(api, store, version, devices)
    _add_errors(api, dialects, request_id)
    return api


def _add_health(api: FastAPI, store: Store, version: str, devices: Mapping[str, str]) -> None:
    @api.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Whether this process answers, and which device and compute type each model runs on, as far as it is known."""
        return {"status": "ok", "version": version, "devices": dict(devices)}

    @api.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Stats for Prometheus."""
        return PlainTextResponse(exposition(await store.stats.read()), media_type=CONTENT_TYPE_LATEST)

    @api.get("/readyz", responses={503: {}})
    async def readyz() -> Response:
        """Whether jobs can be taken."""
        try:
            await store.ping()
        except StoreUnavailable:
            return JSONResponse({"status": "unready", "redis": "unreachable"}, 503)
        return JSONResponse({"status": "ready", "redis": "ok"})


def _add_errors(api: FastAPI, dialects: Sequence[Dialect], outer: Callable[[], str] | None) -> None:
    """Every error, whoever raised it, in the form of the dialect whose path was asked for."""

    def told(request: Request, error: RequestError) -> Response:
        speaking = [d for d in dialects if request.url.path.startswith(d.prefix)]
        return max(speaking, key=lambda d: len(d.prefix), default=NATIVE).error(error)

    @api.exception_handler(RequestError)
    async def edge_error(request: Request, error: RequestError) -> Response:
        return told(request, error)

    @api.exception_handler(WorkError)
    async def work_error(request: Request, error: WorkError) -> Response:
        return told(request, RequestError(error.code, error.message))

    @api.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return told(request, invalid(error.errors()))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        known = {
            404: ("not_found", "There is nothing at this path."),
            405: ("not_allowed", "The path does not take this method."),
        }
        code, message = known.get(error.status_code, ("malformed", str(error.detail)))
        return told(request, RequestError(code, message))

    @api.exception_handler(ClientDisconnect)
    async def left(request: Request, _: ClientDisconnect) -> Response:
        return told(request, RequestError("malformed", "The body broke off."))  # nobody reads it, and no fault of ours

    @api.exception_handler(StoreUnavailable)
    async def store_unavailable(request: Request, error: StoreUnavailable) -> Response:
        log.warning("Redis unavailable, request refused: %s", error)
        return told(request, RequestError("unavailable", "The job store cannot be reached right now: try again."))

    _add_internal(api, told, outer)


def _add_internal(api: FastAPI, told: Callable[[Request, RequestError], Response], outer: Callable[[], str] | None) -> None:
    """What nobody thought of."""

    @api.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> Response:
        # This one is answered outside of what names requests.
        request_id = getattr(request.state, "request_id", "")
        log.error("request_id=%s failed", request_id, exc_info=error)
        answer = told(request, RequestError("internal", "The service failed to answer this request."))
        if outer is None:
            answer.headers["X-Request-ID"] = request_id
        return answer

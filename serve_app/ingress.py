"""create_api(): routers of all dialects, health, the document, and errors in the form of the dialect of the path."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from deployments.errors import WorkError
from serve_app.dialects import DIALECTS
from serve_app.dialects.base import ApiContext, Dialect
from serve_app.dialects.native import NATIVE
from serve_app.dialects.native.translate import PROBLEM
from serve_app.dialects.native.wire import Problem
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.http.auth import Auth
from serve_app.http.docs import add_docs
from serve_app.http.metrics import exposition
from serve_app.http.openapi import Api, Responses, errors
from serve_app.http.request_bodies import RequestBodies, broken_off
from serve_app.http.request_ids import RequestIds
from serve_app.http.validation import invalid
from serve_app.jobs.event_stream import EventStreams
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

DESCRIPTION = """A self-hosted transcription cluster: audio in over REST, text out over Server-Sent Events while it is being
transcribed. The native API is under `/v1`; the others are APIs of other vendors, so that their clients work unchanged."""
SERVICE = "Service"
Respond = Callable[[Request, RequestError], Response]


class Health(BaseModel):
    """Liveness of the process."""

    status: Literal["ok"] = "ok"
    version: str
    devices: dict[str, str] = Field(description="Device and compute type of each model, as far as known.")


class Readiness(BaseModel):
    """Readiness to accept jobs."""

    status: Literal["ready", "unready"]
    redis: Literal["ok", "unreachable"]


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
    """The application, which starts and stops `events` and closes `store` with itself. `request_id` returns the id that a
    proxy has given to the request and adds to the response; `devices` may be filled later."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await events.start()
        yield
        await events.stop()
        await store.close()

    tags = [{"name": name, "description": text} for dialect in dialects for name, text in dialect.tags.items()]
    api = Api(
        title="Murmuration",
        version=version,
        description=DESCRIPTION,
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        openapi_tags=[*tags, {"name": SERVICE, "description": "Health and metrics; no key is needed."}],
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        key_header_of=lambda path: dialect_of(dialects, path).key_header,
    )
    api.state.auth = auth
    api.add_middleware(RequestBodies, idle_s=lambda: context.body_idle_s)
    api.add_middleware(RequestIds, outer=request_id)
    # One flat list: a router that is included is built a second time, and searched twice for every request.
    for dialect in dialects:
        api.router.routes.extend(dialect.routes(context).routes)
    _add_health(api, store, version, devices)
    add_docs(api)
    _add_errors(api, dialects, request_id)
    return api


def dialect_of(dialects: Sequence[Dialect], path: str) -> Dialect:
    """The dialect with the longest prefix of a path; the native one for paths of none."""
    candidates = [dialect for dialect in dialects if path.startswith(dialect.prefix)]
    return max(candidates, key=lambda dialect: len(dialect.prefix), default=NATIVE)


def _add_health(api: FastAPI, store: Store, version: str, devices: Mapping[str, str]) -> None:
    @api.get("/healthz", tags=[SERVICE], summary="Check liveness", response_description="The process runs.")
    async def healthz() -> Health:
        """Answer while the process runs, with the device and compute type of each model as far as known."""
        return Health(version=version, devices=dict(devices))

    metrics_responses: Responses = {
        200: {"description": "Metrics in the text format of Prometheus."},
        **errors(Problem, media_type=PROBLEM),
    }

    @api.get(
        "/metrics", tags=[SERVICE], summary="Read metrics", response_class=PlainTextResponse, responses=metrics_responses
    )
    async def metrics() -> Response:
        """Read metrics of jobs, queues, webhooks and decoding, for Prometheus."""
        return PlainTextResponse(exposition(await store.stats.read()), media_type=CONTENT_TYPE_LATEST)

    unready: Responses = {503: {"model": Readiness, "description": "Redis cannot be reached."}}

    @api.get(
        "/readyz",
        tags=[SERVICE],
        summary="Check readiness",
        response_model=Readiness,
        responses=unready,
        response_description="Jobs can be accepted.",
    )
    async def readyz() -> Response:
        """Answer 200 while jobs can be accepted."""
        try:
            await store.ping()
        except StoreUnavailable:
            return JSONResponse({"status": "unready", "redis": "unreachable"}, 503)
        return JSONResponse({"status": "ready", "redis": "ok"})


def _add_errors(api: FastAPI, dialects: Sequence[Dialect], outer: Callable[[], str] | None) -> None:
    """Render every error in the form of the dialect of the path."""

    def respond(request: Request, error: RequestError) -> Response:
        return dialect_of(dialects, request.url.path).error(error)

    @api.exception_handler(RequestError)
    async def request_error(request: Request, error: RequestError) -> Response:
        return respond(request, error)

    @api.exception_handler(WorkError)
    async def work_error(request: Request, error: WorkError) -> Response:
        return respond(request, RequestError(error.code, error.message))

    @api.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return respond(request, invalid(error.errors()))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        codes = {
            404: ("not_found", "There is nothing at this path."),
            405: ("not_allowed", "The path does not take this method."),
        }
        code, message = codes.get(error.status_code, ("malformed", str(error.detail)))
        return respond(request, RequestError(code, message))

    @api.exception_handler(ClientDisconnect)
    async def client_disconnect(request: Request, _: ClientDisconnect) -> Response:
        return respond(request, broken_off(request))  # if the client has left, nobody reads it, and no 500 is logged

    @api.exception_handler(StoreUnavailable)
    async def store_unavailable(request: Request, error: StoreUnavailable) -> Response:
        log.warning("Redis unavailable, request refused: %s", error)
        return respond(request, RequestError("unavailable", "The job store cannot be reached right now: try again."))

    _add_internal(api, respond, outer)


def _add_internal(api: FastAPI, respond: Respond, outer: Callable[[], str] | None) -> None:
    """Catch-all: log the exception, respond 500."""

    @api.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> Response:
        # Starlette handles this one outside of the RequestIds middleware.
        request_id = getattr(request.state, "request_id", "")
        log.error("request_id=%s failed", request_id, exc_info=error)
        response = respond(request, RequestError("internal", "The service failed to answer this request."))
        if outer is None:
            response.headers["X-Request-ID"] = request_id
        return response

"""create_api(): routers of all dialects, health, the document, and errors in the form of the dialect of the path."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from types import MappingProxyType

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from deployments.errors import StorageUnavailable, WorkError
from serve_app.dialects import DIALECTS
from serve_app.dialects.base import ApiContext, Dialect
from serve_app.dialects.native import NATIVE
from serve_app.dialects.native.translate import PROBLEM
from serve_app.dialects.native.wire import Problem
from serve_app.errors import RequestError, StoreMisconfigured, StoreUnavailable
from serve_app.http.audited import Audited
from serve_app.http.auth import Auth, HostAllowed, key_holder
from serve_app.http.cors import with_cors
from serve_app.http.docs import add_docs
from serve_app.http.health import Readings, add_health
from serve_app.http.metrics import exposition
from serve_app.http.openapi import Api, Responses, errors
from serve_app.http.request_bodies import RequestBodies, broken_off
from serve_app.http.request_ids import RequestIds
from serve_app.http.response_headers import ResponseHeaders
from serve_app.http.validation import invalid
from serve_app.jobs.audit_log import AuditLog
from serve_app.jobs.event_stream import EventStreams
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

DESCRIPTION = """A self-hosted transcription cluster: audio in over REST, text out over Server-Sent Events while it is being
transcribed. The native API is under `/v1`; the others are APIs of other vendors, so that their clients work unchanged."""
SERVICE = "Service"
Layer = Callable[[ASGIApp], ASGIApp]
RETRY_AFTER_S = 5  # while the storage is away or full
Respond = Callable[[Request, RequestError], Response]


def create_api(
    context: ApiContext,
    auth: Auth,
    store: Store,
    events: EventStreams,
    *,
    version: str,
    devices: Mapping[str, str] = MappingProxyType({}),
    min_free_bytes: int = 0,
    dialects: Sequence[Dialect] = DIALECTS,
    request_id: Callable[[], str] | None = None,
    cors_origins: Collection[str] = (),
    metrics_key_required: bool = False,
    audit_log: AuditLog | None = None,
) -> FastAPI:
    """The application, which starts and stops `events` and closes `store` with itself. `request_id` returns the id that a
    proxy has given to the request and adds to the response; `devices` may be filled later."""
    layers: list[Layer] = [partial(RequestIds, outer=request_id), partial(with_cors, origins=cors_origins), ResponseHeaders]
    if audit_log:
        layers.insert(0, partial(Audited, log=audit_log, dialect_of=lambda path: dialect_of(dialects, path).name))
    tags = [{"name": name, "description": text} for dialect in dialects for name, text in dialect.tags.items()]
    api = Api(
        title="Murmuration",
        version=version,
        description=DESCRIPTION,
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        openapi_tags=[*tags, {"name": SERVICE, "description": "Health and metrics."}],
        lifespan=partial(_lifespan, events, store),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # it is one of the docs
        redirect_slashes=False,  # a redirect would go to whichever host the request names
        layers=layers,
        key_header_of=lambda path: dialect_of(dialects, path).key_header,
    )
    api.state.auth = auth
    api.add_middleware(RequestBodies, idle_s=lambda: context.body_idle_s)
    # One flat list: a router that is included is built a second time, and searched twice for every request.
    for dialect in dialects:
        api.router.routes.extend(dialect.routes(context).routes)
    add_health(api, Readings(store, context.artifacts, devices, min_free_bytes), version, devices, SERVICE)
    _add_metrics(api, store, key_required=metrics_key_required)
    add_docs(api)
    _add_errors(api, dialects)
    return api


@asynccontextmanager
async def _lifespan(events: EventStreams, store: Store, _: FastAPI) -> AsyncIterator[None]:
    await events.start()
    yield
    await events.stop()
    await store.close()


def dialect_of(dialects: Sequence[Dialect], path: str) -> Dialect:
    """The dialect with the longest prefix of a path; the native one for paths of none."""
    candidates = [dialect for dialect in dialects if path.startswith(dialect.prefix)]
    return max(candidates, key=lambda dialect: len(dialect.prefix), default=NATIVE)


def _add_metrics(api: FastAPI, store: Store, *, key_required: bool) -> None:
    responses: Responses = {
        200: {"description": "Metrics in the text format of Prometheus."},
        **errors(Problem, *((401, 403, 429) if key_required else (403,)), media_type=PROBLEM),
    }

    @api.get(
        "/metrics",
        tags=[SERVICE],
        summary="Read metrics",
        response_class=PlainTextResponse,
        responses=responses,
        dependencies=[Security(key_holder) if key_required else HostAllowed],
    )
    async def metrics() -> Response:
        """Read metrics of jobs, queues, webhooks and decoding, for Prometheus."""
        return PlainTextResponse(exposition(await store.stats.recent()), media_type=CONTENT_TYPE_LATEST)


def _add_errors(api: FastAPI, dialects: Sequence[Dialect]) -> None:
    """Render every error in the form of the dialect of the path."""

    def respond(request: Request, error: RequestError) -> Response:
        return dialect_of(dialects, request.url.path).error(error)

    @api.exception_handler(RequestError)
    async def request_error(request: Request, error: RequestError) -> Response:
        return respond(request, error)

    @api.exception_handler(WorkError)
    async def work_error(request: Request, error: WorkError) -> Response:
        if isinstance(error, StorageUnavailable):
            log.warning("storage unavailable, request refused: %s", error)
        return respond(request, RequestError(error.code, error.message))

    @api.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return respond(request, invalid(error.errors()))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return respond(request, _router_error(api, request, error))

    @api.exception_handler(ClientDisconnect)
    async def client_disconnect(request: Request, _: ClientDisconnect) -> Response:
        return respond(request, broken_off(request))  # if the client has left, nobody reads it, and no 500 is logged

    @api.exception_handler(StoreUnavailable)
    async def store_unavailable(request: Request, error: StoreUnavailable) -> Response:
        level = logging.ERROR if isinstance(error, StoreMisconfigured) else logging.WARNING
        log.log(level, "Redis unavailable, request refused: %s", error)
        return respond(request, RequestError("unavailable", "The job store cannot be reached right now: try again."))

    _add_internal(api, respond)


def _router_error(api: FastAPI, request: Request, error: HTTPException) -> RequestError:
    if error.status_code == HTTPStatus.NOT_FOUND:
        advice = ": leave out the slash at its end" if request.url.path.endswith("/") else ""
        return RequestError("not_found", f"There is nothing at this path{advice}.")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        routes = [r for r in api.routes if isinstance(r, Route) and r.matches(request.scope)[0] is not Match.NONE]
        methods = {method for route in routes for method in route.methods or ()}
        return RequestError(
            "not_allowed", "The path does not take this method.", headers={"Allow": ", ".join(sorted(methods))}
        )
    return RequestError("malformed", str(error.detail))


def _add_internal(api: FastAPI, respond: Respond) -> None:
    """Catch-all: log the exception, respond 500."""

    @api.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> Response:
        log.error("request_id=%s failed", getattr(request.state, "request_id", ""), exc_info=error)
        return respond(request, RequestError("internal", "The service failed to answer this request."))

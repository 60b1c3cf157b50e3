"""Responses of Serve's proxy while the application is not there."""

# Serve answers 404, 500 or nothing until there is a replica: 503 and Retry-After are what clients know how to wait for.

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError

from serve_app.ray_serve.environment import UnsupportedRay

try:
    from ray.serve._private import proxy, proxy_router

    _match_route = proxy_router.ProxyRouter.match_route
    _status_of = proxy.get_http_response_status
    _respond = proxy.send_http_response_on_exception
    _ResponseStatus = proxy.ResponseStatus
except (ImportError, AttributeError) as error:
    raise UnsupportedRay.because(f"a part that the service replaces is gone ({error})") from error

RETRY_AFTER_S = 1
PROBLEM = {
    "type": "urn:murmuration:error:unavailable",
    "title": "Unavailable",
    "status": 503,
    "detail": "The service is starting or stopping: try again.",
    "code": "unavailable",
    "errors": [],
}


def install() -> None:
    """Replace the responses; called in each proxy."""
    proxy.HTTPProxy.not_found_response = not_ready
    proxy_router.ProxyRouter.match_route = match_ready_route
    proxy.get_http_response_status = status_of
    proxy.send_http_response_on_exception = respond


async def not_ready(_proxy: Any, _request: Any) -> AsyncIterator[Any]:
    """Answer a request that no route takes."""
    # The application has the root, so it is not there yet, or not any more.
    for message in _messages():
        yield message
    yield _ResponseStatus(code=503, is_error=True)


def match_ready_route(router: Any, target_route: str) -> Any:
    """Match only an application that has had a replica."""
    # Requests to others would wait, however long a start takes.
    matched = _match_route(router, target_route)
    return matched if matched is None or matched[1].running_replicas_populated() else None


def status_of(error: BaseException, request_timeout_s: float | None, request_id: str) -> Any:
    """Status of a failed request: 503 if a replica died."""
    status = _status_of(error, request_timeout_s, request_id)
    return replace(status, code=503) if status.code == 500 and isinstance(error, RayActorError) else status


def respond(status: Any, response_started: bool) -> list[Any]:
    """ASGI messages for a failed request."""
    if status.code == 503 and not response_started:
        return _messages()
    messages: list[Any] = _respond(status, response_started)
    return messages


def _messages() -> list[dict[str, Any]]:
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"retry-after", str(RETRY_AFTER_S).encode()),
        (b"cache-control", b"no-store"),
    ]
    return [
        {"type": "http.response.start", "status": 503, "headers": headers},
        {"type": "http.response.body", "body": json.dumps(PROBLEM).encode(), "more_body": False},
    ]

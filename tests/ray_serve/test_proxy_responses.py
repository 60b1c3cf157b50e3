"""Serve's proxy while the application is not there: 503 and when to try again, for every path."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve._private import proxy, proxy_router
from ray.serve._private.common import DeploymentID, RequestProtocol

from serve_app.dialects.native.translate import error
from serve_app.errors import RequestError
from serve_app.ray_serve import proxy_responses
from serve_app.ray_serve.patches import pace_proxy


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the responses for one test."""
    for owner, name in (
        (proxy.HTTPProxy, "not_found_response"),
        (proxy_router.ProxyRouter, "match_route"),
        (proxy, "get_http_response_status"),
        (proxy, "send_http_response_on_exception"),
        (proxy, "MessageQueue"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    pace_proxy()
    pace_proxy()


def router(*, replicas: bool | None) -> Any:
    """Route table of a proxy: without the application, or with it at the root."""
    endpoint = DeploymentID("Ingress", "murmuration")
    table = object.__new__(proxy_router.ProxyRouter)
    table.sorted_routes = [] if replicas is None else ["/"]
    table.route_info = {"/": endpoint}
    table.handles = {endpoint: SimpleNamespace(running_replicas_populated=lambda: replicas)}
    table.app_to_is_cross_language = {"murmuration": False}
    return table


class Request:
    """Request as the proxy's common entry point takes it."""

    is_health_request = is_route_request = False
    route_path = path = "/v1/jobs"

    def populate_tracing_context(self) -> None:
        pass


async def answer(*, replicas: bool | None) -> list[Any]:
    """Messages of a proxy's own answer."""
    serving = object.__new__(proxy.HTTPProxy)
    serving.proxy_router = router(replicas=replicas)
    assert serving.protocol == RequestProtocol.HTTP
    return [message async for message in serving._get_response_handler_info(Request()).response_generator]


@pytest.mark.parametrize("replicas", [None, False])
async def test_an_application_that_is_not_there_yet_is_503_and_not_404(replicas: bool | None) -> None:
    start, body, status = await answer(replicas=replicas)
    headers = dict(start["headers"])
    assert (start["status"], headers[b"retry-after"], headers[b"content-type"]) == (503, b"1", b"application/problem+json")
    assert orjson.loads(body["body"])["code"] == "unavailable"
    assert (status.code, status.is_error) == (503, True)


def test_an_application_with_replicas_answers_itself() -> None:
    assert router(replicas=True).match_route("/v1/jobs")


@pytest.mark.parametrize("failure", [ActorDiedError(), ActorUnavailableError("gone", None)])
def test_a_replica_that_died_is_503_and_not_500(failure: Exception) -> None:
    status = proxy.get_http_response_status(failure, None, "id")
    start, _ = proxy.send_http_response_on_exception(status, False)
    assert start["status"] == 503
    assert proxy.send_http_response_on_exception(status, True) == []


@pytest.mark.parametrize(("failure", "code"), [(ValueError("bug"), 500), (TimeoutError(), 408)])
def test_other_failures_keep_their_status(failure: Exception, code: int) -> None:
    status = proxy.get_http_response_status(failure, None, "id")
    assert status.code == code
    assert all(message.get("status", code) == code for message in proxy.send_http_response_on_exception(status, False))


def test_the_body_is_what_the_native_api_says_when_it_is_unavailable() -> None:
    body = orjson.loads(bytes(error(RequestError("unavailable", str(proxy_responses.PROBLEM["detail"]))).body))
    assert body == proxy_responses.PROBLEM

"""Trouble of Redis and storage, as each dialect answers it: 503 or 507, and when to come back."""

from __future__ import annotations

import logging

import httpx
import pytest
from fastapi import FastAPI

from deployments.errors import StorageFull, StorageUnavailable
from serve_app.dialects import DIALECTS
from serve_app.dialects.base import Dialect
from serve_app.errors import StoreMisconfigured, StoreUnavailable
from serve_app.ingress import _add_errors

SECRET = "redis://:hunter2@10.0.0.1"


async def refusal(dialect: Dialect, trouble: Exception) -> httpx.Response:
    """Answer of a route below the dialect's prefix that meets trouble."""
    api = FastAPI()

    async def route() -> None:
        raise trouble

    path = f"{dialect.prefix.rstrip('/')}/anything"
    api.add_api_route(path, route)
    _add_errors(api, DIALECTS)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as http:
        return await http.get(path)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    ("trouble", "status", "retry_after"),
    [
        (StoreUnavailable(f"Error 111 connecting to {SECRET}"), 503, "5"),
        (StoreMisconfigured("NOPERM"), 503, "5"),
        (StorageUnavailable("The storage cannot be reached right now: try again."), 503, "5"),
        (StorageFull("The disk is full: try again later."), 507, "60"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_trouble_is_answered_with_the_time_to_come_back(
    dialect: Dialect, trouble: Exception, status: int, retry_after: str
) -> None:
    response = await refusal(dialect, trouble)
    assert (response.status_code, response.headers["Retry-After"]) == (status, retry_after)
    assert "hunter2" not in response.text
    assert "10.0.0.1" not in response.text


async def test_a_full_storage_has_its_own_code() -> None:
    [native] = [dialect for dialect in DIALECTS if dialect.name == "native"]
    assert (await refusal(native, StorageFull("Full."))).json()["code"] == "storage_full"


async def test_a_misconfigured_redis_is_logged_as_an_error_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    await refusal(DIALECTS[0], StoreMisconfigured("allow it all commands (ACL SETUSER)"))
    [record] = [record for record in caplog.records if record.name == "serve_app.ingress"]
    assert record.levelno == logging.ERROR
    assert "ACL SETUSER" in record.getMessage()

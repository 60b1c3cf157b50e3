"""json_response(): large JSON bodies, made in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import orjson
from fastapi import Response


async def json_response(make: Callable[[], object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Respond with what `make` returns: the transcript of a day takes half a second, which no event loop may wait."""
    body = await asyncio.to_thread(lambda: orjson.dumps(make()))
    return Response(body, status, headers, "application/json")

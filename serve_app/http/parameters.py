"""Media type of a body, JSON in form fields, times in queries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.security import APIKeyQuery

from serve_app.errors import RequestError


def is_json(request: Request) -> bool:
    return _media_type(request).startswith("application/json")


def is_multipart(request: Request) -> bool:
    return _media_type(request).startswith("multipart/form-data")


def parse_json_field(name: str, text: Any) -> Any:
    """Parse a form field that holds JSON. Raises RequestError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise RequestError("invalid_request", f"{name} must be valid JSON.", ((name, "no JSON"),)) from None


async def refuse_unknown_query(request: Request) -> None:
    """Dependency: raise RequestError for query parameters that the route does not have. A POST reads its own."""
    if not request.query_params or request.method == "POST":
        return
    known = _query_names(request.scope["route"].dependant)
    for name in request.query_params:
        if name not in known:
            advice = f"use {', '.join(sorted(known))}" if known else "it takes none"
            message = f"There is no query parameter {name!r} here: {advice}."
            raise RequestError("invalid_request", message, ((name, "unknown"),))


KNOWN_QUERY = (Depends(refuse_unknown_query),)  # dependencies of a router


def _query_names(dependant: Dependant) -> set[str]:
    """Names of a route's query parameters, those of its dependencies included."""
    names = {parameter.alias for parameter in dependant.query_params}
    if isinstance(dependant.call, APIKeyQuery):
        names.add(dependant.call.model.name)
    return names.union(*map(_query_names, dependant.dependencies))


def utc_seconds(moment: datetime) -> float:
    """Unix seconds of a time; without a zone it is in UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").lower()

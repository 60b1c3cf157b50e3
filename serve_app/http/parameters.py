"""Media type of a body, JSON in form fields, times in queries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import Request

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


def utc_seconds(moment: datetime) -> float:
    """Unix seconds of a time; without a zone it is in UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").lower()

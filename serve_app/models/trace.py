"""Request id and W3C trace context (Trace Context, level 1)."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Trace:
    """Identifiers of the request that made a job."""

    request_id: str = ""
    traceparent: str | None = None  # header of the request, where it had a valid one


def child_span(traceparent: str) -> str:
    """A traceparent with a new span id in the same trace."""
    match = TRACEPARENT.fullmatch(traceparent)
    return f"00-{match[1]}-{secrets.token_hex(8)}-{match[2]}" if match else traceparent

"""An artifact as an HTTP answer: whole, or a range of its bytes (RFC 9110, section 14)."""

from __future__ import annotations

import re

from fastapi import Response
from fastapi.responses import StreamingResponse

from serve_app.jobs.results import Artifact, Results


def file_response(results: Results, artifact: Artifact, wanted: str | None) -> Response:
    """The artifact, or the part of it that a Range header wants; 416 where there is no such part."""
    headers = {"Accept-Ranges": "bytes"}
    start, end, status = 0, artifact.size, 200
    if wanted is not None and in_bytes(wanted):
        span = byte_range(wanted, artifact.size)
        if span is None:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{artifact.size}"})
        (start, end), status = span, 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{artifact.size}"
    headers["Content-Length"] = str(end - start)
    body = results.content(artifact, start, end - start)
    return StreamingResponse(body, status, headers=headers, media_type=artifact.content_type)


def in_bytes(header: str) -> bool:
    """Whether a Range header speaks of bytes; one in another unit is to be ignored (RFC 9110, section 14.2)."""
    return header.partition("=")[0].strip().lower() == "bytes"


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """`bytes=a-b` → [start, end) within `size`; None where it cannot be satisfied."""
    found = re.fullmatch(r"bytes=(\d{0,40})-(\d{0,40})", header.strip(), re.IGNORECASE)
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(size - int(found[2]), 0), size
    else:
        start, end = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
    return (start, end) if start < end else None

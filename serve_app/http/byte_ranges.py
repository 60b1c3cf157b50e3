"""Byte range responses (RFC 9110, section 14)."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header, Response
from fastapi.responses import StreamingResponse

from serve_app.jobs.results import Artifact, Results


def requested_range(
    sent_range: Annotated[str | None, Header(alias="Range", description="Range of bytes, as in `bytes=0-1023`.")] = None,
    if_range: Annotated[
        str | None, Header(alias="If-Range", description="Files have no validators, so none matches: all is sent.")
    ] = None,
) -> str | None:
    """Dependency: range to send, None for the whole file."""
    return sent_range if if_range is None else None


async def file_response(results: Results, artifact: Artifact, range_header: str | None) -> Response:
    headers = {"Accept-Ranges": "bytes"}
    start, end, status = 0, artifact.size, 200
    if range_header is not None and in_bytes(range_header) and "," not in range_header:  # several: all is sent
        span = byte_range(range_header, artifact.size)
        if span is None:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{artifact.size}"})
        (start, end), status = span, 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{artifact.size}"
    headers["Content-Length"] = str(end - start)
    body = await results.open(artifact, start, end - start)
    return StreamingResponse(body, status, headers=headers, media_type=artifact.content_type)


def in_bytes(header: str) -> bool:
    """Whether a Range header is in bytes; other units are to be ignored."""
    return header.partition("=")[0].strip().lower() == "bytes"


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Parse `bytes=a-b` to [start, end) within `size`; None if it cannot be satisfied."""
    match = re.fullmatch(r"bytes=(\d{0,40})-(\d{0,40})", header.strip(), re.IGNORECASE)
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, end = max(size - int(match[2]), 0), size
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    return (start, end) if start < end else None

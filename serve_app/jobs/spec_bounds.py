"""Sizes of all that a caller can store with a job: Redis keeps it, and lists return it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from serve_app.errors import RequestError
from serve_app.models.file import File
from serve_app.models.job import JobSpec

# Characters of each text.
LENGTHS = {
    "model": 200,
    "requested_model": 200,
    "url": 4096,
    "filename": 255,
    "language": 35,
    "prompt": 2000,
    "hotwords": 2000,
    "summary": 200,
    "webhook": 4096,
    "webhook_secret": 512,
    "user_agent": 500,
}
FILE_LENGTHS = {"name": 255, "filename": 255, "description": 4096, "path": 1024, "url": 4096}
FALLBACKS = 8
METADATA_KEY = 64  # characters
METADATA_BYTES = 16 << 10  # as JSON
TAGS_BYTES = 16 << 10
ECHO_BYTES = 32 << 10  # request fields that a dialect needs back


def check_bounds(spec: JobSpec) -> None:
    """Raise RequestError `invalid_request` for what is too long."""
    _check_lengths(spec, LENGTHS)
    if len(spec.fallbacks) > FALLBACKS:
        raise _too_long("fallbacks", f"has more than {FALLBACKS} models")
    if any(len(model) > LENGTHS["model"] for model in spec.fallbacks):
        raise _too_long("fallbacks", f"has a name of more than {LENGTHS['model']} characters")
    _check_metadata(spec.metadata)
    if sum(len(name) + len(value.encode()) for name, value in spec.echo.items()) > ECHO_BYTES:
        raise _too_long("request", f"has options of more than {ECHO_BYTES} bytes in all")


def check_file_bounds(file: File) -> None:
    """Raise RequestError `invalid_request` for what is too long."""
    _check_lengths(file, FILE_LENGTHS)
    _check_metadata(file.metadata)
    if len(orjson.dumps(file.tags)) > TAGS_BYTES:
        raise _too_long("tags", f"has more than {TAGS_BYTES} bytes in all")


def _check_lengths(record: object, lengths: Mapping[str, int]) -> None:
    for name, most in lengths.items():
        if len(getattr(record, name) or "") > most:
            raise _too_long(name, f"has more than {most} characters")


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    if any(len(key) > METADATA_KEY for key in metadata):
        raise _too_long("metadata", f"has a key of more than {METADATA_KEY} characters")
    if metadata and len(orjson.dumps(metadata)) > METADATA_BYTES:
        raise _too_long("metadata", f"has more than {METADATA_BYTES} bytes as JSON")


def _too_long(name: str, problem: str) -> RequestError:
    return RequestError("invalid_request", f"{name.capitalize()} {problem}: shorten it.", ((name, problem),))

"""Vendor APIs over one core: each is one file or folder here, and one entry of DIALECTS."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_settings import BaseSettings

from serve_app.dialects.base import Dialect
from serve_app.dialects.bifrost import BIFROST
from serve_app.dialects.koldan import KOLDAN
from serve_app.dialects.native import NATIVE
from serve_app.dialects.openai import OPENAI
from serve_app.dialects.shift import SHIFT
from serve_app.dialects.speechischeap import SPEECH_IS_CHEAP
from serve_app.dialects.transcripts import TRANSCRIPTS
from serve_app.jobs.webhook_payload import PayloadRenderer

DIALECTS = (NATIVE, OPENAI, SHIFT, BIFROST, TRANSCRIPTS, KOLDAN, SPEECH_IS_CHEAP)


def dialect_settings(dialects: Sequence[Dialect] = DIALECTS) -> dict[str, BaseSettings]:
    """Settings of the dialects that have some, read from the environment. Raises ValidationError for a bad one."""
    return {dialect.name: dialect.settings() for dialect in dialects if dialect.settings}


def dialect_variables(dialects: Sequence[Dialect] = DIALECTS) -> tuple[str, ...]:
    """Environment variables of the settings of dialects."""
    kinds = [dialect.settings for dialect in dialects if dialect.settings]
    return tuple(
        str(field.validation_alias or f"{kind.model_config.get('env_prefix', '')}{name}".upper())
        for kind in kinds
        for name, field in kind.model_fields.items()
    )


def key_headers(dialects: Sequence[Dialect] = DIALECTS) -> tuple[str, ...]:
    """Headers in which clients of the dialects send API keys."""
    return tuple(dialect.key_header for dialect in dialects if dialect.key_header)


def renderers(dialects: Sequence[Dialect] = DIALECTS) -> dict[str, PayloadRenderer]:
    """Renderer of webhook payloads, for each dialect that has webhooks."""
    return {dialect.name: dialect.render for dialect in dialects if dialect.render}

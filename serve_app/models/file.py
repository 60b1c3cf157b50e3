"""class File: a recording that several jobs share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class File:
    """A shared source, deleted when no job needs it any more."""

    id: str
    owner: str
    tenant: str
    name: str
    filename: str | None = None
    description: str | None = None
    path: str = "/"  # folder in the owner's view
    metadata: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    url: str | None = None  # where it is fetched from; None for an upload
    size: int | None = None  # bytes, once stored
    made_at: float = 0.0  # Unix seconds, as below
    deleted_at: float | None = None

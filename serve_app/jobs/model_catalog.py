"""Models on offer: names, aliases and what each can do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Model:
    """A model that jobs may name, and the languages it knows."""

    id: str
    languages: tuple[str, ...]

"""Identity and scopes of a caller."""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")  # of owners and tenants

SCOPES = (
    "speech:transcriptions:read",
    "speech:transcriptions:write",
    "speech:transcriptions:delete",
    "speech:files:read",
    "speech:files:write",
    "speech:summaries:write",
    "admin",  # includes all others
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Identity of a caller, who sees the jobs of its owner and tenant."""

    owner: str
    tenant: str
    scopes: frozenset[str] = frozenset(("admin",))

    def may(self, scope: str) -> bool:
        """Whether `scope` is granted."""
        return scope in self.scopes or "admin" in self.scopes

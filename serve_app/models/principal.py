"""Identity and scopes of a caller."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")  # of owners and tenants
ANONYMOUS_OWNER = "anonymous"
SUBJECT_PREFIX = "jwt."  # prefix of owners that tokens name
# Owners that the service names itself: callers without a key, and subjects of tokens, which may be hashed.
RESERVED = re.compile(r"anonymous|jwt\..*|jwt-[0-9a-f]{48}", re.IGNORECASE)

SCOPES = (
    "speech:transcriptions:read",
    "speech:transcriptions:write",
    "speech:transcriptions:delete",
    "speech:files:read",
    "speech:files:write",
    "speech:summaries:write",
    "admin",  # includes all others but TENANT_READ
    "speech:tenant:read",
)
TENANT_READ = "speech:tenant:read"  # jobs of every owner in the tenant, which no other scope shows
DEFAULT_SCOPES = tuple(scope for scope in SCOPES if scope not in ("admin", TENANT_READ))


def name_fault(name: str) -> str | None:
    """Reason to refuse a name of an owner or a tenant; None for a good one."""
    if not NAME.fullmatch(name):
        return "use 1 to 64 letters, digits and any of . _ - @"
    if not name.strip("."):
        return "a name of dots alone could leave a folder"
    if RESERVED.fullmatch(name):
        return "the service itself uses such names for callers without a key and for tokens"
    return None


@dataclass(frozen=True, slots=True)
class Principal:
    """Identity of a caller, who sees the jobs of its owner and tenant."""

    owner: str
    tenant: str
    scopes: frozenset[str] = frozenset(("admin",))
    key_id: str = field(default="", compare=False)  # of its API key; '' for a token and without a key
    expires_at: float | None = field(default=None, compare=False)  # Unix seconds: end of its key, token or ticket
    job_id: str | None = field(default=None, compare=False)  # of a ticket: the one job that it opens

    def may(self, scope: str) -> bool:
        """Whether `scope` is granted."""
        return scope in self.scopes or ("admin" in self.scopes and scope != TENANT_READ)

    def owns(self, owner: str, tenant: str) -> bool:
        return (owner, tenant) == (self.owner, self.tenant)

    def sees(self, owner: str, tenant: str) -> bool:
        """Whether it may read jobs of `owner`."""
        return self.owns(owner, tenant) or (tenant == self.tenant and self.may(TENANT_READ))

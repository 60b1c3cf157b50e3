"""Authentication: from API key or token to Principal."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer, SecurityScopes
from starlette.datastructures import Headers

from serve_app.errors import RequestError
from serve_app.http.allowed_hosts import AllowedHosts
from serve_app.http.jwt_tokens import JwtVerifier
from serve_app.jobs.quotas import Quotas
from serve_app.models.principal import SCOPES, Principal
from serve_app.store.api_keys import ApiKeys

# Caller without a key, where none is required; has the default scopes of a key.
ANONYMOUS = Principal("anonymous", "default", frozenset(SCOPES) - {"admin"})

bearer = HTTPBearer(scheme_name="bearer", auto_error=False, description="An API key of `murmur keys create`, or a JWT.")
api_key = APIKeyHeader(
    scheme_name="apiKey", name="X-API-Key", auto_error=False, description="The same key, as some clients send it."
)


class Auth:
    """Authenticates by API key or JWT. Unless one is `required`, only requests to `hosts` are allowed."""

    def __init__(
        self,
        keys: ApiKeys,
        limits: Quotas,
        tokens: JwtVerifier | None = None,
        *,
        required: bool,
        hosts: Collection[str] = (),
        key_headers: Collection[str] = (),
    ) -> None:
        self._keys = keys
        self._limits = limits
        self._tokens = tokens
        self._required = required
        self._key_headers = tuple(key_headers)
        # A malicious web page has no key, so with keys required any host name is fine.
        self._allowed_hosts = None if required else AllowedHosts(hosts)

    async def principal(self, headers: Headers) -> Principal:
        """Raises RequestError `unauthenticated`, for an invalid key even where none is required."""
        key = sent_key(headers, self._key_headers)
        if key is None:
            if self._required:
                raise RequestError("unauthenticated", "An API key is required: send it as Authorization: Bearer KEY.")
            return ANONYMOUS
        token = self._tokens if self._tokens and key.count(".") == 2 else None
        principal = await (token or self._keys).principal(key)
        if principal is None:
            raise RequestError(
                "unauthenticated", "The API key or token is not a valid one, or it has expired or was revoked."
            )
        return principal

    async def admit(self, headers: Headers) -> Principal:
        """Authenticate and rate-limit. Raises RequestError `unauthenticated`, `forbidden`, `rate_limited`."""
        if self._allowed_hosts:
            self._allowed_hosts.check(headers)
        principal = await self.principal(headers)
        await self._limits.count_request(principal)
        return principal


def sent_key(headers: Headers, key_headers: Collection[str] = ()) -> str | None:
    """API key or token; '' for an Authorization header without one."""
    for name in key_headers:  # first, since their clients may send a dummy as Authorization
        if name in headers:
            return headers[name]
    if (authorization := headers.get("authorization")) is not None:
        scheme, _, key = authorization.partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""
    return headers.get("x-api-key")


async def caller(
    request: Request,
    scopes: SecurityScopes,
    _bearer: Annotated[object, Security(bearer)],
    _api_key: Annotated[object, Security(api_key)],
) -> Principal:
    """Dependency: the caller, with the route's scopes. Raises RequestError."""
    auth: Auth = request.app.state.auth
    principal = await auth.admit(request.headers)
    for scope in scopes.scopes:
        if not principal.may(scope):
            raise RequestError("forbidden", f"The API key does not have the scope {scope}.")
    return principal


CanRead = Annotated[Principal, Security(caller, scopes=["speech:transcriptions:read"])]
CanWrite = Annotated[Principal, Security(caller, scopes=["speech:transcriptions:write"])]
CanUpload = Annotated[Principal, Security(caller, scopes=["speech:files:write", "speech:transcriptions:write"])]
CanDelete = Annotated[Principal, Security(caller, scopes=["speech:transcriptions:delete"])]

"""Who asks, and whether they may: a request's key → Principal."""

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

ANONYMOUS = Principal("anonymous", "default", frozenset(SCOPES) - {"admin"})
"""Who asks without a key where none is required: no more than a key that was made without asking for more."""

bearer = HTTPBearer(scheme_name="bearer", auto_error=False, description="An API key of `murmur keys create`, or a JWT.")
api_key = APIKeyHeader(
    scheme_name="apiKey", name="X-API-Key", auto_error=False, description="The same key, as some clients send it."
)


class Auth:
    """Knows keys, and tokens where an issuer of them is trusted; `required` says whether anybody is answered without: if so,
    only who names one of `hosts`. A page that aims here from a browser has no key, so with keys any name will do."""

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
        self._guard = None if required else AllowedHosts(hosts)

    async def principal(self, headers: Headers) -> Principal:
        """Who sent these headers. EdgeError `unauthenticated`: a wrong key is refused even where none is required."""
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
        """The same, and counted against the tenant's limits. EdgeError `forbidden` for a name that is not of this service,
        `rate_limited`."""
        if self._guard:
            self._guard.check(headers)
        principal = await self.principal(headers)
        await self._limits.request(principal)
        return principal


def sent_key(headers: Headers, key_headers: Collection[str] = ()) -> str | None:
    """The key in a request's headers; '' for an Authorization that holds none. `key_headers` come first: clients that send
    one may send a dummy as Authorization."""
    for name in key_headers:
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
    """Dependency: who asks. EdgeError `forbidden` where a scope that the route wants is missing."""
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

"""Authentication: from API key, token or ticket to Principal."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, APIKeyQuery, HTTPBearer, SecurityScopes
from starlette.datastructures import Headers

from serve_app.errors import RequestError
from serve_app.http.allowed_hosts import AllowedHosts
from serve_app.http.jwt_tokens import JwtVerifier
from serve_app.http.refusals import Refusals
from serve_app.http.tickets import Tickets
from serve_app.jobs.quotas import Quotas
from serve_app.models.principal import ANONYMOUS_OWNER, DEFAULT_SCOPES, Principal, name_fault
from serve_app.store.api_keys import ApiKeys

# Caller without a key, where none is required; has the default scopes of a key.
ANONYMOUS = Principal(ANONYMOUS_OWNER, "default", frozenset(DEFAULT_SCOPES))

bearer = HTTPBearer(scheme_name="bearer", auto_error=False, description="An API key of `murmur keys create`, or a JWT.")
api_key = APIKeyHeader(
    scheme_name="apiKey", name="X-API-Key", auto_error=False, description="The same key, as some clients send it."
)
ticket_query = APIKeyQuery(
    scheme_name="ticket", name="ticket", auto_error=False, description="A ticket of POST /v1/jobs/{job_id}/ticket."
)


class Auth:
    """Authenticates by API key, JWT or ticket. Unless a key is `required`, only requests to `hosts` are allowed."""

    def __init__(
        self,
        keys: ApiKeys,
        limits: Quotas,
        tokens: JwtVerifier | None = None,
        *,
        required: bool,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        key_headers: Collection[str] = (),
    ) -> None:
        self.tickets = Tickets(keys)
        self.refusals = Refusals()
        self._keys = keys
        self._limits = limits
        self._tokens = tokens
        self._required = required
        self._key_headers = tuple(key_headers)
        self._hosts = AllowedHosts(hosts, origins)

    def check_host(self, headers: Headers) -> None:
        """Raises RequestError `forbidden`."""
        if not self._required:  # a malicious web page has no key
            self._hosts.check(headers)

    def knows_host(self, headers: Headers) -> bool:
        """Whether links may begin with the Host of a request."""
        return self._hosts.has(headers.get("host"))

    async def principal(self, headers: Headers, key_header: str = "") -> Principal:
        """Raises RequestError `unauthenticated`, for an invalid key even where none is required."""
        keys = list(sent_keys(headers, key_header, self._key_headers))
        failure: RequestError | None = None
        for key in keys:
            try:
                if principal := await self._principal_of(key):
                    return principal
            except RequestError as error:
                failure = failure or error
        if failure:
            raise failure
        if keys:
            raise _invalid("API key or token")
        if self._required:
            raise key_required()
        return ANONYMOUS

    async def _principal_of(self, key: str) -> Principal | None:
        if self._tokens and key.count(".") == 2:
            return await self._tokens.principal(key)
        principal = await self._keys.principal(key)
        for name in (principal.owner, principal.tenant) if principal else ():
            if fault := name_fault(name):  # made by an earlier version
                raise RequestError("forbidden", f"The name {name!r} of the API key is refused ({fault}): use another key.")
        return principal

    async def admit(self, request: Request, ticket: str | None, job_id: str) -> Principal:
        """Authenticate and rate-limit; a ticket must be for `job_id`. Raises RequestError."""
        self.check_host(request.headers)
        key_header = request.app.key_header_of(request.url.path)
        if ticket is not None and not any(sent_keys(request.headers, key_header, self._key_headers)):
            principal = await self._holder(ticket, job_id)
        else:
            principal = await self.principal(request.headers, key_header)
        await self._limits.count_request(principal)
        return principal

    async def _holder(self, ticket: str, job_id: str) -> Principal:
        principal = await self.tickets.principal(ticket)
        if principal is None or (self._required and not principal.key_id and principal.owner == ANONYMOUS_OWNER):
            raise _invalid("ticket")
        if principal.job_id != job_id:
            raise RequestError("forbidden", "The ticket is for another job, or for a path that takes none.")
        return principal


def _invalid(credential: str) -> RequestError:
    message = f"The {credential} is not a valid one, or it has expired or was revoked."
    return RequestError("unauthenticated", message)


def key_required() -> RequestError:
    return RequestError("unauthenticated", "An API key is required: send it as Authorization: Bearer KEY.")


def sent_keys(headers: Headers, key_header: str = "", key_headers: Collection[str] = ()) -> Iterator[str]:
    """Keys and tokens to try; '' for an Authorization header with neither, if there is no other."""
    # The header of the path's own API is first, since its clients may send a dummy as Authorization; those of other APIs
    # are last.
    authorization = headers.get("authorization")
    scheme, _, credentials = (authorization or "").partition(" ")
    sent = [
        headers.get(key_header) if key_header else None,
        credentials.strip() if scheme.lower() == "bearer" else None,
        headers.get("x-api-key"),
        *(headers.get(name) for name in key_headers),
    ]
    keys = dict.fromkeys(key for key in sent if key is not None)
    if not keys and authorization is not None:
        keys[""] = None
    yield from keys


async def _admitted(request: Request, scopes: SecurityScopes, ticket: str | None, job_id: str = "") -> Principal:
    auth: Auth = request.app.state.auth
    try:
        principal = await auth.admit(request, ticket, job_id)
        request.state.principal = principal
        for scope in scopes.scopes:
            if not principal.may(scope):
                raise RequestError("forbidden", f"The API key does not have the scope {scope}.")
    except RequestError as refusal:
        auth.refusals.note(request, refusal)
        raise
    return principal


async def caller(
    request: Request,
    scopes: SecurityScopes,
    _bearer: Annotated[object, Security(bearer)],
    _api_key: Annotated[object, Security(api_key)],
) -> Principal:
    """Dependency: the caller, with the route's scopes. Raises RequestError."""
    return await _admitted(request, scopes, request.query_params.get("ticket"))


async def key_holder(principal: Annotated[Principal, Security(caller)]) -> Principal:
    """Dependency: caller with a key, also where others need none."""
    if principal is ANONYMOUS:
        raise key_required()
    return principal


async def reader(
    request: Request,
    scopes: SecurityScopes,
    _bearer: Annotated[object, Security(bearer)],
    _api_key: Annotated[object, Security(api_key)],
    ticket: Annotated[str | None, Security(ticket_query)],
) -> Principal:
    """Dependency: caller, or holder of a ticket for the path's job."""
    return await _admitted(request, scopes, ticket, request.path_params["job_id"])


async def check_host(request: Request) -> None:
    auth: Auth = request.app.state.auth
    auth.check_host(request.headers)


CanRead = Annotated[Principal, Security(caller, scopes=["speech:transcriptions:read"])]
CanReadJob = Annotated[Principal, Security(reader, scopes=["speech:transcriptions:read"])]
CanWrite = Annotated[Principal, Security(caller, scopes=["speech:transcriptions:write"])]
CanUpload = Annotated[Principal, Security(caller, scopes=["speech:files:write", "speech:transcriptions:write"])]
CanDelete = Annotated[Principal, Security(caller, scopes=["speech:transcriptions:delete"])]
HostAllowed = Depends(check_host)

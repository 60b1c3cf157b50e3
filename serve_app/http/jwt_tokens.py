"""JSON Web Tokens in place of keys: who an identity provider says somebody is. Nothing of a token is believed before its
signature, issuer, audience and times have been checked, and its own header chooses no algorithm (RFC 8725)."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import jwt

from serve_app.errors import RequestError
from serve_app.models.principal import NAME, SCOPES, Principal

BY_SECRET = ("HS256", "HS384", "HS512")
BY_KEY = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
REQUIRED = ("exp", "iss", "aud", "sub")
LEEWAY_S = 30.0
KEYS_FOR_S, ASK_AGAIN_S = 600.0, 10.0
"""How long fetched keys are believed, and how soon they may be fetched again for a token whose key is not among them."""
LARGEST_SET = 1 << 20


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Whose tokens are taken: those of `issuer` for `audience`, signed with `secret` or a key of the JWK set at `jwks_url`;
    `tenant_claim` names the tenant."""

    issuer: str
    audience: str
    secret: str = ""
    jwks_url: str = ""
    tenant_claim: str = "tenant"


class JwtVerifier:
    """Verifies tokens; fetches the provider's keys when they are needed."""

    def __init__(self, rules: TokenRules) -> None:
        self._rules = rules
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._asked_at = float("-inf")
        self._trouble: RequestError | None = None
        self._fetching = asyncio.Lock()

    async def principal(self, token: str) -> Principal | None:
        """Who it speaks for; None for one that is not to be believed. EdgeError `unavailable` where the keys that would tell
        cannot be had."""
        try:
            if self._rules.secret:
                return self._read(token, self._rules.secret, BY_SECRET)
            key = await self._key(jwt.get_unverified_header(token).get("kid"))
            if key is None or key.algorithm_name not in BY_KEY:
                return None
            return self._read(token, key.key, (key.algorithm_name,))
        except jwt.PyJWTError:
            return None

    def _read(self, token: str, key: Any, algorithms: Any) -> Principal | None:
        claims = jwt.decode(
            token,
            key,
            algorithms=algorithms,
            issuer=self._rules.issuer,
            audience=self._rules.audience,
            leeway=LEEWAY_S,
            options={"require": list(REQUIRED)},
        )
        tenant = claims.get(self._rules.tenant_claim, "default")
        if not isinstance(tenant, str) or not NAME.fullmatch(tenant):
            return None
        return Principal(owner_of(claims["sub"]), tenant, frozenset(scopes_of(claims)))

    async def _key(self, kid: str | None) -> jwt.PyJWK | None:
        """The key of this id. Whoever sends an unknown one keeps nobody waiting whose key is known, and an issuer that
        cannot be reached is not asked again at once."""
        if kid in self._keys and time.monotonic() - self._fetched_at < KEYS_FOR_S:
            return self._keys[kid]
        async with self._fetching:
            now = time.monotonic()
            due = now - self._fetched_at > (KEYS_FOR_S if kid in self._keys else ASK_AGAIN_S)
            if due and now - self._asked_at > ASK_AGAIN_S:
                self._asked_at = now
                try:
                    self._keys, self._trouble = await self._fetch(), None
                    self._fetched_at = time.monotonic()
                except RequestError as error:
                    self._trouble = error
        if kid not in self._keys and self._trouble:
            raise self._trouble
        return self._keys.get(kid)

    async def _fetch(self) -> dict[str | None, jwt.PyJWK]:
        try:
            async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
                answer = await client.get(self._rules.jwks_url)
                answer.raise_for_status()
            if len(answer.content) > LARGEST_SET:
                raise ValueError("too large")
            return {key.key_id: key for key in jwt.PyJWKSet.from_json(answer.text).keys}
        except (httpx.HTTPError, jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
            message = "The keys that tokens are signed with cannot be fetched right now: try again."
            raise RequestError("unavailable", message) from error


def owner_of(subject: str) -> str:
    """A token's subject as an owner: providers put in it what no name of ours may have."""
    owner = f"jwt.{subject}"
    digest = hashlib.sha256(subject.encode(errors="surrogatepass")).hexdigest()
    return owner if NAME.fullmatch(owner) else f"jwt-{digest[:48]}"


def scopes_of(claims: Mapping[str, Any]) -> list[str]:
    """The scopes of ours that a token names, wherever its provider writes them."""
    found = next((claims[name] for name in ("scope", "scopes", "scp") if name in claims), ())
    words = found.split() if isinstance(found, str) else found if isinstance(found, list) else ()
    return [word for word in words if word in SCOPES]

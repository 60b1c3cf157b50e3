"""Verification of JSON Web Tokens from an identity provider. The token's own header chooses no algorithm (RFC 8725)."""

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

SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")
KEY_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
REQUIRED_CLAIMS = ("exp", "iss", "aud", "sub")
LEEWAY_S = 30.0
KEYS_TTL_S = 600.0
FETCH_COOLDOWN_S = 10.0  # between two fetches of the keys, whether the first one succeeded or failed
FETCH_TIMEOUT_S = 5.0
MAX_KEY_SET_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Tokens to accept; signed with either `secret` or a key of the set at `jwks_url`."""

    issuer: str
    audience: str
    secret: str = ""
    jwks_url: str = ""
    tenant_claim: str = "tenant"


class JwtVerifier:
    def __init__(self, rules: TokenRules) -> None:
        self._rules = rules
        self._keys = None if rules.secret else IssuerKeys(rules.jwks_url)

    async def principal(self, token: str) -> Principal | None:
        """Principal of a token; None if invalid. Raises RequestError `unavailable` if keys cannot be fetched."""
        try:
            if self._keys is None:
                return self._verify(token, self._rules.secret, SECRET_ALGORITHMS)
            key = await self._keys.find(jwt.get_unverified_header(token).get("kid"))
            if key is None or key.algorithm_name not in KEY_ALGORITHMS:
                return None
            return self._verify(token, key.key, (key.algorithm_name,))
        except jwt.PyJWKClientError as error:
            message = "The keys that tokens are signed with cannot be fetched right now: try again."
            raise RequestError("unavailable", message) from error
        except jwt.PyJWTError:
            return None

    def _verify(self, token: str, key: Any, algorithms: Any) -> Principal | None:
        claims = jwt.decode(
            token,
            key,
            algorithms=algorithms,
            issuer=self._rules.issuer,
            audience=self._rules.audience,
            leeway=LEEWAY_S,
            options={"require": list(REQUIRED_CLAIMS)},
        )
        tenant = claims.get(self._rules.tenant_claim, "default")
        if not isinstance(tenant, str) or not NAME.fullmatch(tenant):
            return None
        return Principal(owner_of(claims["sub"]), tenant, frozenset(scopes_of(claims)))


class IssuerKeys(jwt.PyJWKClient):
    """Cached JWK set. Unknown key ids cause one fetch per cooldown and never block known ones."""

    def __init__(self, url: str) -> None:
        super().__init__(url, lifespan=KEYS_TTL_S, timeout=FETCH_TIMEOUT_S)
        self._last: jwt.PyJWKSet | None = None
        self._failure: jwt.PyJWKClientConnectionError | None = None
        self._next_fetch = 0.0
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """Find a key by id. Raises PyJWKClientError."""
        fresh = self.jwk_set_cache.get() if self.jwk_set_cache else None
        if key := _match(fresh, key_id):
            return key
        async with self._fetching:
            try:
                return _match(await asyncio.to_thread(self.get_jwk_set, refresh=True), key_id)
            except jwt.PyJWKClientError:
                # Known keys stay valid while the issuer cannot be reached.
                if key := _match(self._last, key_id):
                    return key
                raise

    def fetch_data(self) -> jwt.PyJWKSet:
        """Fetch at most once per cooldown. Raises PyJWKClientConnectionError."""
        # Replaces the base class's version, which uses proxies of the environment, reads without a limit and does not
        # back off after a failure.
        if time.monotonic() >= self._next_fetch:
            self._next_fetch = time.monotonic() + FETCH_COOLDOWN_S
            try:
                self._last, self._failure = jwt.PyJWKSet.from_json(_download(self.uri, self.timeout)), None
            except (httpx.HTTPError, jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
                self._failure = jwt.PyJWKClientConnectionError(f"{self.uri}: {error}")
        if self._failure or self._last is None:
            raise self._failure or jwt.PyJWKClientConnectionError("no keys yet")
        return self._last


def _match(keys: jwt.PyJWKSet | None, key_id: str | None) -> jwt.PyJWK | None:
    return next((key for key in keys or () if key.key_id == key_id), None)


def _download(url: str, timeout_s: float) -> str:
    body = bytearray()
    with httpx.stream("GET", url, timeout=timeout_s, trust_env=False) as response:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_KEY_SET_BYTES:
                raise ValueError(f"more than {MAX_KEY_SET_BYTES} bytes")
    return body.decode()


def owner_of(subject: str) -> str:
    """Owner name for a subject; a hash where it is no valid name."""
    owner = f"jwt.{subject}"
    digest = hashlib.sha256(subject.encode(errors="surrogatepass")).hexdigest()
    return owner if NAME.fullmatch(owner) else f"jwt-{digest[:48]}"


def scopes_of(claims: Mapping[str, Any]) -> list[str]:
    """Known scopes in `scope`, `scopes` or `scp`, a string or a list."""
    value = next((claims[name] for name in ("scope", "scopes", "scp") if name in claims), ())
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
    return [word for word in words if word in SCOPES]

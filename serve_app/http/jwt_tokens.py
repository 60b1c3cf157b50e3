"""Verification of JSON Web Tokens from an identity provider. The token's own header chooses no algorithm (RFC 8725)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from serve_app.errors import RequestError
from serve_app.http.issuer_keys import IssuerKeys, IssuerUnreachable
from serve_app.models.principal import NAME, SCOPES, SUBJECT_PREFIX, Principal, name_fault

SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")
REQUIRED_CLAIMS = ("exp", "iss", "aud", "sub")
LEEWAY_S = 30.0
# Types of access tokens (RFC 9068), and of tokens whose issuer says nothing. Others are for other purposes (RFC 8725, 3.11).
TYPES = (None, "jwt", "at+jwt", "application/at+jwt", "application/jwt")
# Claims of ID tokens (OpenID Connect Core). Old versions of Keycloak have a nonce in access tokens too, and say so in `typ`.
ID_CLAIMS = ("nonce", "at_hash", "c_hash", "s_hash")
OTHER_KINDS = ("id", "refresh", "offline", "logout")


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Tokens to accept; signed with either `secret` or a key of the set at `jwks_url`."""

    issuer: str
    audience: str
    secret: str = ""
    jwks_url: str = ""
    tenant_claim: str = "tenant"
    tenant_required: bool = False
    max_stale_s: float = 86_400.0  # how long known keys are used while the issuer cannot be reached


class JwtVerifier:
    def __init__(self, rules: TokenRules) -> None:
        self._rules = rules
        self._keys = None if rules.secret else IssuerKeys(rules.jwks_url, rules.max_stale_s)
        self._secret_algorithms = algorithms_of(rules.secret)

    async def principal(self, token: str) -> Principal | None:
        """Principal of a token; None if invalid. Raises RequestError `unavailable`, or `forbidden` for its tenant."""
        try:
            header = jwt.get_unverified_header(token)
            if _lower(header.get("typ")) not in TYPES:
                return None
            if self._keys is None:
                return self._verify(token, header, self._rules.secret, self._secret_algorithms)
            key = await self._keys.find(header.get("kid"), header.get("alg"))
            return self._verify(token, header, key.key, key.algorithms) if key else None
        except IssuerUnreachable as error:
            message = "The keys that tokens are signed with cannot be fetched right now: try again."
            raise RequestError("unavailable", message) from error
        except (jwt.PyJWTError, OverflowError):
            return None

    def _verify(self, token: str, header: Mapping[str, Any], key: Any, algorithms: Sequence[str]) -> Principal | None:
        claims = jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            issuer=self._rules.issuer,
            audience=self._rules.audience,
            leeway=LEEWAY_S,
            options={"require": list(REQUIRED_CLAIMS)},
        )
        if not is_access_token(header, claims):
            return None
        expires_at = float(claims["exp"]) + LEEWAY_S
        return Principal(owner_of(claims["sub"]), self._tenant(claims), frozenset(scopes_of(claims)), "", expires_at)

    def _tenant(self, claims: Mapping[str, Any]) -> str:
        name = self._rules.tenant_claim
        if name not in claims:
            if self._rules.tenant_required:
                raise RequestError("forbidden", f"The token has no claim {name!r}, which names the tenant.")
            return "default"
        tenant = claims[name]
        if fault := name_fault(tenant) if isinstance(tenant, str) else "it must be a string":
            raise RequestError("forbidden", f"The tenant in the token's claim {name!r} is refused: {fault}.")
        return str(tenant)


def is_access_token(header: Mapping[str, Any], claims: Mapping[str, Any]) -> bool:
    """False for a token that is recognizably an ID token or another that is not for APIs."""
    if str(_lower(header.get("typ"))).endswith("at+jwt"):
        return True
    if claims.get("token_use", "access") != "access":  # Cognito
        return False
    if (kind := claims.get("typ")) is not None:  # Keycloak
        return _lower(kind) not in OTHER_KINDS
    return not any(name in claims for name in ID_CLAIMS)


def algorithms_of(secret: str) -> tuple[str, ...]:
    """Algorithms for which a secret is long enough (RFC 7518, 3.2)."""
    return tuple(name for name in SECRET_ALGORITHMS if 8 * len(secret.encode()) >= int(name[2:]))


def owner_of(subject: str) -> str:
    """Owner name for a subject; a hash where it is no valid name."""
    owner = f"{SUBJECT_PREFIX}{subject}"
    digest = hashlib.sha256(subject.encode(errors="surrogatepass")).hexdigest()
    return owner if NAME.fullmatch(owner) else f"jwt-{digest[:48]}"


def scopes_of(claims: Mapping[str, Any]) -> list[str]:
    """Known scopes in `scope`, `scopes` or `scp`, a string or a list."""
    value = next((claims[name] for name in ("scope", "scopes", "scp") if name in claims), ())
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
    return [word for word in words if word in SCOPES]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value

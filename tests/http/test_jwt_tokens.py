"""JSON Web Tokens: which are believed, and what they say."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from serve_app.errors import RequestError
from serve_app.http.jwt_tokens import JwtVerifier, TokenRules
from serve_app.settings import Settings
from tests.lib.web_server import WebServer, answer, serving

SECRET = "a secret that is long enough for any of the three hashes, so that no one warns of it"
ISSUER, AUDIENCE = "https://id.example", "murmur"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def claims(**changed: Any) -> dict[str, Any]:
    """Good ones, unless changed; None takes one out."""
    now = time.time()
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 60, "iat": now, "tenant": "acme"}
    return {name: value for name, value in (good | {"scope": "speech:transcriptions:read other"} | changed).items() if value}


def signed(algorithm: str = "HS256", key: Any = SECRET, headers: dict[str, Any] | None = None, **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm, headers)


def forged(key: bytes, kid: str) -> str:
    """Signed by HMAC with whatever one likes, which the library itself would refuse to do."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT", "kid": kid}, claims())]
    head = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    digest = hmac.new(key, head, hashlib.sha256).digest()
    return (head + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


@pytest.fixture
def tokens() -> JwtVerifier:
    return JwtVerifier(TokenRules(ISSUER, AUDIENCE, secret=SECRET))


async def test_a_token_says_who_asks_and_what_they_may(tokens: JwtVerifier) -> None:
    who = await tokens.principal(signed())
    assert who
    assert (who.owner, who.tenant, set(who.scopes)) == ("jwt.alice", "acme", {"speech:transcriptions:read"})


@pytest.mark.parametrize(
    "scopes",
    [
        {"scope": "speech:files:read admin"},
        {"scope": None, "scopes": ["speech:files:read", "admin", 7]},
        {"scope": None, "scp": "admin speech:files:read"},
    ],
)
async def test_scopes_may_be_written_in_several_ways(tokens: JwtVerifier, scopes: dict[str, Any]) -> None:
    who = await tokens.principal(signed(**scopes))
    assert who
    assert who.scopes == {"speech:files:read", "admin"}


async def test_without_a_tenant_it_is_the_default_and_subjects_are_made_fit(tokens: JwtVerifier) -> None:
    who = await tokens.principal(signed(tenant=None, sub="auth0|../é/" + "x" * 300))
    assert who
    assert who.tenant == "default"
    assert who.owner.startswith("jwt-"), "a subject that is such a name itself is another's"
    assert len(who.owner) == 52
    other = await tokens.principal(signed(tenant=None, sub="auth0|../é/"))
    assert other
    assert other.owner != who.owner


WRONG: list[dict[str, Any]] = [
    {"iss": "https://other.example"},
    {"aud": "other"},
    {"exp": 1_600_000_000},
    {"nbf": 4_000_000_000},
    {"iss": None},
    {"aud": None},
    {"exp": None},
    {"sub": None},
    {"tenant": "a/b"},
    {"tenant": ["acme"]},
    {"key": "another secret that is long enough for any of the three hashes, so that no one warns"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
async def test_a_token_with_anything_wrong_is_not_believed(tokens: JwtVerifier, wrong: dict[str, Any]) -> None:
    assert await tokens.principal(signed(**wrong)) is None


@pytest.mark.parametrize("garbage", ["..", "a.b.c", "", "é.é.é", "e30.e30.", "\0.\0.\0"])
async def test_garbage_is_not_believed(tokens: JwtVerifier, garbage: str) -> None:
    assert await tokens.principal(garbage) is None


async def test_a_token_that_nobody_signed_is_not_believed(tokens: JwtVerifier) -> None:
    assert await tokens.principal(jwt.encode(claims(), "", "none")) is None


@pytest.fixture
async def site() -> AsyncIterator[WebServer]:
    async with serving() as site:
        publish(site, {"kid": "one", "alg": "RS256", **json.loads(RSAAlgorithm.to_jwk(RSA.public_key()))})
        yield site


def publish(site: WebServer, *keys: dict[str, Any]) -> None:
    site.replies["/jwks"] = answer(200, json.dumps({"keys": keys}).encode())


def by_keys(site: WebServer) -> JwtVerifier:
    return JwtVerifier(TokenRules(ISSUER, AUDIENCE, jwks_url=site.url("/jwks")))


async def test_the_issuers_keys_are_fetched_once(site: WebServer) -> None:
    tokens = by_keys(site)
    for _ in range(3):
        assert await tokens.principal(signed("RS256", RSA, {"kid": "one"}))
    # A token of an unknown key has them fetched again, but not for every such token.
    for _ in range(3):
        assert await tokens.principal(signed("RS256", RSA, {"kid": "two"})) is None
    assert site.paths == ["/jwks"]


async def test_a_key_of_another_kind_signs_too(site: WebServer) -> None:
    publish(site, {"kid": "e", "alg": "ES256", **json.loads(ECAlgorithm.to_jwk(EC.public_key()))})
    assert await by_keys(site).principal(signed("ES256", EC, {"kid": "e"}))


async def test_a_public_key_is_no_secret(site: WebServer) -> None:
    """The oldest trick: sign by HMAC with what everybody knows, and say so in the header."""
    public = RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert await by_keys(site).principal(forged(public, "one")) is None


async def test_a_secret_in_a_set_of_public_keys_signs_nothing(site: WebServer) -> None:
    publish(site, {"kid": "s", "kty": "oct", "alg": "HS256", "k": "c2VjcmV0IHRoYXQgZXZlcnlib2R5IGtub3dz"})
    assert await by_keys(site).principal(forged(b"secret that everybody knows", "s")) is None


async def test_known_keys_are_good_while_the_issuer_is_away(site: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = by_keys(site)
    good = signed("RS256", RSA, {"kid": "one"})
    assert await tokens.principal(good)
    monkeypatch.setattr("serve_app.http.jwt_tokens.KEYS_FOR_S", 0.0)
    monkeypatch.setattr("serve_app.http.jwt_tokens.ASK_AGAIN_S", 0.0)
    site.replies["/jwks"] = answer(503)
    assert await tokens.principal(good)
    with pytest.raises(RequestError):
        await tokens.principal(signed("RS256", RSA, {"kid": "two"}))
    assert await tokens.principal(good)
    assert len(site.paths) > 2


async def test_an_issuer_that_is_away_is_not_asked_for_every_token(site: WebServer) -> None:
    site.replies["/jwks"] = answer(503)
    tokens = by_keys(site)
    for kid in ("a", "b", "c"):
        with pytest.raises(RequestError):
            await tokens.principal(signed("RS256", RSA, {"kid": kid}))
    assert len(site.paths) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"no json", b'{"keys": [{}]}'])
async def test_keys_that_cannot_be_had_are_our_trouble_and_no_verdict(site: WebServer, body: bytes) -> None:
    site.replies["/jwks"] = answer(200, body)
    with pytest.raises(RequestError) as caught:
        await by_keys(site).principal(signed("RS256", RSA, {"kid": "one"}))
    assert caught.value.code == "unavailable"


@pytest.mark.parametrize(
    "given",
    [
        {"jwt_issuer": ISSUER},
        {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE},
        {"jwt_issuer": ISSUER, "jwt_secret": SECRET},
        {"jwt_secret": SECRET},
        {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_secret": SECRET, "jwt_jwks_url": "https://id.example/keys"},
    ],
    ids=str,
)
def test_settings_for_tokens_are_whole_or_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="tokens need"):
        Settings(**given)


def test_with_an_issuer_nobody_is_answered_without_a_key_or_token() -> None:
    given: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_secret": SECRET}
    settings = Settings(**given)
    assert settings.keyed
    assert SECRET not in repr(settings)

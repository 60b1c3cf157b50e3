"""JSON Web Tokens: which are accepted, and the principal that they name."""

from __future__ import annotations

import asyncio
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
    """Valid claims, with changes; None removes one."""
    now = time.time()
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 60, "iat": now, "tenant": "acme"}
    return {name: value for name, value in (good | {"scope": "speech:transcriptions:read other"} | changed).items() if value}


def signed(algorithm: str = "HS256", key: Any = SECRET, headers: dict[str, Any] | None = None, **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm, headers)


def forged(key: bytes, kid: str) -> str:
    """Token signed by HMAC with any key; the library refuses to create such a one."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT", "kid": kid}, claims())]
    head = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    digest = hmac.new(key, head, hashlib.sha256).digest()
    return (head + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


@pytest.fixture
def tokens() -> JwtVerifier:
    return JwtVerifier(TokenRules(ISSUER, AUDIENCE, secret=SECRET))


async def test_a_token_names_its_owner_tenant_and_scopes(tokens: JwtVerifier) -> None:
    principal = await tokens.principal(signed())
    assert principal
    assert (principal.owner, principal.tenant, set(principal.scopes)) == (
        "jwt.alice",
        "acme",
        {"speech:transcriptions:read"},
    )


@pytest.mark.parametrize(
    "scopes",
    [
        {"scope": "speech:files:read admin"},
        {"scope": None, "scopes": ["speech:files:read", "admin", 7]},
        {"scope": None, "scp": "admin speech:files:read"},
    ],
)
async def test_scopes_may_be_written_in_several_ways(tokens: JwtVerifier, scopes: dict[str, Any]) -> None:
    principal = await tokens.principal(signed(**scopes))
    assert principal
    assert principal.scopes == {"speech:files:read", "admin"}


async def test_without_a_tenant_it_is_the_default_and_an_invalid_subject_is_hashed(tokens: JwtVerifier) -> None:
    principal = await tokens.principal(signed(tenant=None, sub="auth0|../é/" + "x" * 300))
    assert principal
    assert principal.tenant == "default"
    assert principal.owner.startswith("jwt-"), "a subject of this form gets another owner"
    assert len(principal.owner) == 52
    other = await tokens.principal(signed(tenant=None, sub="auth0|../é/"))
    assert other
    assert other.owner != principal.owner


WRONG: list[dict[str, Any]] = [
    {"iss": "https://other.example"},
    {"aud": "other"},
    {"exp": 1_600_000_000},
    {"nbf": 4_000_000_000},
    {"iss": None},
    {"aud": None},
    {"exp": None},
    {"sub": None},
    {"key": "another secret that is long enough for any of the three hashes, so that no one warns"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
async def test_a_token_with_anything_wrong_is_refused(tokens: JwtVerifier, wrong: dict[str, Any]) -> None:
    assert await tokens.principal(signed(**wrong)) is None


@pytest.mark.parametrize("garbage", ["..", "a.b.c", "", "é.é.é", "e30.e30.", "\0.\0.\0"])
async def test_garbage_is_refused(tokens: JwtVerifier, garbage: str) -> None:
    assert await tokens.principal(garbage) is None


async def test_an_unsigned_token_is_refused(tokens: JwtVerifier) -> None:
    assert await tokens.principal(jwt.encode(claims(), "", "none")) is None


@pytest.fixture
async def site() -> AsyncIterator[WebServer]:
    async with serving() as site:
        publish(site, {"kid": "one", "alg": "RS256", **json.loads(RSAAlgorithm.to_jwk(RSA.public_key()))})
        yield site


def publish(site: WebServer, *keys: dict[str, Any]) -> None:
    site.replies["/jwks"] = answer(200, json.dumps({"keys": keys}).encode())


def with_issuer(site: WebServer) -> JwtVerifier:
    return JwtVerifier(TokenRules(ISSUER, AUDIENCE, jwks_url=site.url("/jwks")))


async def test_the_issuers_keys_are_fetched_once(site: WebServer) -> None:
    tokens = with_issuer(site)
    for _ in range(3):
        assert await tokens.principal(signed("RS256", RSA, {"kid": "one"}))
    # An unknown key id causes another fetch, but only after a cooldown.
    for _ in range(3):
        assert await tokens.principal(signed("RS256", RSA, {"kid": "two"})) is None
    assert site.paths == ["/jwks"]


async def test_an_elliptic_curve_key_is_accepted(site: WebServer) -> None:
    publish(site, {"kid": "e", "alg": "ES256", **json.loads(ECAlgorithm.to_jwk(EC.public_key()))})
    assert await with_issuer(site).principal(signed("ES256", EC, {"kid": "e"}))


async def test_a_public_key_does_not_work_as_a_shared_secret(site: WebServer) -> None:
    """Algorithm confusion (RFC 8725, 2.1): sign by HMAC with the public key and name HS256 in the header."""
    public = RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert await with_issuer(site).principal(forged(public, "one")) is None


async def test_a_symmetric_key_in_a_jwk_set_is_refused(site: WebServer) -> None:
    publish(site, {"kid": "s", "kty": "oct", "alg": "HS256", "k": "c2VjcmV0IHRoYXQgZXZlcnlib2R5IGtub3dz"})
    assert await with_issuer(site).principal(forged(b"secret that everybody knows", "s")) is None


async def test_known_keys_stay_valid_while_the_issuer_is_unreachable(
    site: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.http.issuer_keys.KEYS_TTL_S", 1e-9)
    monkeypatch.setattr("serve_app.http.issuer_keys.FETCH_COOLDOWN_S", 0.0)
    tokens = with_issuer(site)
    good = signed("RS256", RSA, {"kid": "one"})
    assert await tokens.principal(good)
    site.replies["/jwks"] = answer(503)
    assert await tokens.principal(good)
    with pytest.raises(RequestError):
        await tokens.principal(signed("RS256", RSA, {"kid": "two"}))
    assert await tokens.principal(good)
    assert len(site.paths) > 2


async def test_an_unreachable_issuer_is_not_queried_for_every_token(site: WebServer) -> None:
    site.replies["/jwks"] = answer(503)
    tokens = with_issuer(site)
    for kid in ("a", "b", "c"):
        with pytest.raises(RequestError):
            await tokens.principal(signed("RS256", RSA, {"kid": kid}))
    assert len(site.paths) == 1


async def test_an_unknown_key_id_does_not_block_tokens_of_known_keys(
    site: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.http.issuer_keys.FETCH_COOLDOWN_S", 0.0)
    monkeypatch.setattr("serve_app.http.issuer_keys.FETCH_TIMEOUT_S", 0.5)
    tokens = with_issuer(site)
    good = signed("RS256", RSA, {"kid": "one"})
    assert await tokens.principal(good)
    monkeypatch.setattr(tokens._keys, "url", site.url("/silent"))
    unknown = asyncio.create_task(tokens.principal(signed("RS256", RSA, {"kid": "two"})))
    while "/silent" not in site.paths:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert await tokens.principal(good)
    assert not unknown.done()
    with pytest.raises(RequestError):
        await unknown


async def test_proxies_of_the_environment_are_not_used(site: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert await with_issuer(site).principal(signed("RS256", RSA, {"kid": "one"}))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"no json", b'{"keys": [{}]}', b" " * (1 << 20) + b'{"keys": []}', b"\xff"]
)
async def test_keys_that_cannot_be_fetched_make_the_service_unavailable(site: WebServer, body: bytes) -> None:
    site.replies["/jwks"] = answer(200, body)
    with pytest.raises(RequestError) as caught:
        await with_issuer(site).principal(signed("RS256", RSA, {"kid": "one"}))
    assert caught.value.code == "unavailable"


@pytest.mark.parametrize(
    "values",
    [
        {"jwt_issuer": ISSUER},
        {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE},
        {"jwt_issuer": ISSUER, "jwt_secret": SECRET},
        {"jwt_secret": SECRET},
        {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_secret": SECRET, "jwt_jwks_url": "https://id.example/keys"},
    ],
    ids=str,
)
def test_incomplete_token_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="tokens need"):
        Settings(**values)


def test_a_jwk_set_is_fetched_over_http_only() -> None:
    values: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks_url": "file:///etc/keys"}
    with pytest.raises(ValidationError, match="https"):
        Settings(**values)


def test_an_issuer_makes_a_key_or_token_required() -> None:
    values: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_secret": SECRET}
    settings = Settings(**values)
    assert settings.keyed
    assert SECRET not in repr(settings)


@pytest.mark.parametrize("secret", ["x", "x" * 31, "é" * 15])
def test_a_short_secret_is_refused(secret: str) -> None:
    values: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_secret": secret}
    with pytest.raises(ValidationError, match="32 bytes"):
        Settings(**values)


async def test_a_secret_signs_only_with_hashes_that_are_not_longer() -> None:
    secret = "thirty-two bytes are for SHA-256"
    tokens = JwtVerifier(TokenRules(ISSUER, AUDIENCE, secret=secret))
    assert await tokens.principal(signed(key=secret))
    for algorithm in ("HS384", "HS512"):
        with pytest.warns(jwt.InsecureKeyLengthWarning):
            token = signed(algorithm, secret)
        assert await tokens.principal(token) is None


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("https://id.example/keys", True),
        ("http://127.0.0.1:9/keys", True),
        ("http://localhost/keys", True),
        ("http://[::1]/keys", True),
        ("http://id.example/keys", False),
        ("http://127.0.0.1.id.example/keys", False),
        ("https://", False),
    ],
)
def test_keys_are_fetched_over_https_or_from_this_machine(url: str, accepted: bool) -> None:
    values: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks_url": url}
    if accepted:
        assert Settings(**values).jwt_jwks_url == url
    else:
        with pytest.raises(ValidationError, match="https"):
            Settings(**values)


@pytest.mark.parametrize("tenant", ["a/b", ["acme"], "..", "anonymous", "jwt.x", 7])
async def test_a_refused_tenant_is_named(tokens: JwtVerifier, tenant: object) -> None:
    with pytest.raises(RequestError, match="tenant") as refused:
        await tokens.principal(signed(tenant=tenant))
    assert refused.value.code == "forbidden"


async def test_the_claim_of_the_tenant_may_be_required() -> None:
    tokens = JwtVerifier(TokenRules(ISSUER, AUDIENCE, secret=SECRET, tenant_required=True))
    assert await tokens.principal(signed())
    with pytest.raises(RequestError, match="no claim 'tenant'"):
        await tokens.principal(signed(tenant=None))


@pytest.mark.parametrize("subject", ["..", "anonymous", "jwt.x", "x"])
async def test_a_subject_cannot_name_another_kind_of_owner(tokens: JwtVerifier, subject: str) -> None:
    principal = await tokens.principal(signed(sub=subject))
    assert principal
    assert principal.owner == f"jwt.{subject}"


async def test_the_end_of_a_token_is_that_of_its_streams(tokens: JwtVerifier) -> None:
    principal = await tokens.principal(signed(exp=int(time.time()) + 60))
    assert principal
    assert principal.expires_at
    assert principal.expires_at - time.time() == pytest.approx(90, abs=5), "with the leeway for clocks"


@pytest.mark.parametrize(
    ("kind", "changed", "accepted"),
    [
        (None, {}, True),
        ("JWT", {}, True),
        ("at+jwt", {}, True),
        ("application/at+jwt", {"nonce": "n"}, True),
        ("logout+jwt", {}, False),
        ("dpop+jwt", {}, False),
        ("JWT", {"nonce": "n"}, False),
        ("JWT", {"at_hash": "h"}, False),
        ("JWT", {"typ": "ID"}, False),
        ("JWT", {"typ": "Refresh"}, False),
        ("JWT", {"typ": "Bearer", "nonce": "n"}, True),
        ("JWT", {"token_use": "id"}, False),
        ("JWT", {"token_use": "access"}, True),
    ],
    ids=str,
)
async def test_id_tokens_and_others_for_another_purpose_are_refused(
    tokens: JwtVerifier, kind: str | None, changed: dict[str, Any], accepted: bool
) -> None:
    principal = await tokens.principal(signed(headers={"typ": kind}, **changed))
    assert (principal is not None) is accepted


def public_jwk(key: Any, **fields: Any) -> dict[str, Any]:
    """JWK of a private key's public part."""
    convert = RSAAlgorithm.to_jwk if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm.to_jwk
    jwk = {name: value for name, value in json.loads(convert(key.public_key())).items() if name != "key_ops"}
    return {**jwk, **fields}


async def test_a_token_without_a_key_id_is_accepted_if_one_key_fits(site: WebServer) -> None:
    publish(site, public_jwk(RSA, kid="one", alg="RS256"), public_jwk(EC, kid="two", alg="ES256"))
    tokens = with_issuer(site)
    assert await tokens.principal(signed("RS256", RSA))
    assert await tokens.principal(signed("ES256", EC))
    publish(site, public_jwk(RSA, kid="one", alg="RS256"), public_jwk(RSA, kid="other", alg="RS256"))
    assert await with_issuer(site).principal(signed("RS256", RSA)) is None


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256"])
async def test_a_key_without_an_algorithm_fits_those_of_its_type(site: WebServer, algorithm: str) -> None:
    publish(site, public_jwk(RSA, kid="one"), public_jwk(EC, kid="two"))
    tokens = with_issuer(site)
    assert await tokens.principal(signed(algorithm, RSA, {"kid": "one"}))
    assert await tokens.principal(signed("ES256", EC, {"kid": "two"}))
    assert await tokens.principal(signed(algorithm, RSA, {"kid": "two"})) is None


@pytest.mark.parametrize("fields", [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "RSA-OAEP"}, {"alg": "RS384"}])
async def test_a_key_for_something_else_verifies_nothing(site: WebServer, fields: dict[str, Any]) -> None:
    publish(site, public_jwk(RSA, kid="one", **fields), public_jwk(EC, kid="two"))
    assert await with_issuer(site).principal(signed("RS256", RSA, {"kid": "one"})) is None


async def test_a_withdrawn_key_is_believed_as_long_as_the_cache_and_no_longer(
    site: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = with_issuer(site)
    good = signed("RS256", RSA, {"kid": "one"})
    assert await tokens.principal(good)
    publish(site)  # no key at all is an answer too
    assert await tokens.principal(good)
    monkeypatch.setattr("serve_app.http.issuer_keys.KEYS_TTL_S", 0.0)
    monkeypatch.setattr("serve_app.http.issuer_keys.FETCH_COOLDOWN_S", 0.0)
    tokens._keys._next_fetch = 0.0  # type: ignore[union-attr]
    assert await tokens.principal(good) is None
    site.replies["/jwks"] = answer(503)
    with pytest.raises(RequestError):
        await tokens.principal(good)


async def test_known_keys_are_not_believed_for_ever_while_the_issuer_is_unreachable(
    site: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.http.issuer_keys.KEYS_TTL_S", 1e-9)
    monkeypatch.setattr("serve_app.http.issuer_keys.FETCH_COOLDOWN_S", 0.0)
    tokens = JwtVerifier(TokenRules(ISSUER, AUDIENCE, jwks_url=site.url("/jwks"), max_stale_s=0.5))
    good = signed("RS256", RSA, {"kid": "one"})
    assert await tokens.principal(good)
    site.replies["/jwks"] = answer(503)
    assert await tokens.principal(good)
    tokens._keys._fetched_at -= 0.5  # type: ignore[union-attr]
    with pytest.raises(RequestError) as refused:
        await tokens.principal(good)
    assert refused.value.code == "unavailable"

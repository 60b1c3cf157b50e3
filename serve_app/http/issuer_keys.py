"""Signing keys of a token issuer: its JWK set, fetched when needed and cached."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import httpx
import jwt

KEYS_TTL_S = 600.0
FETCH_COOLDOWN_S = 10.0  # between two fetches of the keys, whether the first one succeeded or failed
FETCH_TIMEOUT_S = 5.0
MAX_KEY_SET_BYTES = 1 << 20
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
# By `kty`, and `crv` where there is one.
ALGORITHMS = {
    ("RSA", None): RSA_ALGORITHMS,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


class IssuerUnreachable(Exception):
    """The keys cannot be fetched, and none known is recent enough."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Key with the algorithms that it fits."""

    id: str | None
    key: Any
    algorithms: Sequence[str]


class IssuerKeys:
    """Unknown key ids cause one fetch per cooldown and never block known ones."""

    def __init__(self, url: str, max_stale_s: float) -> None:
        self.url = url
        self._max_stale_s = max_stale_s
        self._keys: Sequence[SigningKey] = ()
        self._fetched_at = -inf
        self._next_fetch = 0.0
        self._failure = ""
        self._fetching = asyncio.Lock()

    async def find(self, key_id: Any, algorithm: Any) -> SigningKey | None:
        """Key of an id; without one, the only key that `algorithm` fits. Raises IssuerUnreachable."""
        if self._age_s() < KEYS_TTL_S and (key := self._match(key_id, algorithm)):
            return key
        async with self._fetching:
            if time.monotonic() >= self._next_fetch:
                await asyncio.to_thread(self._fetch)
        if not self._failure:
            return self._match(key_id, algorithm)
        # Known keys stay valid for a while when the issuer cannot be reached.
        if self._age_s() < self._max_stale_s and (key := self._match(key_id, algorithm)):
            return key
        raise IssuerUnreachable(self._failure)

    def _age_s(self) -> float:
        return time.monotonic() - self._fetched_at

    def _match(self, key_id: Any, algorithm: Any) -> SigningKey | None:
        if key_id is not None:
            return next((key for key in self._keys if key.id == key_id), None)
        fitting = [key for key in self._keys if algorithm in key.algorithms]
        return fitting[0] if len(fitting) == 1 else None

    def _fetch(self) -> None:
        self._next_fetch = time.monotonic() + FETCH_COOLDOWN_S
        try:
            self._keys = keys_of(json.loads(_download(self.url)))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            self._failure = f"{self.url}: {error}"
        else:
            self._failure, self._fetched_at = "", time.monotonic()


def keys_of(key_set: Any) -> list[SigningKey]:
    """Usable keys of a JWK set. Raises ValueError."""
    entries = key_set["keys"]
    if entries and not any("kty" in entry for entry in entries):
        raise ValueError("entries without kty")
    return list(_usable(entries))


def _usable(entries: Any) -> Iterator[SigningKey]:
    for entry in entries:
        fitting = ALGORITHMS.get((entry.get("kty"), entry.get("crv")), ())
        algorithms = [name for name in fitting if entry.get("alg") in (None, name)]
        if not algorithms or entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ("verify",)):
            continue
        try:
            yield SigningKey(entry.get("kid"), jwt.PyJWK(entry, algorithms[0]).key, algorithms)
        except jwt.PyJWTError:
            continue  # of a kind that is not known here


def _download(url: str) -> str:
    body = bytearray()
    with httpx.stream("GET", url, timeout=FETCH_TIMEOUT_S, trust_env=False) as response:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_KEY_SET_BYTES:
                raise ValueError(f"more than {MAX_KEY_SET_BYTES} bytes")
    return body.decode()

"""Checks of a Redis of one's own: refusals and warnings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from serve_app.local.preflight import CONNECT_S, StartError, without_password
from serve_app.store.outages import code_of, outage
from serve_app.store.scripts import key

log = logging.getLogger(__name__)

LEAST_VERSION = (6, 2)  # exclusive ranges of streams
LOADING_S = 5.0  # between two looks at a server that loads its data


@dataclass(frozen=True, slots=True)
class RedisReport:
    shown: str  # its URL without the password
    version: str
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def open_redis(url: str) -> Redis:
    """Client without retries. Raises StartError."""
    try:
        return Redis.from_url(url, socket_timeout=CONNECT_S, socket_connect_timeout=CONNECT_S, retry=Retry(NoBackoff(), 0))
    except ValueError:
        # Python's error may quote a part of the password, and so may any part of a URL that is not one.
        advice = "write redis://HOST:PORT/DB, with USER:PASSWORD and an @ before HOST, and special characters in them as %XX"
        raise StartError(f"the Redis URL cannot be read: {advice}") from None


def check_redis(url: str) -> None:
    """Raises StartError if no server replies."""
    with open_redis(url) as client:
        try:
            client.ping()
        except RedisError as error:
            raise StartError(f"no Redis answers at {without_password(url)}: {outage(error) or error}") from None


def service_connected(url: str) -> bool:
    """Whether a running service is connected. Raises StartError if the server does not list connections."""
    with open_redis(url) as client:
        try:
            return any(connection["name"] in ("ingress", "runner") for connection in client.client_list())
        except RedisError as error:
            raise StartError(f"{without_password(url)} does not list its connections: {error}") from None


def check_own_redis(url: str, replicas: int, wait: Callable[[float], bool]) -> None:
    """Raises StartError for a server that loses jobs; waits for one that loads its data until `wait(seconds)` is True."""
    while (report := examine_redis(url, replicas)) is None:
        log.warning("Redis at %s is loading its data, waiting", without_password(url))
        if wait(LOADING_S):
            return
    for warning in report.warnings:
        log.warning("Redis at %s: %s", report.shown, warning)
    if report.refusals:
        raise StartError(f"Redis at {report.shown} is refused: {'; '.join(report.refusals)}")


def examine_redis(url: str, replicas: int) -> RedisReport | None:
    """None while the server loads its data. Raises StartError."""
    shown = without_password(url)
    with open_redis(url) as client:
        try:
            client.ping()
            info = _info(client)
            report = RedisReport(shown, str(info.get("valkey_version") or info.get("redis_version") or "?"))
            _check_server(report, info)
            _check_durability(report, info, _configuration(client), replicas)
            _check_replicas(report, info, replicas)
            _check_write(report, client)
        except RedisError as error:
            if code_of(error) == "LOADING":
                return None
            raise StartError(f"no Redis answers at {shown}: {outage(error) or error}") from None
    return report


def _info(client: Redis) -> Mapping[str, Any]:
    info: Any = {}
    with suppress(ResponseError):  # forbidden: every check then says what it could not see
        info = client.info()
    return info if isinstance(info, Mapping) else {}


def _configuration(client: Redis) -> Mapping[str, str]:
    configuration: Any = {}
    with suppress(ResponseError):  # managed services forbid CONFIG
        configuration = client.config_get("append*")
    return configuration if isinstance(configuration, Mapping) else {}


def _check_server(report: RedisReport, info: Mapping[str, Any]) -> None:
    if version := str(info.get("redis_version", "")):
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
        if numbers < LEAST_VERSION:
            report.refusals.append(f"its version is {version}: at least {'.'.join(map(str, LEAST_VERSION))} is needed")
    if (role := info.get("role", "master")) != "master":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        report.refusals.append(f"it is a replica ({role} of {primary}): name the primary, or a name that leads to it")
    if int(info.get("cluster_enabled", 0)):
        report.refusals.append("it is part of a Redis Cluster, whose redirects are not followed: name a single server")
    if not info:
        report.warnings.append("INFO is forbidden, so version, role, eviction and durability are not checked")


def _check_durability(report: RedisReport, info: Mapping[str, Any], found: Mapping[str, str], replicas: int) -> None:
    policy = info.get("maxmemory_policy")
    if policy not in (None, "noeviction"):
        advice = "CONFIG SET maxmemory-policy noeviction, and in its configuration file"
        report.refusals.append(f"it evicts keys ({policy}), which loses jobs: {advice}")
    elif policy is None and info:
        report.warnings.append("its eviction policy cannot be read: make sure that it is noeviction")
    aof = info.get("aof_enabled")
    if aof is not None and not int(aof):
        lost = "it keeps no append-only file, so a crash loses jobs that were accepted, with snapshots those since the last"
        if replicas:
            report.warnings.append(f"{lost}; only its {replicas} replicas (MURMUR_REDIS_REPLICAS) keep them")
        else:
            report.refusals.append(f"{lost}: CONFIG SET appendonly yes, or wait for replicas (MURMUR_REDIS_REPLICAS)")
        return
    fsync = found.get("appendfsync")
    if aof is None and info:
        report.warnings.append("it cannot be seen whether it keeps an append-only file: make sure that appendonly is yes")
    elif fsync is None:
        report.warnings.append("CONFIG is forbidden: make sure that appendfsync is always")
    elif fsync != "always":
        span = "the last second" if fsync == "everysec" else "the last half minute"
        report.warnings.append(
            f"a power cut loses jobs accepted in {span} (appendfsync {fsync}): CONFIG SET appendfsync always"
        )


def _check_replicas(report: RedisReport, info: Mapping[str, Any], replicas: int) -> None:
    connected = info.get("connected_slaves")
    if connected is None:
        return
    if int(connected) < replicas:
        advice = "start them, or lower MURMUR_REDIS_REPLICAS"
        report.refusals.append(f"{connected} replicas are connected, {replicas} must confirm each job: {advice}")
    elif int(connected) and not replicas:
        report.warnings.append("a failover to a replica may lose the last jobs accepted: set MURMUR_REDIS_REPLICAS=1")


def _check_write(report: RedisReport, client: Redis) -> None:
    try:
        client.set(key("probe"), 1, ex=60)
        client.eval("return redis.call('GET', KEYS[1])", 1, key("probe"))
    except ResponseError as error:
        report.refusals.append(str(outage(error) or f"it refuses a write ({error})"))

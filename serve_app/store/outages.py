"""Errors of Redis as StoreUnavailable, with the remedy."""

from __future__ import annotations

import re

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    InvalidResponse,
    MaxConnectionsError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from serve_app.errors import StoreMisconfigured, StoreUnavailable

# Error codes of servers, and what an operator can do.
AWAY = {
    "OOM": "Redis has no memory left (maxmemory): raise maxmemory, or delete jobs",
    "READONLY": "Redis is a replica and refuses writes: the connections are opened again, to find the primary",
    "UNBLOCKED": "Redis became a replica: the connections are opened again, to find the primary",
    "LOADING": "Redis is loading its data",
    "MISCONF": "Redis refuses writes because it cannot save to its disk (MISCONF): make room there, and see its log",
    "IOERR": "Redis cannot read or write its disk (IOERR): see its log",
    "BUSY": "Redis is busy with a script or a module: if it stays so, see SLOWLOG on the server",
    "CLUSTERDOWN": "the Redis Cluster is down: see CLUSTER INFO",
    "MOVED": "the keys are on another node of a Redis Cluster: name a server that is not part of one",
    "ASK": "the keys move to another node of a Redis Cluster: name a server that is not part of one",
    "REDIRECT": "the server hands over to another one: the connections are opened again, to find the primary",
    "TRYAGAIN": "the Redis Cluster is moving the keys",
    "MASTERDOWN": "Redis is a replica without its primary: the connections are opened again, to find the primary",
    "NOREPLICAS": "Redis has fewer replicas than min-replicas-to-write asks for: start them",
}
MISCONFIGURED = {
    "NOPERM": "the user of the Redis URL lacks a permission: allow it all commands on ~murmur:* and &murmur:* (ACL SETUSER)",
    "NOAUTH": "Redis wants a password: put it into the Redis URL",
    "WRONGPASS": "Redis refuses user name or password of the Redis URL",
    "DENIED": "Redis is in protected mode: give it a password, and put that into the Redis URL",
}
# The server is not, or no longer, the primary: only a new connection finds the one that a name stands for now.
DEMOTED = frozenset({"READONLY", "UNBLOCKED", "MOVED", "ASK", "REDIRECT", "MASTERDOWN", "CLUSTERDOWN"})
# A code begins the reply. Servers before 7 put that of a command in a script behind `: -`, and redis-py that of a command
# in a pipeline behind `: ('`.
CODE = re.compile(rf"(?:^|: |\('|-)({'|'.join((*AWAY, *MISCONFIGURED))})\b")
# Replies without a code of their own.
FULL = "max number of clients"
MANY = "Redis has as many clients as it accepts: raise maxclients"
REFUSED = "Redis refuses the service: see the log"
FORBIDDEN = ("ACL failure in script", "The user executing the script")
FOREIGN = ("unknown command", "DB index is out of range", "SELECT is not allowed")


def code_of(error: RedisError) -> str | None:
    """One of AWAY or MISCONFIGURED."""
    if any(text in str(error) for text in FORBIDDEN):
        return "NOPERM"
    status = getattr(error, "status_code", None)
    if status in AWAY or status in MISCONFIGURED:
        return str(status)
    found = CODE.search(str(error))
    return found[1] if found else None


def outage(error: RedisError) -> StoreUnavailable | None:
    """None for an error that is a fault of the caller."""
    if isinstance(error, RedisConnectionError) and isinstance(error.__cause__, RedisError):
        error = error.__cause__  # redis-py wraps what a server replies to a new connection
    code = code_of(error)
    if code in MISCONFIGURED:
        return StoreMisconfigured(f"{MISCONFIGURED[code]} ({_reply(error)})", REFUSED)
    if isinstance(error, AuthenticationError | AuthorizationError | AuthenticationWrongNumberOfArgsError):
        return StoreMisconfigured(f"{MISCONFIGURED['WRONGPASS']} ({_reply(error)})", REFUSED)
    if code is not None:
        return StoreUnavailable(f"{AWAY[code]} ({_reply(error)})", AWAY[code])
    if isinstance(error, MaxConnectionsError) or FULL in str(error):
        return StoreUnavailable(MANY, MANY)
    if isinstance(error, RedisConnectionError | RedisTimeoutError):
        return StoreUnavailable(_reply(error))
    if isinstance(error, ResponseError) and any(text in str(error) for text in FOREIGN):
        return StoreMisconfigured(f"Redis lacks what the service needs: {_reply(error)}", REFUSED)
    if isinstance(error, InvalidResponse):
        return StoreUnavailable(f"the server does not speak Redis' protocol: {_reply(error)}")
    return None


def _reply(error: RedisError) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__

"""Pairing of a Redis with its storage: both carry one id."""

# No service must work on the half of another: a service deletes what its Redis does not know from the storage, and fails
# jobs whose recordings are not there.

from __future__ import annotations

from typing import Any
from uuid import uuid4

from redis.exceptions import RedisError

from deployments.errors import WorkError
from deployments.storage.artifacts import MARKER, Artifacts
from serve_app.local.preflight import StartError, without_password
from serve_app.local.redis_checks import open_redis
from serve_app.store.outages import outage
from serve_app.store.scripts import key

ADVICE = "name the storage and the Redis that belong together, or say --adopt-storage to pair these two"


def open_storage(uri: str) -> Artifacts:
    """Raises StartError."""
    try:
        return Artifacts(uri)
    except (WorkError, OSError, ValueError) as error:
        # Errors of pyarrow quote the URI.
        reason = "it cannot be reached" if isinstance(error, OSError) else "write file://, s3:// or gs://"
        raise StartError(f"the storage {without_password(uri)} cannot be used: {reason}; see MURMUR_STORAGE_URI") from None


def check_installation(redis_url: str, uri: str, *, adopt: bool = False, pair: bool = True) -> None:
    """Pair a new Redis with a new storage. Raises StartError for those paired otherwise, unless `adopt`."""
    artifacts, shown = open_storage(uri), without_password(uri)
    with open_redis(redis_url) as client:
        record: Any = client.hgetall(key("installation"))
        fields = {name.decode(): value.decode() for name, value in record.items()}
        try:
            stored = artifacts.read(MARKER).decode() if artifacts.size(MARKER) is not None else ""
            begun = fields.get("id", "") if fields.get("state") == "new" else ""  # a start that broke off in between
            if stored and stored == fields.get("id") and not begun:
                return
            if not adopt and (stored or fields) and not (begun and stored in ("", begun)):
                raise _mismatch(shown, fields.get("storage", ""), stored)
            if not pair:
                return
            identity = begun or uuid4().hex
            client.hset(key("installation"), mapping={"id": identity, "storage": shown, "state": "new"})
            artifacts.put(MARKER, identity.encode())
            client.hset(key("installation"), "state", "paired")
        except RedisError as error:
            raise StartError(f"no Redis answers at {without_password(redis_url)}: {outage(error) or error}") from None
        except (WorkError, OSError, ValueError) as error:
            raise StartError(
                f"the storage {shown} cannot be used ({type(error).__name__}): see MURMUR_STORAGE_URI"
            ) from None


def _mismatch(shown: str, paired: str, stored: str) -> StartError:
    if not paired:
        return StartError(f"the storage {shown} belongs to a service with another Redis: {ADVICE}")
    if not stored:
        why = f"this Redis belongs to a service with the storage {paired}, and nothing of it is at {shown}"
        return StartError(f"{why}: copy it there, mount it, or: {ADVICE}")
    return StartError(f"this Redis belongs to a service with the storage {paired}, not to {shown}: {ADVICE}")

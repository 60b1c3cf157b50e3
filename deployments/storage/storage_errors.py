"""Errors of the storage: what fails for a while is waited out, a full one is told apart, a missing file stays one."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.errors import StorageFull, StorageUnavailable

log = logging.getLogger(__name__)

FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL = re.compile(
    r"StorageFull|QuotaExceeded|QUOTA_EXCEEDED|Insufficient ?Storage|HTTP status 507|No space left", re.IGNORECASE
)
MISCONFIGURED = re.compile(
    r"ACCESS_DENIED|AccessDenied|NO_SUCH_BUCKET|NoSuchBucket|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|"
    r"INVALID_CLIENT_TOKEN|UNRECOGNIZED_CLIENT|no such bucket|Permission denied|Read-only file system|"
    r"HTTP status (401|403)",
    re.IGNORECASE,
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise StorageFull or StorageUnavailable for any OSError but FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise translate(error) from error


def translate(error: OSError) -> StorageUnavailable:
    """Log an error of the storage; the error to raise instead of it."""
    if error.errno in FULL_ERRNOS or FULL.search(str(error)):
        log.error("storage full, work waits for space: %s", error)
        return full()
    if isinstance(error, PermissionError) or MISCONFIGURED.search(str(error)):
        log.error("storage misconfigured, work waits until its access is corrected: %s", error)
    else:
        log.warning("storage unavailable, work waits for it: %s", error)
    return StorageUnavailable("The storage cannot be reached right now: try again.")


def full() -> StorageFull:
    return StorageFull("The storage is full: try again once there is space.")

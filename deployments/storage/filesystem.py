"""open_filesystem(): storage by its URI, with time limits and few requests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pyarrow import fs

# A storage that hangs is given up after tens of seconds; the work waits and tries again.
REQUEST_TIMEOUT_S, CONNECT_TIMEOUT_S, ATTEMPTS = 15.0, 5.0, 3
RETRY_LIMIT_S = 45.0


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """File system and path of `file://`, `s3://` or `gs://`."""
    filesystem, path = fs.FileSystem.from_uri(uri)
    if isinstance(filesystem, fs.S3FileSystem):
        filesystem = _with_options(
            filesystem,
            request_timeout=REQUEST_TIMEOUT_S,
            connect_timeout=CONNECT_TIMEOUT_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            allow_delayed_open=True,  # a small object is one request
            background_writes=False,
        )
    elif isinstance(filesystem, fs.GcsFileSystem):
        filesystem = _with_options(filesystem, retry_time_limit=timedelta(seconds=RETRY_LIMIT_S))
    return filesystem, path.rstrip("/")


def _with_options(filesystem: fs.FileSystem, **changes: Any) -> fs.FileSystem:
    # A URI has no names for these options; what it says is kept as pickle would.
    _, (options,) = filesystem.__reduce__()
    return type(filesystem)(**{**options, **changes})

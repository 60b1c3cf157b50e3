"""Sources in object storage, read with the service's own credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pyarrow import fs

from deployments.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable
from deployments.ingestion.allow_list import AllowList
from deployments.storage.artifacts import CHUNK

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def parse_s3_url(url: str) -> tuple[str, str]:
    """`s3://bucket/key` → (bucket, key); SourceForbidden for anything else."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SourceForbidden("The source must be written as s3://bucket/key.") from None
    key = parts.path.removeprefix("/")
    valid = parts.scheme == "s3" and BUCKET.fullmatch(parts.netloc) and not {"", ".", ".."} & set(key.split("/"))
    if not valid or parts.query or parts.fragment:  # a query could name another endpoint
        raise SourceForbidden("The source must be written as s3://bucket/key.")
    return parts.netloc, key


class Buckets:
    """Reads allowed buckets, with credentials and endpoint of the AWS_* variables."""

    def __init__(self, allowed: AllowList) -> None:
        self._allowed = allowed

    def read(self, url: str, max_bytes: int) -> Iterator[bytes]:
        """Chunks of an S3 object. Raises SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable."""
        bucket, key = parse_s3_url(url)
        if not self._allowed.has_bucket(bucket):
            raise SourceForbidden(f"The bucket {bucket} is not one that this service reads: see MURMUR_FETCH_ALLOW.")
        yield from _read(self._storage(), f"{bucket}/{key}", max_bytes)

    def read_drive(self, url: str, max_bytes: int) -> Iterator[bytes]:
        """Chunks of an object in the operator's drive (s3://, gs://, file://). Raises like `read`."""
        if url.startswith("s3://"):
            storage, path = self._storage(), "/".join(parse_s3_url(url))
        else:
            try:
                storage, path = fs.FileSystem.from_uri(url)
            except ValueError:
                raise SourceForbidden("The source does not lie where the service can read.") from None
        yield from _read(storage, path, max_bytes)

    @staticmethod
    def _storage() -> fs.S3FileSystem:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        scheme, _, host = (endpoint or "").rpartition("://")
        options = {"endpoint_override": host, "scheme": scheme or "https"} if host else {}
        return fs.S3FileSystem(request_timeout=60, connect_timeout=5, **options)


def _read(storage: fs.FileSystem, path: str, max_bytes: int) -> Iterator[bytes]:
    try:
        with storage.open_input_file(path) as file:
            if file.size() > max_bytes:
                raise SourceTooLarge(f"The source is larger than the {max_bytes} bytes allowed: split it.")
            while chunk := file.read(CHUNK):
                yield bytes(chunk)
    except FileNotFoundError:
        raise SourceNotFound("There is no such object in the storage.") from None
    except PermissionError:
        raise SourceForbidden("The service may not read this object.") from None
    except OSError as error:
        raise SourceUnreachable("The object could not be read: try again.") from error

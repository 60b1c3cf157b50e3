"""Sources in object storage, read with the service's own credentials."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs

from deployments.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable
from deployments.ingestion.allow_list import BUCKET, AllowList
from deployments.messages import FetchRequest
from deployments.storage.artifacts import CHUNK


def parse_s3_url(url: str) -> tuple[str, str]:
    """`s3://bucket/key` → (bucket, key); SourceForbidden for anything else."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SourceForbidden("The source must be written as s3://bucket/key.") from None
    key = parts.path.removeprefix("/")
    valid = parts.scheme == "s3" and BUCKET.fullmatch(parts.netloc) and not _has_dots(key)
    if not valid or parts.query or parts.fragment:  # a query could name another endpoint
        raise SourceForbidden("The source must be written as s3://bucket/key.")
    return parts.netloc, key


def check_object(url: str, allowed: AllowList, tenant: str) -> None:
    """Raise SourceForbidden for an object that the tenant may not read."""
    bucket, key = parse_s3_url(url)
    if not allowed.has_object(bucket, key, tenant):
        raise SourceForbidden(f"The bucket {bucket} or this folder of it is not allowed: see MURMUR_FETCH_ALLOW.")


class Buckets:
    """Reads allowed buckets and drives, with credentials and endpoint of the AWS_* variables."""

    def __init__(self, allowed: AllowList) -> None:
        self._allowed = allowed

    def read(self, request: FetchRequest) -> Iterator[bytes]:
        """Chunks of an object of an allowed bucket, or of the operator's drive (s3://, gs://, file://). Raises
        SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable."""
        storage, path = self._in_drive(request) if request.drive_root else self._in_bucket(request)
        yield from _read(storage, path, request.max_bytes)

    def _in_bucket(self, request: FetchRequest) -> tuple[fs.FileSystem, str]:
        check_object(request.url, self._allowed, request.tenant)
        return self._storage(), "/".join(parse_s3_url(request.url))

    def _in_drive(self, request: FetchRequest) -> tuple[fs.FileSystem, str]:
        """Storage and path of a drive's file, resolved and below the drive's root."""
        scheme = urlsplit(request.url).scheme
        try:
            if scheme == "s3":
                storage, path = self._storage(), "/".join(parse_s3_url(request.url))
                root = request.drive_root.removeprefix("s3://")
            else:
                storage, path = fs.FileSystem.from_uri(request.url)
                root = fs.FileSystem.from_uri(request.drive_root)[1]
            if isinstance(storage, fs.LocalFileSystem):
                path, root = _real_file(path), os.path.realpath(root)
        except ValueError:
            raise SourceForbidden("The source does not lie where the service can read.") from None
        root = root.rstrip("/") + "/"
        if not path.startswith(root) or _has_dots(path) or self._allowed.is_own(scheme, path):
            raise SourceForbidden("The source does not lie in the drive.")
        return storage, path

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


def _has_dots(path: str) -> bool:
    # Object stores resolve no dots, but what lies between them and the service may.
    return bool({"", ".", ".."} & set(path.removeprefix("/").split("/")))


def _real_file(path: str) -> str:
    # A folder opens as well, and a pipe would be waited for without end.
    real = os.path.realpath(path, strict=False)
    if Path(real).exists() and not Path(real).is_file():
        raise ValueError("not a file")
    return real

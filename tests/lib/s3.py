"""An object storage that speaks S3, on loopback: moto's, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import boto3
from moto.server import ThreadedMotoServer

from deployments.storage.artifacts import Artifacts

KEY, SECRET, REGION = "AKIDMURMUR", "nothing-secret", "us-east-1"


@dataclass(frozen=True, slots=True)
class Storage:
    """A server of buckets."""

    host: str

    def bucket(self) -> str:
        """The name of a new one."""
        name = f"b-{uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    @property
    def client(self):  # type: ignore[no-untyped-def]
        """boto3's client of it."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://{self.host}",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
        )

    def uri(self) -> str:
        """Of a new bucket, as MURMUR_STORAGE_URI would have it."""
        where = f"endpoint_override={self.host}&scheme=http&region={REGION}"
        return f"s3://{KEY}:{SECRET}@{self.bucket()}/artifacts?{where}"

    def artifacts(self) -> Artifacts:
        """In a bucket of their own."""
        return Artifacts(self.uri())


@contextmanager
def storage() -> Iterator[Storage]:
    """Up, on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Storage(f"{host}:{port}")
    finally:
        server.stop()

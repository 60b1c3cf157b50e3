"""S3 server on loopback: moto over HTTP."""

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
    """Running S3 server."""

    host: str

    def bucket(self) -> str:
        """Create a bucket."""
        name = f"b-{uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    @property
    def client(self):  # type: ignore[no-untyped-def]
        """boto3 client."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://{self.host}",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
        )

    def uri(self) -> str:
        """MURMUR_STORAGE_URI of a new bucket."""
        query = f"endpoint_override={self.host}&scheme=http&region={REGION}"
        return f"s3://{KEY}:{SECRET}@{self.bucket()}/artifacts?{query}"

    def artifacts(self) -> Artifacts:
        """Artifacts in a new bucket."""
        return Artifacts(self.uri())


@contextmanager
def storage() -> Iterator[Storage]:
    """Run a server on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Storage(f"{host}:{port}")
    finally:
        server.stop()

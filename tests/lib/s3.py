"""S3 server on loopback: moto over HTTP, which counts requests and can fail, wait and hang."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any
from uuid import uuid4

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from deployments.storage.artifacts import Artifacts

KEY, SECRET, REGION = "AKIDMURMUR", "nothing-secret", "us-east-1"


@dataclass(frozen=True, slots=True)
class Failure:
    """Response instead of the real one."""

    status: str  # e.g. "503 Slow Down"
    code: str  # of the error, e.g. "SlowDown"

    def body(self) -> bytes:
        return f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>injected</Message></Error>".encode()


SLOW_DOWN = Failure("503 Slow Down", "SlowDown")
FULL = Failure("507 Insufficient Storage", "XMinioStorageFull")
DENIED = Failure("403 Forbidden", "AccessDenied")


@dataclass(slots=True)
class Storage:
    """Running S3 server."""

    host: str = ""
    requests: list[str] = field(default_factory=list)  # "METHOD /bucket/key?query"
    delay_s: float = 0.0  # before each response
    trouble: Callable[[str], Failure | None] = lambda _: None  # by request

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

    def uri(self, bucket: str = "") -> str:
        """MURMUR_STORAGE_URI of a bucket, by default a new one."""
        query = f"endpoint_override={self.host}&scheme=http&region={REGION}"
        return f"s3://{KEY}:{SECRET}@{bucket or self.bucket()}/artifacts?{query}"

    def artifacts(self) -> Artifacts:
        """Artifacts in a new bucket."""
        return Artifacts(self.uri())

    def reset(self) -> None:
        """Count from zero, and answer at once and well."""
        self.requests.clear()
        self.delay_s = 0.0
        self.trouble = lambda _: None

    def answer(self, real: Callable[..., Any]) -> Callable[..., Iterable[bytes]]:
        """WSGI application in front of the `real` one."""

        def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"
            self.requests.append(request)
            if self.delay_s:
                time.sleep(self.delay_s)
            if failure := self.trouble(request):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start(failure.status, [("Content-Type", "application/xml"), ("Content-Length", str(len(failure.body())))])
                return [failure.body()]
            answer: Iterable[bytes] = real(environ, start)
            return answer

        return application


@contextmanager
def storage() -> Iterator[Storage]:
    """Run a server on a free port."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    state = Storage()
    application = state.answer(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.host = f"127.0.0.1:{server.port}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

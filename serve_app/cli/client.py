"""Client of the public HTTP API, for the command line."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import httpx_sse
import orjson

Options = dict[str, Any]


class ServerError(Exception):
    """The server refused a request or is unreachable; one sentence."""


class ServerUnavailable(ServerError):
    """The server is temporarily unavailable (503)."""


class _ProgressFile:
    """File that reports its read position to a callback."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None]) -> None:
        self._file = file
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._progress(self._file.tell())
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Client:
    """Sends the API key in MURMUR_API_KEY, if set."""

    def __init__(self, url: str) -> None:
        key = os.environ.get("MURMUR_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(60.0, connect=10.0, write=None)
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False, verify=trusted())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit_url(self, url: str, options: Options) -> dict[str, Any]:
        return self._request("POST", "/v1/jobs", json={"source": {"url": url}, **options})

    def submit_file(self, path: Path, options: Options, progress: Callable[[int], None]) -> dict[str, Any]:
        """Submit a streamed upload; `progress` gets the bytes sent."""
        fields = {name: _form_value(value) for name, value in options.items()}
        with path.open("rb") as file:
            return self._request("POST", "/v1/jobs", data=fields, files={"file": (path.name, _ProgressFile(file, progress))})

    def get(self, job_id: str) -> dict[str, Any]:
        return self._request("GET", f"/v1/jobs/{job_id}")

    def newest(self, limit: int) -> Iterator[dict[str, Any]]:
        cursor: dict[str, str] = {}
        while limit > 0:
            page = self._request("GET", "/v1/jobs", params={"limit": min(limit, 100), **cursor})
            yield from page["jobs"]
            limit -= len(page["jobs"])
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def cancel(self, job_id: str) -> dict[str, Any]:
        return self._request("POST", f"/v1/jobs/{job_id}/cancel")

    def retry(self, job_id: str) -> dict[str, Any]:
        return self._request("POST", f"/v1/jobs/{job_id}/retry")

    def delete(self, job_id: str) -> None:
        self._request("DELETE", f"/v1/jobs/{job_id}")

    def transcript(self, job_id: str, format: str) -> str:
        return self._send("GET", f"/v1/jobs/{job_id}/transcript", params={"format": format}).text

    def events(self, job_id: str, retry_s: float = 60.0) -> Iterator[tuple[str, dict[str, Any]]]:
        """Follow a job's events, (kind, data), to its end; reconnects for up to `retry_s`. Raises ServerError."""
        last = ""
        deadline = time.monotonic() + retry_s
        while True:
            try:
                headers = {"Last-Event-ID": last} if last else {}
                with httpx_sse.connect_sse(self._http, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as source:
                    self._check(source.response)
                    for event in source.iter_sse():
                        if not event.data:
                            continue
                        deadline = time.monotonic() + retry_s
                        last = event.id
                        yield event.event, orjson.loads(event.data)
                        if event.event == "done":
                            return
            except (httpx.TransportError, ServerUnavailable) as error:
                if time.monotonic() > deadline:
                    raise ServerError(f"The server went away: {error}") from None
            time.sleep(0.5)

    def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = self._send(method, path, **options)
        return response.json() if response.content else {}

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise ServerError(f"No server answers at {self._http.base_url} ({error}): start one with `murmur up`") from None
        self._check(response)
        return response

    @staticmethod
    def _check(response: httpx.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            message = orjson.loads(response.content)["detail"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            message = f"The server answered {response.status_code}."
        raise (ServerUnavailable if response.status_code == 503 else ServerError)(message)


def trusted() -> ssl.SSLContext:
    # certifi's authorities, this machine's, and those in SSL_CERT_FILE.
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def _form_value(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()

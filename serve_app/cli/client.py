"""Client of the public HTTP API, for the command line."""

from __future__ import annotations

import logging
import os
import random
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import httpx
import httpx_sse
import orjson

log = logging.getLogger(__name__)

Options = dict[str, Any]
PATIENCE_S = 300.0  # for a server that restarts; one that has never answered is given up at once
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
Begin = Callable[[], dict[str, Any]]
PASSING = (502, 503, 504)


class ServerError(Exception):
    """The server refused a request or is unreachable; one sentence."""


class ServerUnavailable(ServerError):
    """The server, or a proxy in front of it, cannot answer now but may soon."""


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
        self._answered = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit_url(self, url: str, options: Options) -> dict[str, Any]:
        once = {"Idempotency-Key": uuid4().hex}  # a request that is sent again makes no second job
        return self._request("POST", "/v1/jobs", json={"source": {"url": url}, **options}, headers=once)

    def submit_file(self, path: Path, options: Options, progress: Callable[[int], None]) -> dict[str, Any]:
        """Submit a streamed upload; `progress` gets the bytes sent."""
        fields = {name: _form_value(value) for name, value in options.items()}
        once = {"Idempotency-Key": uuid4().hex}
        with path.open("rb") as file:

            def begin() -> dict[str, Any]:
                file.seek(0)
                return {"files": {"file": (path.name, _ProgressFile(file, progress))}}

            return self._request("POST", "/v1/jobs", begin, data=fields, headers=once)

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

    def events(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Follow a job's events, (kind, data), to its end; reconnects and resumes. Raises ServerError."""
        last = ""
        pause_s: float | None
        pauses = self._pauses()
        while True:
            try:
                headers = {"Last-Event-ID": last} if last else {}
                with httpx_sse.connect_sse(self._http, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as source:
                    self._check(source.response)
                    if source.response.status_code == httpx.codes.NO_CONTENT:
                        return  # there is nothing after `last`
                    for event in source.iter_sse():
                        self._answered, pauses = True, self._pauses()
                        if not event.data:
                            continue
                        last = event.id
                        yield event.event, orjson.loads(event.data)
                        if event.event == "done":
                            return
                pause_s = SHORTEST_PAUSE_S  # a stream ends by its age, too
            except (httpx.TransportError, ServerUnavailable) as error:
                pause_s = self._pause_after(error, pauses)
                if pause_s is None:
                    raise self._gone(error) from None
            time.sleep(pause_s)

    def _request(self, method: str, path: str, begin: Begin | None = None, **options: Any) -> dict[str, Any]:
        response = self._send(method, path, begin, **options)
        return response.json() if response.content else {}

    def _send(self, method: str, path: str, begin: Begin | None = None, **options: Any) -> httpx.Response:
        """Send a request, again while the server restarts; `begin` returns options of each try. Raises ServerError."""
        pauses, repeatable = self._pauses(), method == "GET" or "headers" in options  # with an Idempotency-Key
        while True:
            try:
                response = self._http.request(method, path, **options, **(begin() if begin else {}))
                self._check(response)
            except (httpx.TransportError, ServerUnavailable) as error:
                arrived = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ConnectError)
                pause_s = None if arrived and not repeatable else self._pause_after(error, pauses)
                if pause_s is None:
                    raise self._gone(error) from None
                time.sleep(pause_s)
            else:
                self._answered = True
                return response

    def _pause_after(self, error: Exception, pauses: Iterator[float]) -> float | None:
        """Seconds to wait before the next try; None to give up."""
        if isinstance(error, httpx.TransportError) and not self._answered:
            return None
        return next(pauses, None)

    def _pauses(self) -> Iterator[float]:
        deadline, pause_s = time.monotonic() + PATIENCE_S, SHORTEST_PAUSE_S
        log.warning("the server at %s is away, trying again for %g s", self._http.base_url, PATIENCE_S)
        while time.monotonic() < deadline:
            yield pause_s * random.uniform(0.75, 1.25)  # the clients of a server do not come back all at once
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _gone(self, error: Exception) -> ServerError:
        if isinstance(error, ServerError):
            return error
        if self._answered:
            return ServerError(f"The server at {self._http.base_url} went away ({error})")
        return ServerError(f"No server answers at {self._http.base_url} ({error}): start one with `murmur up`")

    @staticmethod
    def _check(response: httpx.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            message = orjson.loads(response.content)["detail"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            message = f"The server answered {response.status_code}."
        # 409 with Retry-After: a request of ours that broke off still holds its Idempotency-Key.
        busy = response.status_code == httpx.codes.CONFLICT and "Retry-After" in response.headers
        raise (ServerUnavailable if busy or response.status_code in PASSING else ServerError)(message)


def trusted() -> ssl.SSLContext:
    # certifi's authorities, this machine's, and those in SSL_CERT_FILE.
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def _form_value(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()

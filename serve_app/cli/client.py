"""A client of the public API: what the command line is made of, and nothing private."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import httpx_sse
import orjson

Options = dict[str, Any]


class ServerError(Exception):
    """The server refused, or cannot be reached; one sentence."""


class ServerAway(ServerError):
    """The server cannot answer right now, but may in a moment."""


class _Watched:
    """A file that tells how much of it was read."""

    def __init__(self, file: BinaryIO, told: Callable[[int], None]) -> None:
        self._file = file
        self._told = told

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._told(self._file.tell())
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Client:
    """Talks to the server at `url`, with the API key in MURMUR_API_KEY where there is one."""

    def __init__(self, url: str) -> None:
        key = os.environ.get("MURMUR_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        patience = httpx.Timeout(60.0, connect=10.0, write=None)
        self._http = httpx.Client(base_url=url, headers=headers, timeout=patience, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit_url(self, url: str, options: Options) -> dict[str, Any]:
        """A job for what lies at `url`."""
        return self._ask("POST", "/v1/jobs", json={"source": {"url": url}, **options})

    def submit_file(self, path: Path, options: Options, told: Callable[[int], None]) -> dict[str, Any]:
        """A job for a file, streamed; `told` hears how many bytes have gone."""
        fields = {name: _form_value(value) for name, value in options.items()}
        with path.open("rb") as file:
            return self._ask("POST", "/v1/jobs", data=fields, files={"file": (path.name, _Watched(file, told))})

    def get(self, job_id: str) -> dict[str, Any]:
        """A job."""
        return self._ask("GET", f"/v1/jobs/{job_id}")

    def newest(self, limit: int) -> Iterator[dict[str, Any]]:
        """The newest jobs, as many as `limit`."""
        cursor: dict[str, str] = {}
        while limit > 0:
            page = self._ask("GET", "/v1/jobs", params={"limit": min(limit, 100), **cursor})
            yield from page["jobs"]
            limit -= len(page["jobs"])
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job."""
        return self._ask("POST", f"/v1/jobs/{job_id}/cancel")

    def retry(self, job_id: str) -> dict[str, Any]:
        """Queue a failed job again."""
        return self._ask("POST", f"/v1/jobs/{job_id}/retry")

    def delete(self, job_id: str) -> None:
        """Delete an ended job."""
        self._ask("DELETE", f"/v1/jobs/{job_id}")

    def transcript(self, job_id: str, format: str) -> str:
        """The transcript of a completed job."""
        return self._send("GET", f"/v1/jobs/{job_id}/transcript", params={"format": format}).text

    def events(self, job_id: str, patience_s: float = 60.0) -> Iterator[tuple[str, dict[str, Any]]]:
        """A job's events, (kind, data), to the end; a connection that breaks or ages out is taken up where it ended."""
        last = ""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                headers = {"Last-Event-ID": last} if last else {}
                with httpx_sse.connect_sse(self._http, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as source:
                    self._check(source.response)
                    for event in source.iter_sse():
                        if not event.data:
                            continue
                        deadline = time.monotonic() + patience_s
                        last = event.id
                        yield event.event, orjson.loads(event.data)
                        if event.event == "done":
                            return
            except (httpx.TransportError, ServerAway) as error:
                if time.monotonic() > deadline:
                    raise ServerError(f"The server went away: {error}") from None
            time.sleep(0.5)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        response = self._send(method, path, **request)
        return response.json() if response.content else {}

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise ServerError(f"No murmur answers at {self._http.base_url}: {error}") from None
        self._check(response)
        return response

    @staticmethod
    def _check(response: httpx.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            told = orjson.loads(response.content)["detail"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            told = f"The server answered {response.status_code}."
        raise (ServerAway if response.status_code == 503 else ServerError)(told)


def _form_value(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()

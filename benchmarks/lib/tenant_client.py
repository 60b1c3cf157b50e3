"""One tenant's client, which now and then hangs up, and asks again until it has an answer."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

AGAIN_S = (0.2, 1.0)
"""When what got no answer is asked again: between these."""
IMPATIENT = 0.25
"""The share of submissions that are sent twice: the first is hung up on at some moment before `HANGUP_S`, more likely a
sooner one, or had its answer by then."""
HANGUP_S = 0.3
PATIENCE = httpx.Timeout(30.0)
"""Longer than the silence between two comments of an event stream."""


class Refused(Exception):
    """The server said no, for good."""


class Customer:
    """Talks to the server at `url` with an API key. `repeats` counts requests that were sent again for want of an answer,
    `twice` submissions that were sent twice on purpose."""

    def __init__(self, url: str, key: str, rng: random.Random) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE, limits=limits, trust_env=False)
        self._random = rng
        self.repeats = self.twice = 0

    async def __aenter__(self) -> Customer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def submit(self, recording: Path, key: str, options: dict[str, str]) -> str:
        """A job for a recording: the same for the same `key`, however often it has to be sent. Its id."""
        files = {"file": (recording.name, await asyncio.to_thread(recording.read_bytes))}
        request: dict[str, Any] = {"files": files, "data": options, "headers": {"Idempotency-Key": key}}
        if self._random.random() < IMPATIENT:
            self.twice += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(HANGUP_S * self._random.random() ** 3):
                    await self._ask("POST", "/v1/jobs", **request)
        return str((await self._ask("POST", "/v1/jobs", **request))["id"])

    async def transcript(self, job_id: str) -> Any:
        """The transcript of a completed job, as JSON."""
        return await self._ask("GET", f"/v1/jobs/{job_id}/transcript")

    async def jobs(self) -> list[str]:
        """The ids of all jobs of the tenant, newest first."""
        ids: list[str] = []
        cursor: dict[str, str] | None = {}
        while cursor is not None:
            page = await self._ask("GET", "/v1/jobs", params={"limit": 100, **cursor})
            ids += [job["id"] for job in page["jobs"]]
            cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
        return ids

    async def _ask(self, method: str, path: str, **request: Any) -> Any:
        """The answer as JSON, after however many breaks. Refused."""
        while True:
            try:
                answer = await self.http.request(method, path, **request)
            except httpx.TransportError:
                pass
            else:
                if answer.is_success:
                    return answer.json()
                if answer.status_code < 500 and "Retry-After" not in answer.headers:
                    raise Refused(f"{method} {path}: {answer.status_code} {answer.text}")
            self.repeats += 1
            await asyncio.sleep(self._random.uniform(*AGAIN_S))

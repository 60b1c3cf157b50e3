"""HTTP client that disconnects at random and retries until it has a response."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

RETRY_DELAY_S = (0.2, 1.0)  # minimum and maximum
# Share of the submissions that are sent twice: the first is disconnected within HANGUP_S, more likely early than late,
# unless its response comes before.
SENT_TWICE_SHARE = 0.25
HANGUP_S = 0.3
TIMEOUT = httpx.Timeout(30.0)  # longer than the heartbeat interval of an event stream


class Refused(Exception):
    """Status that a retry does not change."""


class TenantClient:
    """Client with the API key of a tenant; counts retries and submissions sent twice on purpose."""

    def __init__(self, url: str, key: str, rng: random.Random) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, limits=limits, trust_env=False)
        self._random = rng
        self.retries = self.sent_twice = 0

    async def __aenter__(self) -> TenantClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def submit(self, recording: Path, key: str, options: dict[str, str]) -> str:
        """Upload a recording under an idempotency key; the job's id."""
        files = {"file": (recording.name, await asyncio.to_thread(recording.read_bytes))}
        request: dict[str, Any] = {"files": files, "data": options, "headers": {"Idempotency-Key": key}}
        if self._random.random() < SENT_TWICE_SHARE:
            self.sent_twice += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(HANGUP_S * self._random.random() ** 3):
                    await self._request("POST", "/v1/jobs", **request)
        return str((await self._request("POST", "/v1/jobs", **request))["id"])

    async def transcript(self, job_id: str) -> Any:
        return await self._request("GET", f"/v1/jobs/{job_id}/transcript")

    async def jobs(self) -> list[str]:
        """Ids of all jobs of the tenant, newest first."""
        ids: list[str] = []
        cursor: dict[str, str] | None = {}
        while cursor is not None:
            page = await self._request("GET", "/v1/jobs", params={"limit": 100, **cursor})
            ids += [job["id"] for job in page["jobs"]]
            cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
        return ids

    async def _request(self, method: str, path: str, **options: Any) -> Any:
        """Send until there is a 2xx; its JSON. Raises Refused."""
        while True:
            try:
                response = await self.http.request(method, path, **options)
            except httpx.TransportError:
                pass
            else:
                if response.is_success:
                    return response.json()
                if response.status_code < 500 and "Retry-After" not in response.headers:
                    raise Refused(f"{method} {path}: {response.status_code} {response.text}")
            self.retries += 1
            await asyncio.sleep(self._random.uniform(*RETRY_DELAY_S))

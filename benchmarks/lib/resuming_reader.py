"""SSE client that resumes by Last-Event-ID after each disconnect, and checks order and duplicates."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx_sse

RECONNECT_S = 0.3


class ResumingReader:
    """Collects the segments of a job, its terminal phase, and faults as sentences."""

    def __init__(self, http: httpx.AsyncClient, job_id: str) -> None:
        self._http = http
        self._job_id = job_id
        self._last_id = ""
        self.segments: list[dict[str, Any]] = []
        self.phase: str | None = None
        self.error: dict[str, str] | None = None
        self.duplicated = 0
        self.out_of_order = 0
        self.reconnects = 0
        self.faults: list[str] = []

    async def follow(self) -> None:
        """Read to the end of the stream; a 4xx is a fault and ends it."""
        while not await self._read_connection():
            self.reconnects += 1
            await asyncio.sleep(RECONNECT_S)

    async def _read_connection(self) -> bool:
        """Read one connection; whether the stream is complete."""
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        try:
            async with httpx_sse.aconnect_sse(
                self._http, "GET", f"/v1/jobs/{self._job_id}/events", headers=headers
            ) as source:
                status = source.response.status_code
                if status != 200:
                    if status < 500:
                        self.faults.append(f"the event stream answered {status} before the job was done")
                    return status < 500
                async for event in source.aiter_sse():
                    if event.data:
                        self._receive(event)
        except httpx.TransportError:
            pass
        return self.phase is not None

    def _receive(self, event: httpx_sse.ServerSentEvent) -> None:
        if self.phase:
            self.faults.append(f"{event.event} came after the end")
        if self._last_id and _id_key(event.id) <= _id_key(self._last_id):
            self.faults.append(f"event {event.id} came after {self._last_id}")
        self._last_id = event.id
        if event.event == "segment":
            self._receive_segment(event.json())
        elif event.event == "done":
            job = event.json()
            self.phase, self.error = job["phase"], job.get("error")

    def _receive_segment(self, segment: dict[str, Any]) -> None:
        if any(segment["id"] == earlier["id"] for earlier in self.segments):
            self.duplicated += 1
        elif segment["id"] != len(self.segments):
            self.out_of_order += 1
        self.segments.append(segment)


def _id_key(event_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in event_id.split("-"))

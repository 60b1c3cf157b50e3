"""A reader of one job's events that comes back however often it is cut off, and notes all that must not be."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx_sse

BACK_S = 0.3
"""When a reader that was cut off comes back."""


class Witness:
    """What one job's stream told: its `segments`, the phase that it `ended` in, and what was wrong with it."""

    def __init__(self, http: httpx.AsyncClient, job_id: str) -> None:
        self._http = http
        self._job_id = job_id
        self._last = ""
        self.segments: list[dict[str, Any]] = []
        self.ended: str | None = None
        self.error: dict[str, str] | None = None
        self.doubled = 0
        self.disordered = 0
        self.reconnects = 0
        self.wrong: list[str] = []

    async def follow(self) -> None:
        """Read to the end, through any number of breaks. What the server refuses for good is noted as wrong."""
        while not await self._to_the_end():
            self.reconnects += 1
            await asyncio.sleep(BACK_S)

    async def _to_the_end(self) -> bool:
        """Read one connection; whether there is nothing more to come."""
        headers = {"Last-Event-ID": self._last} if self._last else {}
        try:
            async with httpx_sse.aconnect_sse(
                self._http, "GET", f"/v1/jobs/{self._job_id}/events", headers=headers
            ) as source:
                status = source.response.status_code
                if status != 200:
                    if status < 500:
                        self.wrong.append(f"its events ended with {status} before it was done")
                    return status < 500
                async for event in source.aiter_sse():
                    if event.data:
                        self._hear(event)
        except httpx.TransportError:
            pass
        return self.ended is not None

    def _hear(self, event: httpx_sse.ServerSentEvent) -> None:
        if self.ended:
            self.wrong.append(f"{event.event} came after the end")
        if self._last and _order(event.id) <= _order(self._last):
            self.wrong.append(f"event {event.id} came after {self._last}")
        self._last = event.id
        if event.event == "segment":
            self._hear_segment(event.json())
        elif event.event == "done":
            told = event.json()
            self.ended, self.error = told["phase"], told.get("error")

    def _hear_segment(self, segment: dict[str, Any]) -> None:
        if any(segment["id"] == earlier["id"] for earlier in self.segments):
            self.doubled += 1
        elif segment["id"] != len(self.segments):
            self.disordered += 1
        self.segments.append(segment)


def _order(event_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in event_id.split("-"))

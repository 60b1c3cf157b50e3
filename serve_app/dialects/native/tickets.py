"""Tickets: read access to one job for clients that send no headers."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

import serve_app.dialects.native.document as document
from serve_app.dialects.base import JobId, request_body, utc, validated
from serve_app.http.auth import Auth, CanRead
from serve_app.http.openapi import operation_id
from serve_app.http.tickets import DEFAULT_S, LONGEST_S
from serve_app.http.uploads import json_body
from serve_app.jobs.service import Jobs


class TicketRequest(BaseModel):
    """Options of a ticket."""

    model_config = ConfigDict(extra="forbid")

    lifetime_s: float = Field(default=DEFAULT_S, ge=1, le=LONGEST_S, description="Seconds that the ticket is valid.")


class Ticket(BaseModel):
    """Read access to one job."""

    ticket: str = Field(description="Value of the parameter `ticket`; a secret until it ends.")
    expires_at: datetime = Field(description="End of the ticket; not later than that of the key or token that made it.")


class Routes:
    """Route handlers."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def issue_ticket(self, request: Request, principal: CanRead, job_id: JobId) -> Ticket:
        """Make a ticket, which in place of a key reads the job, its events, transcript and artifacts: for browsers'
        EventSource and `<audio>`. It ends with the key that made it."""
        # FastAPI would read the whole body, however long, and before it checks the key.
        options = validated(TicketRequest, await json_body(request, empty={}))
        job = await self._jobs.get_undeleted(principal, job_id)
        auth: Auth = request.app.state.auth
        ticket, expires_at = await auth.tickets.issue(principal, job, options.lifetime_s)
        return Ticket(ticket=ticket, expires_at=utc(expires_at))


def routes(jobs: Jobs) -> APIRouter:
    """Route under /v1/jobs."""
    tickets = Routes(jobs)
    router = APIRouter(prefix="/v1/jobs", tags=["Jobs"], generate_unique_id_function=operation_id)
    body = request_body(json=TicketRequest, required=False)
    router.post("/{job_id}/ticket", status_code=201, openapi_extra=body, **document.TICKET)(tickets.issue_ticket)
    return router

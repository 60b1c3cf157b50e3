"""Webhooks of the native API: log of deliveries, redelivery, signing secrets."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Security
from pydantic import BaseModel, ConfigDict, Field

import serve_app.dialects.native.document as document
import serve_app.models.delivery as core
from serve_app.dialects.base import PageSize, request_body, utc, validated
from serve_app.http.auth import CanRead, CanWrite, caller
from serve_app.http.uploads import json_body
from serve_app.jobs.deliveries import Deliveries
from serve_app.models.delivery import DeliveryState
from serve_app.models.principal import Principal

Admin = Annotated[Principal, Security(caller, scopes=["admin"])]
CURSOR = r"^[0-9]{1,15}$"


class Attempt(BaseModel):
    """Attempt at a delivery."""

    at: datetime
    status: int | None = Field(description="HTTP status of the response.")
    error: str | None = Field(description="Why there was no response.")


class Delivery(BaseModel):
    """Delivery of a webhook."""

    id: str = Field(description="`webhook-id` of all its attempts.")
    job_id: str
    url: str
    state: DeliveryState = Field(description="`dead`: given up.")
    created_at: datetime
    next_at: datetime | None = Field(description="When it is attempted next.")
    attempts: list[Attempt]


class DeliveryList(BaseModel):
    """Page of deliveries, newest first."""

    deliveries: list[Delivery]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last.")


class WebhookSecrets(BaseModel):
    """Secrets that sign deliveries, newest first: one, or two until the overlap after a rotation is over."""

    secrets: list[str]


class Rotation(BaseModel):
    """Rotation of the signing secret."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: float = Field(default=86_400.0, ge=0, le=2_592_000, description="Seconds that the old secret stays valid.")


class Routes:
    """Route handlers."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    async def list_deliveries(
        self,
        principal: CanRead,
        state: Annotated[DeliveryState | None, Query(description="Only deliveries in this state.")] = None,
        limit: PageSize = 20,
        cursor: Annotated[str | None, Query(pattern=CURSOR, description="`next_cursor` of the previous page.")] = None,
    ) -> DeliveryList:
        """List deliveries of the caller's jobs, newest first; `state=dead` are dead letters. They are kept for 30 days."""
        before = None if cursor is None else int(cursor)
        page, following = await self._deliveries.page(principal, limit=limit, before=before, state=state)
        deliveries = [from_delivery(delivery) for delivery in page]
        return DeliveryList(deliveries=deliveries, next_cursor=None if following is None else str(following))

    async def redeliver(
        self, principal: CanWrite, delivery_id: Annotated[str, Path(description="Id of the delivery.")]
    ) -> Delivery:
        """Deliver once more, now, with the same `webhook-id`."""
        return from_delivery(await self._deliveries.redeliver(principal, delivery_id))

    async def get_secrets(self, principal: Admin) -> WebhookSecrets:
        """Read the secrets that sign the tenant's webhooks."""
        return WebhookSecrets(secrets=await self._deliveries.secrets(principal))

    async def rotate_secret(self, request: Request, principal: Admin) -> WebhookSecrets:
        """Make a new secret; the old one signs too until the overlap is over."""
        # FastAPI would read the whole body, however long, and before it checks the key.
        rotation = validated(Rotation, await json_body(request, empty={}))
        return WebhookSecrets(secrets=await self._deliveries.rotate(principal, rotation.overlap_s))


def from_delivery(delivery: core.Delivery) -> Delivery:
    """A delivery with its attempts."""
    return Delivery(
        id=delivery.id,
        job_id=delivery.job_id,
        url=delivery.url,
        state=delivery.state,
        created_at=utc(delivery.created_at),
        next_at=utc(delivery.next_at),
        attempts=[Attempt(at=utc(a.at), status=a.status, error=a.error) for a in delivery.attempts],
    )


def routes(deliveries: Deliveries) -> APIRouter:
    """Routes under /v1/webhooks."""
    webhooks = Routes(deliveries)
    router = APIRouter(prefix="/v1/webhooks", tags=["Webhooks"], **document.NATIVE_ROUTER)
    router.get("/deliveries", **document.LIST_DELIVERIES)(webhooks.list_deliveries)
    router.post("/deliveries/{delivery_id}/redeliver", status_code=202, **document.REDELIVER)(webhooks.redeliver)
    router.get("/secrets", **document.SECRETS)(webhooks.get_secrets)
    body = request_body(json=Rotation, required=False)
    router.post("/secrets/rotate", openapi_extra=body, **document.ROTATE)(webhooks.rotate_secret)
    return router

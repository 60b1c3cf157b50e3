"""Webhooks of the native API: how each delivery has fared, another try, and the secrets that they are signed with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Security
from pydantic import BaseModel, ConfigDict, Field

from serve_app.http.auth import CanRead, CanWrite, caller
from serve_app.jobs.deliveries import Deliveries
from serve_app.models.delivery import Delivery, DeliveryState
from serve_app.models.principal import Principal

Admin = Annotated[Principal, Security(caller, scopes=["admin"])]
CURSOR = r"^[0-9]{1,15}$"


class AttemptBody(BaseModel):
    """One try: the status that was answered, or why there was none."""

    at: datetime
    status: int | None
    error: str | None


class DeliveryBody(BaseModel):
    """A delivery; `id` is the webhook-id of all its tries."""

    id: str
    job_id: str
    url: str
    state: DeliveryState
    created_at: datetime
    next_at: datetime | None
    attempts: list[AttemptBody]


class DeliveryPage(BaseModel):
    """A page of deliveries, newest first. `next_cursor` is null on the last."""

    deliveries: list[DeliveryBody]
    next_cursor: str | None


class Secrets(BaseModel):
    """The secrets that deliveries are signed with now, newest first: one, or two while an old one is still good."""

    secrets: list[str]


class Rotation(BaseModel):
    """How long the secret before goes on signing, in seconds."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: Annotated[float, Field(ge=0, le=2_592_000)] = 86_400.0


class Routes:
    """What the paths do."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    async def page(
        self,
        who: CanRead,
        state: DeliveryState | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Annotated[str | None, Query(pattern=CURSOR)] = None,
    ) -> DeliveryPage:
        """Deliveries of the caller's jobs, newest first; `state=dead` are those given up. They are told for 30 days."""
        before = None if cursor is None else int(cursor)
        found, following = await self._deliveries.page(who, limit=limit, before=before, state=state)
        return DeliveryPage(deliveries=[told(d) for d in found], next_cursor=None if following is None else str(following))

    async def again(self, who: CanWrite, delivery_id: str) -> DeliveryBody:
        """Deliver once more, now, with all tries before it."""
        return told(await self._deliveries.redeliver(who, delivery_id))

    async def secrets(self, who: Admin) -> Secrets:
        """What the tenant's webhooks are signed with."""
        return Secrets(secrets=await self._deliveries.secrets(who))

    async def rotate(self, who: Admin, rotation: Rotation | None = None) -> Secrets:
        """Make a new secret; the one before signs too for a while."""
        return Secrets(secrets=await self._deliveries.rotate(who, (rotation or Rotation()).overlap_s))


def told(delivery: Delivery) -> DeliveryBody:
    """A delivery as it is shown."""
    return DeliveryBody(
        id=delivery.id,
        job_id=delivery.job_id,
        url=delivery.url,
        state=delivery.state,
        created_at=_moment(delivery.created_at),
        next_at=None if delivery.next_at is None else _moment(delivery.next_at),
        attempts=[AttemptBody(at=_moment(a.at), status=a.status, error=a.error) for a in delivery.attempts],
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def routes(deliveries: Deliveries, responses: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes under /v1/webhooks; `responses` documents their errors."""
    hooks = Routes(deliveries)
    router = APIRouter(prefix="/v1/webhooks", responses=responses)
    router.get("/deliveries", response_model=DeliveryPage)(hooks.page)
    router.post("/deliveries/{delivery_id}/redeliver", status_code=202, response_model=DeliveryBody)(hooks.again)
    router.get("/secrets", response_model=Secrets)(hooks.secrets)
    router.post("/secrets/rotate", response_model=Secrets)(hooks.rotate)
    return router

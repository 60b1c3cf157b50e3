"""class Deliveries: log and redelivery of webhooks, signing secrets."""

from __future__ import annotations

from serve_app.errors import RequestError
from serve_app.models.delivery import Delivery, DeliveryState
from serve_app.models.principal import Principal
from serve_app.store.webhook_outbox import Outbox


class Deliveries:
    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def page(
        self, principal: Principal, *, limit: int, before: int | None = None, state: DeliveryState | None = None
    ) -> tuple[list[Delivery], int | None]:
        """Deliveries, newest first, and the next cursor (None at the end)."""
        return await self._outbox.page(principal.owner, principal.tenant, limit=limit, before=before, state=state)

    async def redeliver(self, principal: Principal, delivery_id: str) -> Delivery:
        """Raises RequestError `not_found`, or `conflict` where the job has ended again or is gone."""
        due = await self._outbox.redeliver(delivery_id, principal.owner, principal.tenant)
        if due is False:
            raise RequestError("conflict", "Its job has expired or was tried again: it cannot be delivered any more.")
        delivery = await self._outbox.get(delivery_id, principal.tenant) if due else None
        if delivery is None:
            raise RequestError("not_found", "There is no such delivery.")
        return delivery

    async def secrets(self, principal: Principal) -> list[str]:
        """Valid signing secrets of the tenant, newest first."""
        return await self._outbox.secrets(principal.tenant)

    async def rotate(self, principal: Principal, overlap_s: float) -> list[str]:
        """Create a signing secret; the old one stays valid for `overlap_s`."""
        return await self._outbox.rotate(principal.tenant, overlap_s)

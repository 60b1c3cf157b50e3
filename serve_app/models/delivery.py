"""Webhook deliveries and their attempts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DeliveryState(StrEnum):
    """State of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"  # given up: a dead letter


@dataclass(frozen=True, slots=True)
class Attempt:
    at: float  # Unix seconds
    status: int | None  # of the HTTP response
    error: str | None  # why there was no response


@dataclass(frozen=True, slots=True)
class Delivery:
    """Delivery of a job's end to a URL."""

    id: str  # the `webhook-id` of every attempt
    job_id: str
    url: str
    state: DeliveryState
    created_at: float  # Unix seconds
    next_at: float | None  # Unix seconds of the next attempt
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Due:
    id: str
    job_id: str
    tries: int  # attempts before this one
    tenant: str = ""

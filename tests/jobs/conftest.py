"""A house for the tests of the core."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from deployments.artifacts import Artifacts
from serve_app.jobs.store import Store
from serve_app.jobs.terms import Leases
from tests.house import House, open_house


@pytest.fixture
def leases() -> Leases:
    """Some that tests can wait for the end of."""
    return Leases(lease_s=2.0)


@pytest.fixture
async def house(store: Store, artifacts: Artifacts, ffmpeg: str) -> AsyncIterator[House]:
    """The core without Ray, at work."""
    async with open_house(store, artifacts, ffmpeg) as house:
        yield house

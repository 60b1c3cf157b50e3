"""Fixture for tests that wait for a lease to expire."""

from __future__ import annotations

import pytest

from serve_app.models.lease import LeaseRules


@pytest.fixture
def leases() -> LeaseRules:
    """Leases short enough to wait for."""
    return LeaseRules(lease_s=2.0)

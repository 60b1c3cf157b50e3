"""Scheduling policy for Ray's processes; that they inherit it is tested with `murmur up`."""

from __future__ import annotations

import os

import pytest

from serve_app.ray_serve.environment import batch_scheduled


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
def test_the_policy_is_restored_and_exceptions_pass() -> None:
    before = os.sched_getscheduler(0)
    with pytest.raises(OSError, match="no room"), batch_scheduled():
        raise OSError("no room")
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize("call", ["sched_getscheduler", "sched_setscheduler"])
def test_a_sandbox_that_forbids_it_does_not_prevent_a_start(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, call, forbidden, raising=False)
    started = False
    with batch_scheduled():
        started = True
    assert started

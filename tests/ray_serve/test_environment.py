"""How Ray is scheduled where it shares a machine with the models; that its processes are is tested with `murmur up`."""

from __future__ import annotations

import os

import pytest

from serve_app.ray_serve.environment import batch_scheduled


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
def test_a_thread_is_scheduled_afterwards_as_it_was_before_and_hears_what_went_wrong() -> None:
    before = os.sched_getscheduler(0)
    with pytest.raises(OSError, match="no room"), batch_scheduled():
        raise OSError("no room")
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize("call", ["sched_getscheduler", "sched_setscheduler"])
def test_a_sandbox_that_forbids_it_is_no_reason_not_to_start(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, call, forbidden, raising=False)
    started = False
    with batch_scheduled():
        started = True
    assert started

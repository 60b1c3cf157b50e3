"""Waits of a start: what is waited for is logged, and what can pass later does not delay it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.local import deployment
from serve_app.local.deployment import Deployment, last_line, waited_for
from serve_app.settings import Settings

READY = {"status": "ready", "redis": "ok", "storage": "ok", "disk": "ok", "runner": "ok", "model": "ok"}


class Interrupted(Exception):
    """The test ends the wait."""


def waiting(monkeypatch: pytest.MonkeyPatch, *readings: dict[str, str]) -> None:
    """Wait until ready, with what /readyz answers one after another."""
    answers = iter(readings)

    def read(*_: Any) -> dict[str, str]:
        try:
            return next(answers)
        except StopIteration:
            raise Interrupted from None

    monkeypatch.setattr(deployment, "_readiness", read)
    monkeypatch.setattr(deployment, "POLL_S", 0.0)
    monkeypatch.setattr(deployment, "REMINDER_S", 0.0)
    Deployment(Settings.model_validate({}), "http://127.0.0.1:1", lambda: None)._wait_until_ready()


def test_a_start_waits_for_a_runner_and_a_model_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    waiting(monkeypatch, {}, READY | {"model": "no Transcriber has answered yet"}, READY)
    assert "its port does not answer" in caplog.text
    assert "no Transcriber has answered yet" in caplog.text
    with pytest.raises(Interrupted):
        waiting(monkeypatch, READY | {"runner": "no Runner is alive"})


def test_a_full_disk_does_not_hide_old_transcripts_behind_a_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waiting(monkeypatch, READY | {"status": "unready", "disk": "3 MiB are free"})
    assert "disk is not ready: 3 MiB are free" in caplog.text


def test_deployments_without_replicas_are_named_with_the_reason() -> None:
    deployments = {
        "Ingress": SimpleNamespace(status="HEALTHY", replica_states={}, message=""),
        "Transcriber": SimpleNamespace(status="UPDATING", replica_states={"STARTING": 1}, message="needs\n 1 GPU"),
    }
    assert waited_for(deployments) == "Transcriber (1 starting: needs 1 GPU)"


def test_the_last_line_of_an_error_has_no_credentials() -> None:
    error = RuntimeError("Traceback\n  ValueError: cannot parse 's3://key:hunter2@bucket' at redis://:hunter2@host/0\n\n")
    assert "hunter2" not in last_line(error)
    assert last_line(error).startswith("ValueError: cannot parse")

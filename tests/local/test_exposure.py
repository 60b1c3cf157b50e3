"""Listening sockets of a one-machine service: those beyond loopback are found and refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from serve_app.local.exposure import check_loopback, exposed_sockets
from serve_app.local.preflight import StartError

ME = psutil.Process()


@contextmanager
def listening(address: str) -> Iterator[int]:
    """Listen on a free port of `address`."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        try:
            server.bind((address, 0))
        except OSError:
            pytest.skip(f"{address} is not available here")
        server.listen()
        port: int = server.getsockname()[1]
        yield port


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_socket_beyond_loopback_is_refused_by_name(address: str) -> None:
    with listening(address) as port:
        with pytest.raises(StartError, match=rf"Ray 2\.60.* on port {port} of {address}.*`make setup`"):
            check_loopback([ME], api_port=1)
        assert len(exposed_sockets(ME, api_port=1)) == 1
    check_loopback([ME], api_port=1)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_socket_on_loopback_is_accepted(address: str) -> None:
    with listening(address):
        check_loopback([ME], api_port=1)


def test_the_port_of_the_api_may_be_public() -> None:
    with listening("0.0.0.0") as port:
        check_loopback([ME], api_port=port)


def test_a_process_that_has_ended_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(psutil.Process, "net_connections", gone)
    assert exposed_sockets(ME, api_port=1) == []


def test_sockets_that_cannot_be_read_are_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def denied(*_: object) -> None:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil.Process, "net_connections", denied)
    assert exposed_sockets(ME, api_port=1) == []
    assert "cannot be read" in caplog.text

"""Monkey patches of Ray: they work with the installed release, and a release that breaks one is refused by name."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import ray
from ray.serve._private import http_util, proxy, proxy_router, replica

from serve_app.ray_serve import patches
from serve_app.ray_serve.environment import UnsupportedRay
from serve_app.ray_serve.patches import PacedQueue, PacedReceive, check_patches


def test_the_patches_work_with_the_installed_release() -> None:
    check_patches()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (proxy, "MessageQueue"),
        (replica, "ASGIReceiveProxy"),
        (replica, "add_port_to_grpc_server"),
        (proxy, "HTTPProxy"),
        (proxy, "get_http_response_status"),
        (proxy, "send_http_response_on_exception"),
        (proxy_router.ProxyRouter, "match_route"),
        (http_util.MessageQueue, "get_messages_nowait"),
        (http_util.ASGIReceiveProxy, "queue"),
        (http_util.ASGIReceiveProxy, "fetch_until_disconnect"),
    ],
)
@pytest.mark.parametrize("entry", [check_patches, patches.pace_proxy, patches.pace_replica, patches.bind_to_loopback])
def test_an_attribute_that_moved_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, entry: Any
) -> None:
    monkeypatch.delattr(owner, name)
    with pytest.raises(UnsupportedRay, match=name) as refused:
        entry()
    assert f"Ray {ray.__version__}" in str(refused.value)
    assert "install Ray 2.60" in str(refused.value)


def test_a_renamed_private_field_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(self: Any) -> None:
        self._closed, self._messages = False, []

    monkeypatch.setattr(http_util.MessageQueue, "__init__", renamed)
    with pytest.raises(UnsupportedRay, match="_message_queue"):
        patches.pace_proxy()


def test_a_class_that_moved_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(http_util, "MessageQueue")
    monkeypatch.delitem(sys.modules, "serve_app.ray_serve.patches")
    with pytest.raises(UnsupportedRay, match="MessageQueue"):
        importlib.import_module("serve_app.ray_serve.patches")


async def unbounded(self: Any, message: Any) -> None:
    """Enqueue without back-pressure, as a changed base class might."""
    self.put_nowait(message)


async def without_waiting(self: Any) -> None:
    """Fetch ahead, as a base class would that no longer calls the function it is given."""
    self.queue.put_nowait({"type": "http.request"})


def unordered(self: Any) -> list[Any]:
    """Return the messages in reverse."""
    messages = list(reversed(self._message_queue))
    self._message_queue.clear()
    self._drained.set()
    return messages


def never_released(self: Any) -> None:
    """Close without releasing the sender."""
    self._closed = True


def ignores_the_address(server: Any, _: str) -> int:
    """Bind to every interface whatever the address, as a changed signature might."""
    port: int = server.add_insecure_port("[::]:0")
    return port


@pytest.mark.parametrize(
    ("owner", "name", "broken", "reason"),
    [
        (PacedQueue, "__call__", unbounded, "does not block its sender"),
        (PacedQueue, "get_messages_nowait", unordered, "lost or reordered"),
        (PacedQueue, "close", never_released, "hang"),
        (PacedReceive, "fetch_until_disconnect", without_waiting, "fetches an upload ahead of its reader"),
        (replica, "add_port_to_grpc_server", ignores_the_address, "cannot be bound to loopback"),
    ],
)
def test_a_patch_that_does_not_work_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, broken: Any, reason: str
) -> None:
    monkeypatch.setattr(patches, "CHECK_TIMEOUT_S", 0.2)
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(UnsupportedRay, match=reason):
        check_patches()


def test_a_changed_signature_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(self: Any, scope: Any) -> None:
        self.scope = scope

    monkeypatch.setattr(http_util.ASGIReceiveProxy, "__init__", changed)
    with pytest.raises(UnsupportedRay, match="TypeError"):
        check_patches()

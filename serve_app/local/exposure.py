"""Listening sockets beyond loopback."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from ipaddress import ip_address

import psutil

from serve_app.local.preflight import StartError
from serve_app.ray_serve.environment import SUPPORTED_RAY

log = logging.getLogger(__name__)

NAMED = 3  # sockets that a message names; the rest are counted


def check_loopback(processes: Iterable[psutil.Process], api_port: int) -> None:
    """Refuse sockets beyond loopback, except the API's. Raises StartError."""
    exposed = sorted({socket for process in processes for socket in exposed_sockets(process, api_port)})
    if exposed:
        more = f" and {len(exposed) - NAMED} more" if len(exposed) > NAMED else ""
        raise StartError(
            f"Ray {version('ray')} listens beyond this machine ({', '.join(exposed[:NAMED])}{more}), which is not "
            f"safe: unset RAY_ variables of your own, and install Ray {SUPPORTED_RAY} (`make setup`)"
        )


def exposed_sockets(process: psutil.Process, api_port: int) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        try:
            listening = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        except psutil.AccessDenied:
            log.warning("sockets of process %d cannot be read, so it is not checked that they are on loopback", process.pid)
            return []
        beyond = [c.laddr for c in listening if c.laddr.port != api_port and not _is_loopback(c.laddr.ip)]
        return [f"{_name(process)} on port {address.port} of {address.ip}" for address in beyond]
    return []


def _is_loopback(address: str) -> bool:
    return ip_address(address.removeprefix("::ffff:")).is_loopback


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    return command[0].split()[0].rpartition("/")[2] if command and command[0].split() else process.name()

"""`murmur keys`: API keys in a data directory or a Redis, with or without a running service."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from serve_app.cli.configuration import fail, settings_with
from serve_app.errors import StoreUnavailable
from serve_app.jobs.audit_log import AuditLog
from serve_app.local.preflight import (
    StartError,
    lock_data_dir,
    temporary_directory,
    without_password,
)
from serve_app.local.redis_checks import check_redis, service_connected
from serve_app.local.valkey import Valkey, ValkeyFailed, data_of, url_file
from serve_app.models.principal import DEFAULT_SCOPES, SCOPES
from serve_app.settings import Settings
from serve_app.store.api_keys import ApiKeys, KeyRefused
from serve_app.store.connection import connect

T = TypeVar("T")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

keys = typer.Typer(no_args_is_help=True, help="API keys of a service.")
DataDir = Annotated[Path | None, typer.Option(help="The service's data directory.")]
RedisUrl = Annotated[str | None, typer.Option(help="The service's Redis, if it does not use the embedded Valkey.")]


@keys.command()
def create(
    name: Annotated[str, typer.Option(help="Owner of the jobs: keys of the same name and tenant see the same jobs.")],
    tenant: Annotated[str, typer.Option(help="Tenant, whose limits it shares.")] = "default",
    scope: Annotated[list[str] | None, typer.Option(help=f"What it allows: {', '.join(SCOPES)}.")] = None,
    expires: Annotated[str | None, typer.Option(help="How long it is valid: 12h, 90d; for ever by default.")] = None,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Create a key and print it, alone on standard output. Only its hash is stored."""
    scopes = scope or DEFAULT_SCOPES
    lifetime_s = None if expires is None else seconds(expires)
    created = _run(data_dir, redis_url, lambda store: store.create(name, tenant, scopes, lifetime_s), may_create=True)
    _audit(data_dir, "key.created", key_id_of(created), tenant=tenant, owner=name, scopes=scopes)
    sys.stdout.write(f"{created}\n")


@keys.command("list")
def list_keys(data_dir: DataDir = None, redis_url: RedisUrl = None) -> None:
    """List all keys, without their secrets."""
    table = Table("id", "tenant", "name", "scopes", "created", "expires", box=None, pad_edge=False)
    for key in _run(data_dir, redis_url, ApiKeys.list):
        expires = "never" if key.expires_at is None else _date(key.expires_at)
        table.add_row(key.id, key.tenant, key.name, " ".join(key.scopes), _date(key.created_at), expires)
    Console(width=None if sys.stdout.isatty() else 300).print(table)


@keys.command()
def revoke(key_id: str, data_dir: DataDir = None, redis_url: RedisUrl = None) -> None:
    """Revoke a key, effective at once."""
    _run(data_dir, redis_url, lambda store: store.revoke(key_id))
    _audit(data_dir, "key.revoked", key_id)


@keys.command()
def rotate(
    key_id: str,
    overlap: Annotated[str, typer.Option(help="How long the old key stays valid: 0s, 12h, 7d.")] = "24h",
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Replace a key and print the new one; the old one stays valid for a while."""
    created = _run(data_dir, redis_url, lambda store: store.rotate(key_id, seconds(overlap)))
    _audit(data_dir, "key.created", key_id_of(created), replaces=key_id)
    sys.stdout.write(f"{created}\n")


def seconds(text: str) -> float:
    """Parse `90s`, `5m`, `12h` or `30d` to seconds."""
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is no duration: write 90s, 5m, 12h or 30d")
    return int(match[1]) * UNITS[match[2]]


def key_id_of(key: str) -> str:
    return key.split("_")[1]


def _audit(data_dir: Path | None, event: str, key_id: str, **fields: object) -> None:
    """Write to the audit log, if it is on."""
    settings = settings_with(data_dir=data_dir)
    if settings.audit_log:
        AuditLog.under(settings.data_dir).write(event, result="ok", key_id=key_id, user=getuser(), **fields)


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def _run(
    data_dir: Path | None, redis_url: str | None, work: Callable[[ApiKeys], Awaitable[T]], *, may_create: bool = False
) -> T:
    """Run an operation on a store's keys. A missing store is refused unless `may_create`."""

    async def run(url: str) -> T:
        redis = connect(url)
        try:
            return await work(ApiKeys(redis))
        finally:
            await redis.aclose()

    settings = settings_with(data_dir=data_dir, redis_url=redis_url)
    if not may_create and not settings.redis_url and not data_of(settings.data_dir).is_dir():
        raise fail(f"there are no keys in {settings.data_dir}: name the service's --data-dir or --redis-url", 2)
    try:
        with _open_store(settings) as url:
            return asyncio.run(run(url))
    except (KeyRefused, StartError, ValkeyFailed, StoreUnavailable) as error:
        raise fail(str(error), 1) from None


@contextmanager
def _open_store(settings: Settings) -> Iterator[str]:
    """URL of the store; an embedded Valkey that is not running is started for this command."""
    if settings.redis_url:
        check_redis(settings.redis_url)
        in_use = True
        with suppress(StartError):  # a server may forbid clients to list its connections
            in_use = service_connected(settings.redis_url)
        _name_store(without_password(settings.redis_url), in_use=in_use)
        yield settings.redis_url
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_data_dir(settings.data_dir))
        except StartError:
            if not url_file(settings.data_dir).is_file():
                raise
            _name_store(str(settings.data_dir), in_use=True)
            yield url_file(settings.data_dir).read_text()
            return
        _name_store(str(settings.data_dir), in_use=False)
        valkey = Valkey(settings.data_dir, Path(stack.enter_context(temporary_directory())))
        valkey.start()
        stack.callback(valkey.stop)
        yield valkey.url


def _name_store(store: str, *, in_use: bool) -> None:
    sys.stderr.write(f"keys in {store}{'' if in_use else ', which no running service uses'}\n")

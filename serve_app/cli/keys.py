"""`murmur keys`: API keys of the service on some data directory or Redis, whether it runs or not."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from serve_app.errors import StoreUnavailable
from serve_app.local.preflight import StartError, check_redis, lock_data_dir, temporary_directory
from serve_app.local.valkey import Valkey, ValkeyFailed, url_file
from serve_app.models.principal import SCOPES
from serve_app.settings import Settings
from serve_app.store.api_keys import ApiKeys, KeyRefused
from serve_app.store.connection import connect

T = TypeVar("T")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

keys = typer.Typer(no_args_is_help=True, help="API keys: who may use the service.")
DataDir = Annotated[Path | None, typer.Option(help="The service's data directory.")]
RedisUrl = Annotated[str | None, typer.Option(help="The service's Redis, where it has one of its own.")]


@keys.command()
def create(
    name: Annotated[str, typer.Option(help="Whose it is: keys of one name and tenant see the same jobs.")],
    tenant: Annotated[str, typer.Option(help="Tenant, whose limits and turns it shares.")] = "default",
    scope: Annotated[list[str] | None, typer.Option(help=f"What it is good for: {', '.join(SCOPES)}.")] = None,
    expires: Annotated[str | None, typer.Option(help="How long it is good: 12h, 90d; for ever when left out.")] = None,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Make a key. It is printed once, alone on standard output, and kept as a hash."""
    scopes = scope or [s for s in SCOPES if s != "admin"]
    lifetime_s = None if expires is None else seconds(expires)
    sys.stdout.write(_ask(data_dir, redis_url, lambda k: k.create(name, tenant, scopes, lifetime_s)) + "\n")


@keys.command("list")
def list_keys(data_dir: DataDir = None, redis_url: RedisUrl = None) -> None:
    """All keys, without their secrets."""
    table = Table("id", "tenant", "name", "scopes", "created", "expires", box=None, pad_edge=False)
    for key in _ask(data_dir, redis_url, ApiKeys.list):
        expires = "never" if key.expires_at is None else _date(key.expires_at)
        table.add_row(key.id, key.tenant, key.name, " ".join(key.scopes), _date(key.created_at), expires)
    Console(width=None if sys.stdout.isatty() else 300).print(table)


@keys.command()
def revoke(key_id: str, data_dir: DataDir = None, redis_url: RedisUrl = None) -> None:
    """End a key at once."""
    _ask(data_dir, redis_url, lambda k: k.revoke(key_id))


@keys.command()
def rotate(
    key_id: str,
    overlap: Annotated[str, typer.Option(help="How long the old one goes on: 0s, 12h, 7d.")] = "24h",
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Make a key in place of another, which goes on for a while; the new one is printed."""
    sys.stdout.write(_ask(data_dir, redis_url, lambda k: k.rotate(key_id, seconds(overlap))) + "\n")


def seconds(text: str) -> float:
    """`90s`, `5m`, `12h`, `30d` → seconds."""
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is no time: say 90s, 5m, 12h or 30d")
    return int(found[1]) * UNITS[found[2]]


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def _ask(data_dir: Path | None, redis_url: str | None, work: Callable[[ApiKeys], Awaitable[T]]) -> T:
    """What `work` gives with the keys of that service."""

    async def asked(url: str) -> T:
        redis = connect(url)
        try:
            return await work(ApiKeys(redis))
        finally:
            await redis.aclose()

    given: dict[str, Any] = {"data_dir": data_dir, "redis_url": redis_url}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    try:
        with _redis(settings) as url:
            return asyncio.run(asked(url))
    except (KeyRefused, StartError, ValkeyFailed, StoreUnavailable) as error:
        sys.stderr.write(f"murmur: {error}\n")
        raise typer.Exit(1) from None


@contextmanager
def _redis(settings: Settings) -> Iterator[str]:
    """The service's Redis; where it is the embedded one and does not run, it runs for the occasion."""
    if settings.redis_url:
        check_redis(settings.redis_url)
        yield settings.redis_url
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_data_dir(settings.data_dir))
        except StartError:
            if not url_file(settings.data_dir).is_file():
                raise
            yield url_file(settings.data_dir).read_text()
            return
        valkey = Valkey(settings.data_dir, Path(stack.enter_context(temporary_directory())))
        valkey.start()
        stack.callback(valkey.stop)
        yield valkey.url

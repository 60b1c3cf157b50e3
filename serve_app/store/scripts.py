"""Redis keys and Lua scripts. Every key starts with PREFIX, whose hash tag keeps all of them in one cluster slot."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from serve_app.store.connection import execute

PREFIX = "murmur:{q}:"
SCRIPTS = Path(__file__).parent / "lua"


def key(name: str) -> str:
    """Full key of `name`."""
    return PREFIX + name


@cache
def source(name: str) -> str:
    """Source of lua/`name`.lua with lib.lua, which all scripts share, in front."""
    return (SCRIPTS / "lib.lua").read_text() + (SCRIPTS / f"{name}.lua").read_text()


class Scripts:
    """The scripts of lua/, registered with one client. Whatever must change together changes in one of them."""

    def __init__(self, redis: Redis) -> None:
        names = (path.stem for path in SCRIPTS.glob("*.lua") if path.stem != "lib")
        self._scripts = {name: redis.register_script(source(name)) for name in names}

    async def run(self, name: str, *arguments: Any) -> Any:
        """Reply of the script `name` to its ARGV. StoreUnavailable."""
        return await execute(self._scripts[name](keys=[PREFIX], args=arguments))

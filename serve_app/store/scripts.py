"""Redis keys and Lua scripts."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from serve_app.store.connection import execute

PREFIX = "murmur:{q}:"  # the hash tag keeps all keys in one cluster slot
SCRIPTS = Path(__file__).parent / "lua"


def key(name: str) -> str:
    return PREFIX + name


FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
LIBRARIES = ("lib", "lib_turns", "lib_deliveries", "lib_removal")


@cache
def source(name: str) -> str:
    """A script behind the libraries whose functions it calls."""
    # Each function that is defined costs a call time, so the frequent scripts go without those for upkeep.
    text = _read(name)
    for library in reversed(LIBRARIES):  # each calls those before it
        code = _read(library)
        if any(re.search(rf"\b{function}\b", text) for function in FUNCTION.findall(code)):
            text = code + text
    return text


def _read(name: str) -> str:
    return (SCRIPTS / f"{name}.lua").read_text()


class Scripts:
    # State that changes together changes in one script.

    def __init__(self, redis: Redis) -> None:
        names = (path.stem for path in SCRIPTS.glob("*.lua") if path.stem not in LIBRARIES)
        self._scripts = {name: redis.register_script(source(name)) for name in names}

    async def run(self, name: str, *arguments: Any) -> Any:
        """Reply of a script to its ARGV. Raises StoreUnavailable."""
        return await execute(self._scripts[name](keys=[PREFIX], args=arguments))

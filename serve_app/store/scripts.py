"""Redis keys and Lua scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from serve_app.errors import StoreUnavailable
from serve_app.store.connection import execute

PREFIX = "murmur:{q}:"  # the hash tag keeps all keys in one cluster slot
CONFIRMED = ("submit", "finish")  # scripts whose result is acknowledged
CONFIRM_MS = 5000
SCRIPTS = Path(__file__).parent / "lua"
LIBRARIES = ("lib", "lib_minutes", "lib_queue", "lib_sharing", "lib_turns", "lib_stop", "lib_deliveries", "lib_removal")
DEFINED = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)


def key(name: str) -> str:
    return PREFIX + name


@cache
def source(name: str) -> str:
    # Behind those blocks of the libraries that it needs: each call runs all of its text.
    text = (SCRIPTS / f"{name}.lua").read_text()
    blocks = "\n".join((SCRIPTS / f"{library}.lua").read_text() for library in LIBRARIES).split("\n\n")
    for block in reversed(blocks):
        if DEFINED.findall(block) and re.search(rf"\b({'|'.join(DEFINED.findall(block))})\b", text):
            text = f"{block}\n\n{text}"
    return text


class Scripts:
    # State that changes together changes in one script.

    def __init__(self, redis: Redis, replicas: int = 0) -> None:
        self._redis = redis
        self._replicas = replicas
        names = (path.stem for path in SCRIPTS.glob("*.lua") if path.stem not in LIBRARIES)
        self._scripts = {name: redis.register_script(source(name)) for name in names}

    async def run(self, name: str, *arguments: Any) -> Any:
        """Reply of a script to its ARGV. Raises StoreUnavailable."""
        if self._replicas and name in CONFIRMED:
            return await self._run_confirmed(name, arguments)
        return await execute(self._scripts[name](keys=[PREFIX], args=arguments))

    async def _run_confirmed(self, name: str, arguments: Sequence[Any]) -> Any:
        # WAIT counts for the writes of its own connection.
        async with self._redis.pipeline(transaction=False) as pipe:
            await self._scripts[name](keys=[PREFIX], args=arguments, client=pipe)
            pipe.execute_command("WAIT", self._replicas, CONFIRM_MS)
            reply, confirmed = await execute(pipe.execute())
        if confirmed < self._replicas:
            raise StoreUnavailable(
                f"{confirmed} of {self._replicas} replicas confirmed a write in {CONFIRM_MS} ms: start them, or lower "
                "MURMUR_REDIS_REPLICAS",
                "too few replicas of Redis confirm writes",
            )
        return reply

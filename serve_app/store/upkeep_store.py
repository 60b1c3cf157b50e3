"""Due lists of the sweeper, and leadership between sweepers."""

# Keys: `ended`, `audio`, `private`, `expiry` job ids by time; `removals` prefixes in the storage by due time;
# `setbacks` failures by list and member; `leader:ROLE` name of the leader; `rewrite_wanted`, `rewrite_wait` see rewrite_log.

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from serve_app.store.connection import execute
from serve_app.store.scripts import Scripts, key

SWEEP_LIMIT = 100  # members of a list at once: a script holds Redis up for milliseconds
POSTPONE_S, LONGEST_POSTPONE_S = 60.0, 6 * 3600.0


class DueList(StrEnum):
    """List whose members are dealt with one by one."""

    PRIVATE = "private"
    REMOVALS = "removals"


class UpkeepStore:
    # Each script looks itself at what is due: a job that was retried since is left alone. Those that work through a list
    # return how many members they dealt with; there may be more if these are SWEEP_LIMIT.

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._run = scripts.run

    async def lead(self, role: str, name: str, hold_s: float) -> bool:
        """Take or renew the leadership. False while another has it."""
        return bool(await self._run("lead", role, name, int(hold_s * 1000)))

    async def step_down(self, role: str, name: str) -> None:
        await self._run("step_down", role, name)

    async def drop_old_streams(self, grace_s: float) -> int:
        """Delete event streams of jobs that ended `grace_s` ago."""
        return int(await self._run("drop_streams", int(grace_s * 1000), SWEEP_LIMIT))

    async def drop_audio(self, ttl_s: float) -> int:
        """Have audio deleted of jobs that ended `ttl_s` ago; 0 for none."""
        return int(await self._run("drop_audio", int(ttl_s * 1000), SWEEP_LIMIT))

    async def expire(self) -> int:
        """Delete or purge jobs past their TTL."""
        return int(await self._run("expire", SWEEP_LIMIT))

    async def expire_deliveries(self) -> int:
        """Delete old logs of deliveries."""
        return int(await self._run("expire_deliveries", SWEEP_LIMIT))

    async def private_ended(self, grace_s: float) -> list[str]:
        """Ids of unsettled private jobs that ended `grace_s` ago."""
        seconds, micros = await execute(self._redis.time())
        top = (seconds - grace_s) * 1000 + micros // 1000
        ids = await execute(self._redis.zrangebyscore(key(DueList.PRIVATE), "-inf", top, 0, SWEEP_LIMIT))
        return [job_id.decode() for job_id in ids]

    async def private_settled(self, job_id: str) -> None:
        """Record that a job's URL and audio are deleted."""
        await self._run("settle", DueList.PRIVATE, job_id)
        await execute(self._redis.set(key("rewrite_wanted"), 1))

    async def removals(self) -> list[str]:
        """Prefixes to delete from the storage."""
        return [prefix.decode() for prefix in await self._run("removals_due", SWEEP_LIMIT)]

    async def removed(self, *prefixes: str) -> None:
        """Record that they are deleted."""
        for prefix in prefixes:
            await self._run("settle", DueList.REMOVALS, prefix)

    async def being_removed(self, prefix: str) -> bool:
        return await execute(self._redis.zscore(key(DueList.REMOVALS), prefix)) is not None

    async def postpone(self, due: DueList, member: str, grace_s: float = 0.0) -> float:
        """Make a failed member due later (exponential back-off); returns the seconds."""
        arguments = [int(grace_s * 1000), int(POSTPONE_S * 1000), int(LONGEST_POSTPONE_S * 1000)]
        return int(await self._run("postpone", due, member, *arguments)) / 1000

    async def jobs_keep_files(self, ids: Sequence[str]) -> list[bool]:
        """Whether each job exists with its results."""
        # The folder of a purged job can only have been written by a straggler.
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(key(f"job:{job_id}"), "tenant", "purged_at")
            replies = await execute(pipe.execute())
        return [tenant is not None and purged_at is None for tenant, purged_at in replies]

    async def files_needed(self, ids: Sequence[str]) -> list[bool]:
        """Whether some job needs each shared file."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for file_id in ids:
                pipe.exists(key(f"file_jobs:{file_id}"))
            replies = await execute(pipe.execute())
        return [bool(reply) for reply in replies]

    async def rewrite_log(self, every_s: float) -> bool:
        """Rewrite the append-only file if private jobs were settled. False if Redis refuses."""
        # Until then, it holds the commands that stored their URLs.
        if not await execute(self._redis.exists(key("rewrite_wanted"))):
            return True
        if not await execute(self._redis.set(key("rewrite_wait"), 1, nx=True, px=int(every_s * 1000))):
            return True
        await execute(self._redis.delete(key("rewrite_wanted")))
        return bool(await execute(self._rewrite()))

    async def _rewrite(self) -> bool:
        try:
            persistence: Any = await self._redis.info("persistence")
            if persistence.get("aof_enabled"):
                await self._redis.bgrewriteaof()
        except ResponseError:
            return False
        return True

"""Claims, and commits under a fencing token."""

from __future__ import annotations

from collections.abc import Mapping
from secrets import randbits
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from serve_app.models.job import JobError, JobWarning, Phase
from serve_app.models.lease import AttemptCost, Claim, Commit, CommitOutcome, LeaseRules, LeaseState
from serve_app.store.connection import execute
from serve_app.store.records import CHANNEL, WARNING
from serve_app.store.scripts import Scripts, key


class LeaseStore:
    """Writes under a claim; False or LOST: the lease is lost."""

    def __init__(self, redis: Redis, scripts: Scripts, rules: LeaseRules) -> None:
        self._redis = redis
        self._scripts = scripts
        self._rules = rules

    @property
    def lease_s(self) -> float:
        return self._rules.lease_s

    async def set_weights(self, weights: Mapping[str, float]) -> None:
        """Replace the scheduling weights of tenants (default 1)."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(key("weights"))
            if weights:
                pipe.hset(key("weights"), mapping={tenant: str(weight) for tenant, weight in weights.items()})
            await execute(pipe.execute())

    # `free`: places of the worker. While one has more than this claim fills, no running job makes room for others.
    # Its last `reserve` places it keeps for interactive jobs of tenants with less than their share.
    async def claim(self, worker: str, tenant_cap: int = 0, free: int = 1, reserve: int = 0) -> Claim | None:
        # redis-py sends the same arguments again if the reply is lost, and so gets the same claim.
        arguments = [worker, self._lease_ms, tenant_cap, uuid4().hex, randbits(16), free, reserve]
        reply = await self._scripts.run("claim", *arguments)
        return Claim(reply[0].decode(), int(reply[1])) if reply else None

    async def renew(self, claim: Claim) -> LeaseState:
        """Extend the lease (heartbeat)."""
        return LeaseState((await self._scripts.run("renew", claim.job_id, claim.token, self._lease_ms)).decode())

    async def enter(self, claim: Claim, phase: Phase) -> bool:
        return bool(await self._scripts.run("phase", claim.job_id, claim.token, phase))

    async def note_audio(
        self,
        claim: Claim,
        *,
        declared_s: float | None = None,
        total_s: float | None = None,
        done_s: float | None = None,
        channels: int | None = None,
    ) -> bool:
        """Record seconds declared, decoded and transcribed, and channels."""
        fields: dict[str, float | None] = {
            "audio_declared_s": declared_s,
            "audio_total_s": total_s,
            "audio_done_s": done_s,
            "audio_channels": channels,
        }
        pairs = [item for name, value in fields.items() if value is not None for item in (name, value)]
        return bool(await self._scripts.run("phase", claim.job_id, claim.token, "", *pairs))

    async def commit(self, claim: Claim, commit: Commit) -> CommitOutcome:
        """Append a window's segments and move the checkpoint; idempotent by place in the audio."""
        progress, channel = commit.progress, "" if commit.channel is None else commit.channel
        eta_s = "" if progress.eta_s is None else progress.eta_s
        arguments: list[Any] = [channel, commit.state.until, CHANNEL.dump_json(commit.state), commit.window, commit.end_s]
        arguments += [progress.audio_done_s, eta_s, commit.language or "", commit.device, progress.dump()]
        arguments += [commit.decodes, int(commit.fill * 1000), WARNING.dump_json(commit.warning) if commit.warning else ""]
        arguments += commit.segments
        return CommitOutcome((await self._scripts.run("commit", claim.job_id, claim.token, *arguments)).decode())

    async def warn(self, claim: Claim, warning: JobWarning) -> bool:
        """Add a warning to the job, unless it has the same already."""
        return bool(await self._scripts.run("warn", claim.job_id, claim.token, WARNING.dump_json(warning)))

    # `partial`: the transcript of a job that did not complete was stored under this claim.
    async def finish(
        self,
        claim: Claim,
        phase: Phase,
        error: JobError | None = None,
        language: str | None = None,
        *,
        partial: bool = False,
    ) -> bool:
        """End the job, as cancelled if a cancel was requested."""
        code, message = (error.code, error.message) if error else ("", "")
        arguments = [phase, code, message, language or "", int(partial)]
        return bool(await self._scripts.run("finish", claim.job_id, claim.token, *arguments))

    async def restart(self, claim: Claim) -> bool:
        """Drop what was committed: segments, checkpoint and warnings."""
        return bool(await self._scripts.run("restart", claim.job_id, claim.token))

    async def give_back(
        self, claim: Claim, *, delay_s: float = 0.0, cost: AttemptCost = AttemptCost.NOTHING, model: str = ""
    ) -> bool:
        """Requeue the job, or fail it after too many lost workers."""
        arguments = [int(delay_s * 1000), cost, self._rules.max_stalls, self._rules.max_losses, model]
        return bool(await self._scripts.run("give_back", claim.job_id, claim.token, *arguments))

    async def reap(self) -> int:
        """Requeue jobs whose lease expired; returns how many."""
        return int(await self._scripts.run("reap", self._rules.max_stalls, self._rules.max_losses, self._lease_ms))

    @property
    def _lease_ms(self) -> int:
        return int(self._rules.lease_s * 1000)

"""class Store: the state in Redis, divided by consumer."""

# Keys (all with PREFIX of scripts.py; others are in webhook_outbox.py, api_keys.py and upkeep_store.py):
#   job:ID                            hash, one job                    file:ID, file_jobs:ID      shared source and its jobs
#   events:ID                         stream, events of one job        once:HASH                  idempotency keys
#   index:TENANT/OWNER                ids by order of creation         seq, stamp, token          counters
#   made:, ended:T/O/DIALECT:SHELF    ids by time, for listings        metrics                    counters and histograms
#   wait:TENANT                       queue by urgency and order       bucket:TENANT              token bucket (rate limit)
#   tenants, weights, finish, clock   start-time fair queueing         used:TENANT                audio a month
#   running, claimed, pace, kept      per tenant                       leases, delayed, expiry,
#   held, held:TENANT                 reserved audio, by job           ended, audio, private      ids by due time
#   making_room, share                sharing of running jobs          worker_jobs, idle          leases, last idle claim
#   claim:REQUEST                     claim, to repeat a lost reply    shared:WORKER              lost worker had others
#   reaped                            last search for expired leases
#   summaries:TENANT, summaries       jobs to summarise, tenants by turn
#   runners, probe, installation      see heartbeats.py, installation.py
# Channels: `work` (a job was queued: the worker to wake, or all), `wake` (a stream grew), `cancel` (stop a running job).

from __future__ import annotations

from redis.asyncio import Redis

from serve_app.models.lease import LeaseRules
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import Client, execute
from serve_app.store.event_log import EventLog
from serve_app.store.heartbeats import Heartbeats
from serve_app.store.job_store import JobStore
from serve_app.store.lease_store import LeaseStore
from serve_app.store.scripts import Scripts
from serve_app.store.stats import StatsReader
from serve_app.store.summary_queue import SummaryQueue
from serve_app.store.tenant_usage import TenantUsage
from serve_app.store.upkeep_store import UpkeepStore


class Store:
    """All parts over one client. Every method raises StoreUnavailable."""

    def __init__(self, redis: Redis, rules: LeaseRules | None = None, replicas: int = 0) -> None:
        self._redis = redis
        self._rules, self._replicas = rules or LeaseRules(), replicas
        scripts = Scripts(redis, replicas)
        self.jobs = JobStore(redis, scripts)
        self.leases = LeaseStore(redis, scripts, self._rules)
        self.events = EventLog(redis)
        self.heartbeats = Heartbeats(redis)
        self.summaries = SummaryQueue(scripts)
        self.usage = TenantUsage(redis, scripts)
        self.keys = ApiKeys(redis)
        self.upkeep = UpkeepStore(redis, scripts)
        self.stats = StatsReader(scripts)

    def reopen(self) -> Store:
        """Store with connections of its own, for another event loop."""
        assert isinstance(self._redis, Client)
        return Store(self._redis.reopen(), self._rules, self._replicas)

    async def close(self) -> None:
        await execute(self._redis.aclose())

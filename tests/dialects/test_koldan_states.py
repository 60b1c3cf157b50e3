"""State machine of a Koldan job, by hypothesis: in any order, each call gives the documented status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deployments.storage.artifacts import Artifacts
from deployments.transcoding.ffmpeg import find_ffmpeg
from serve_app.dialects.base import ApiContext
from serve_app.dialects.koldan.routes import PREFIX
from serve_app.http.auth import Auth
from serve_app.ingress import create_api
from serve_app.jobs.deliveries import Deliveries
from serve_app.jobs.event_stream import EventStreams
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.local.valkey import Valkey
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.webhook_outbox import Outbox
from tests.lib.app import open_app
from tests.lib.recordings import SAMPLE

T = TypeVar("T")
HOOK = {"url": "https://example.com/x"}
UPLOAD = {"name": "x", "transcription": json.dumps({"model": "whisper-1", "language": {}})}
SOUND = SAMPLE.read_bytes()


class JobStates(RuleBasedStateMachine):
    """One job at a time, which a gate holds before the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = TemporaryDirectory(prefix="murmur-states-", dir="/tmp")
        root = Path(self.folder.name)
        self.valkey = Valkey(root / "data", root)
        self.valkey.start()
        self.state, self.deleted, self.purged = "", False, False
        self.run(self.open(root))

    async def open(self, root: Path) -> None:
        artifacts = Artifacts((root / "artifacts").as_uri())
        self.redis = connect(self.valkey.url)
        self.store = Store(self.redis)
        self.app_context = open_app(self.store, artifacts, find_ffmpeg().path)
        self.app = await self.app_context.__aenter__()
        context = ApiContext(self.app.jobs, Deliveries(Outbox(self.redis)), artifacts, 8 << 20, 30.0)
        auth = Auth(ApiKeys(self.redis), Quotas(self.store, TenantLimits()), required=False, hosts=("localhost",))
        api = create_api(context, auth, self.store, EventStreams(self.store, artifacts), version="0")
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost", timeout=30)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.app.stages.gate = asyncio.Semaphore(10_000)
        self.run(self.http.aclose())
        self.run(self.app_context.__aexit__(None, None, None))
        self.run(self.store.close())
        self.loop.close()
        self.valkey.stop()
        self.folder.cleanup()

    def call(self, method: str, path: str = "", **options: Any) -> httpx.Response:
        return self.run(self.http.request(method, f"{PREFIX}/{self.job}{path}", **options))

    @property
    def terminal(self) -> bool:
        return self.state in ("COMPLETED", "FAILED", "CANCELLED")

    @initialize(pending=st.booleans())
    def begin(self, pending: bool) -> None:
        self.create(pending)

    @precondition(lambda self: self.terminal)
    @rule(pending=st.booleans())
    def create(self, pending: bool) -> None:
        """Create a job, which waits in the queue or at the gate."""
        self.app.stages.gate = asyncio.Semaphore(0)
        self.app.stages.broken = set()
        self.deleted = self.purged = False
        if pending:
            self.run(self.app.runner.stop())
        response = self.run(self.http.post(f"{PREFIX}/upload", files={"file": SOUND}, data=UPLOAD))
        assert response.status_code == 201
        self.job = response.json()["job"]["id"]
        self.state = "PENDING"
        if not pending:
            self.reach("IN_PROGRESS")

    def reach(self, state: str) -> None:
        async def reached() -> None:
            async with asyncio.timeout(20):
                while (await self.http.get(f"{PREFIX}/{self.job}")).json()["status"] != state:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        self.run(reached())
        self.state = state

    @precondition(lambda self: self.state == "PENDING")
    @rule()
    def start(self) -> None:
        self.run(self.app.runner.start())
        self.reach("IN_PROGRESS")

    @precondition(lambda self: self.state == "IN_PROGRESS")
    @rule(succeeds=st.booleans())
    def finish(self, succeeds: bool) -> None:
        if not succeeds:
            self.app.stages.trouble = lambda _: ValueError("no")
        self.run(self.redis.hset("murmur:{q}:job:" + self.job, "attempts", "3"))  # type: ignore[arg-type]
        for _ in range(100):
            self.app.stages.gate.release()
        self.reach("COMPLETED" if succeeds else "FAILED")
        self.app.stages.trouble = lambda _: None

    @rule()
    def get(self) -> None:
        response = self.call("GET")
        assert response.status_code == 200
        body = response.json()
        assert (body["status"], body["isDeleted"], body["isPurged"]) == (self.state, self.deleted, self.purged)
        assert bool(body["result"]) == (self.state == "COMPLETED" and not self.purged)
        assert bool(body["errors"]) == (self.state == "FAILED" and not self.purged)
        assert bool(body["completionDate"]) == self.terminal
        assert bool(body["purgeAt"]) == (self.terminal and not self.purged)

    @rule()
    def result(self) -> None:
        expected = 410 if self.purged else 200 if self.state == "COMPLETED" else 404
        assert self.call("GET", "/result").status_code == expected

    @rule()
    def set_webhook(self) -> None:
        assert self.call("PUT", "/webhook", json=HOOK).status_code == (409 if self.terminal else 200)

    @rule()
    def drop_webhook(self) -> None:
        assert self.call("DELETE", "/webhook").status_code == (409 if self.terminal else 204)

    @rule()
    def cancel(self) -> None:
        assert self.call("POST", "/cancel").status_code == (409 if self.terminal else 204)
        if self.state == "PENDING":
            self.run(self.app.runner.start())
        if not self.terminal:
            self.state = "CANCELLED"

    @rule()
    def delete(self) -> None:
        assert self.call("DELETE").status_code == (204 if self.terminal and not self.deleted else 409)
        self.deleted = self.deleted or self.terminal

    @rule()
    def delete_and_purge(self) -> None:
        assert self.call("DELETE", params={"purge": "true"}).status_code == (204 if self.terminal else 409)
        self.deleted = self.purged = self.deleted or self.terminal

    @rule()
    def purge(self) -> None:
        allowed = self.deleted and not self.purged
        assert self.call("POST", "/purge").status_code == (204 if allowed else 409)
        self.purged = self.purged or allowed

    @invariant()
    def the_list_filters_by_deletion(self) -> None:
        if not self.state:
            return
        query: dict[str, Any] = {
            "status": self.state,
            "isDeleted": self.deleted,
            "isPurged": self.purged,
            "sort": "completionDate,desc",
        }
        body = self.run(self.http.get(PREFIX, params=query)).json()
        assert self.job in [job["id"] for job in body["jobs"]]
        other = self.run(self.http.get(PREFIX, params={**query, "isDeleted": not self.deleted})).json()
        assert self.job not in [job["id"] for job in other["jobs"]]


TestJobStates = JobStates.TestCase
TestJobStates.settings = settings(
    max_examples=6, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

"""Webhooks: signed, delivered at least once, under one id, whatever the receiver does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest
from redis.asyncio import Redis
from standardwebhooks import Webhook, WebhookVerificationError

from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.safe_http import HttpReply, SafeHttp
from deployments.storage.artifacts import Artifacts
from serve_app.dialects.native.translate import render, render_job
from serve_app.errors import RequestError
from serve_app.jobs.results import Results
from serve_app.local.valkey import Valkey
from serve_app.models.delivery import Delivery, DeliveryState, Due
from serve_app.models.job import JobSpec, Phase
from serve_app.models.trace import Trace
from serve_app.runner.webhook_sender import WebhookSender, retry_after
from serve_app.settings import RETRIES_S
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.scripts import key
from serve_app.store.webhook_outbox import Outbox, new_secret
from tests.lib.app import ME, App, open_app
from tests.lib.web_server import answer

QUICK = (0.0,) * 5
OK = answer(204)


@dataclass(frozen=True, slots=True)
class Call:
    """A received request."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass(slots=True)
class Sink:
    """A receiver that sends `replies` in turn, then 204; b'' hangs up."""

    replies: list[bytes] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?who=me"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        async with self.arrived:
            self.calls.append(Call(headers, body))
            reply = self.replies.pop(0) if self.replies else OK
            self.arrived.notify_all()
        writer.write(reply)
        writer.close()

    async def called(self, times: int) -> list[Call]:
        """Calls, once there are `times`."""
        async with asyncio.timeout(30), self.arrived:
            await self.arrived.wait_for(lambda: len(self.calls) >= times)
        return self.calls

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """Listen, on the port of before if there was one."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    sink = Sink()
    async with sink.up():
        yield sink


@dataclass(frozen=True, slots=True)
class Post:
    """An app with a webhook sender."""

    app: App
    outbox: Outbox
    webhooks: WebhookSender

    async def ended(self, sink: Sink, sample: Path, **options: object) -> str:
        """Id of an ended job with a webhook to the sink."""
        spec = replace(JobSpec("fake", webhook=sink.url), **options)  # type: ignore[arg-type]
        job_id = await self.app.submit(sample, spec)
        await self.app.ended(job_id)
        return job_id

    async def settled(self, job_id: str, state: DeliveryState) -> None:
        """Wait until its delivery is in `state`."""
        async with asyncio.timeout(30):
            while not [d for d in (await self.page()) if d.job_id == job_id and d.state is state]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def page(self) -> list[Delivery]:
        return (await self.outbox.page(ME.owner, ME.tenant, limit=100))[0]


@pytest.fixture
async def post(
    valkey: Valkey, store: Store, artifacts: Artifacts, ffmpeg: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Post]:
    monkeypatch.setattr("serve_app.runner.webhook_sender.IDLE_S", 0.02)
    async with open_app(store, artifacts, ffmpeg, allow=("127.0.0.1",)) as app, working(valkey, app) as post:
        yield post


@asynccontextmanager
async def working(valkey: Valkey, app: App, retries_s: tuple[float, ...] = QUICK) -> AsyncIterator[Post]:
    redis = connect(valkey.url)
    outbox = Outbox(redis)
    http = SafeHttp(AllowList.parse(["127.0.0.1"]))
    webhooks = WebhookSender(outbox, app.store, Results(app.artifacts), http, {"native": render}, retries_s)
    running = asyncio.create_task(webhooks.run())
    yield Post(app, outbox, webhooks)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await redis.aclose()


def verified(call: Call, secret: str) -> dict[str, object]:
    """The body, verified by the reference implementation."""
    body: dict[str, object] = Webhook(secret).verify(call.body, dict(call.headers))
    return body


async def test_the_end_of_a_job_is_delivered_and_signed(post: Post, sink: Sink, sample: Path) -> None:
    job_id = await post.ended(sink, sample, metadata={"order": "7"})
    (call,) = await sink.called(1)
    body = verified(call, (await post.outbox.secrets(ME.tenant))[0])
    assert (body["type"], body["data"]["id"]) == ("transcription.completed", job_id)  # type: ignore[index]
    assert body["data"]["metadata"] == {"order": "7"}  # type: ignore[index]
    assert call.headers["content-type"] == "application/json"
    assert len(call.body) < 20_000
    await post.settled(job_id, DeliveryState.DELIVERED)
    with pytest.raises(WebhookVerificationError):
        verified(call, new_secret())


async def test_a_failure_and_a_cancel_are_delivered_too(post: Post, sink: Sink, sample: Path) -> None:
    broken = await post.app.submit(b"no sound", JobSpec("fake", webhook=sink.url))
    await post.app.ended(broken)
    post.app.stages.gate = asyncio.Semaphore(0)
    job_id = await post.app.submit(sample, JobSpec("fake", webhook=sink.url))
    await post.app.until_phase(job_id, Phase.TRANSCRIBING)
    await post.app.jobs.cancel(ME, job_id)
    bodies = [json.loads(call.body) for call in await sink.called(2)]
    assert {(body["type"], body["data"]["id"]) for body in bodies} == {
        ("transcription.failed", broken),
        ("transcription.cancelled", job_id),
    }


FAILURES: Mapping[str, bytes] = {
    "failing": answer(500),
    "hanging up": b"",
    "redirecting": answer(302, b"", "Location: http://127.0.0.1/elsewhere"),
    "forbidding": answer(403),
    "rambling": b"HTTP/1.1 nonsense\r\n\r\n",
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_failing_receiver_is_retried(post: Post, sink: Sink, sample: Path, failure: bytes) -> None:
    sink.replies += [failure] * 3
    job_id = await post.ended(sink, sample)
    calls = await sink.called(4)
    await post.settled(job_id, DeliveryState.DELIVERED)
    assert len({call.id for call in calls}) == 1
    secret = (await post.outbox.secrets(ME.tenant))[0]
    assert len({json.dumps(verified(call, secret)) for call in calls}) == 1
    (delivery,) = await post.page()
    assert len(delivery.attempts) == 4
    assert [a.status for a in delivery.attempts][-1] == 204
    assert all(a.status != 204 for a in delivery.attempts[:-1])


async def test_a_receiver_that_restarts_gets_every_event(post: Post, sample: Path) -> None:
    sink = Sink()
    async with sink.up():
        first = await post.ended(sink, sample)
        await sink.called(1)
    unreachable = [await post.ended(sink, sample) for _ in range(3)]
    async with asyncio.timeout(30):
        while not any(d.attempts for d in await post.page() if d.job_id in unreachable):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for delivery in await post.page():
        await post.outbox.redeliver(delivery.id, ME.owner, ME.tenant)
    async with sink.up():
        for job_id in [first, *unreachable]:
            await post.settled(job_id, DeliveryState.DELIVERED)
    assert {json.loads(call.body)["data"]["id"] for call in sink.calls} == {first, *unreachable}


async def test_a_stalling_receiver_delays_no_other(
    post: Post, sink: Sink, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.runner.webhook_sender.REPLY_S", 0.3)
    silent = Sink()
    held = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(stall, "127.0.0.1", 0)
    silent.port = server.sockets[0].getsockname()[1]
    stalled = await post.ended(silent, sample)
    await post.ended(sink, sample)
    await sink.called(1)
    await post.settled(stalled, DeliveryState.DEAD)
    attempts = next(d for d in await post.page() if d.job_id == stalled).attempts
    assert [a.error for a in attempts] == ["There was no answer within 0.3 s."] * (len(QUICK) + 1)
    held.set()
    server.close()


async def test_status_410_stops_deliveries(post: Post, sink: Sink, sample: Path) -> None:
    sink.replies.append(answer(410))
    job_id = await post.ended(sink, sample)
    await post.settled(job_id, DeliveryState.DEAD)
    assert len(sink.calls) == 1


async def test_a_dead_delivery_can_be_redelivered(post: Post, sink: Sink, sample: Path) -> None:
    sink.replies += [answer(500)] * (len(QUICK) + 1)
    job_id = await post.ended(sink, sample)
    await post.settled(job_id, DeliveryState.DEAD)
    (dead,) = (await post.outbox.page(ME.owner, ME.tenant, limit=10, state=DeliveryState.DEAD))[0]
    assert not await post.outbox.redeliver(dead.id, "somebody", ME.tenant)
    assert not await post.outbox.redeliver("no:such", ME.owner, ME.tenant)
    assert await post.outbox.redeliver(dead.id, ME.owner, ME.tenant)
    await post.settled(job_id, DeliveryState.DELIVERED)
    assert {call.id for call in sink.calls} == {dead.id}


async def test_secrets_rotate_with_an_overlap(post: Post, sink: Sink, sample: Path) -> None:
    (old,) = await post.outbox.secrets(ME.tenant)
    new, also = await post.outbox.rotate(ME.tenant, 60.0)
    assert also == old
    await post.ended(sink, sample)
    (call,) = await sink.called(1)
    assert verified(call, old) == verified(call, new)
    assert await post.outbox.rotate(ME.tenant, 0.0) == await post.outbox.secrets(ME.tenant)
    assert len(await post.outbox.secrets(ME.tenant)) == 1
    assert await post.outbox.secrets("another") != await post.outbox.secrets(ME.tenant)


async def test_a_jobs_own_secret_signs_its_webhook_and_is_never_shown(post: Post, sink: Sink, sample: Path) -> None:
    own = new_secret()
    job_id = await post.ended(sink, sample, webhook_secret=own)
    (call,) = await sink.called(1)
    verified(call, own)
    assert own not in call.body.decode()
    assert own not in (await render_job(await post.app.jobs.get(ME, job_id), post.app.jobs.results)).model_dump_json()


async def test_a_delivery_continues_the_trace_of_its_request(post: Post, sink: Sink, sample: Path) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with post.app.jobs.draft(ME, None, Trace("r1", parent)) as draft:
        post.app.artifacts.put(draft.source, sample.read_bytes())
        job = await draft.submit(JobSpec("fake", webhook=sink.url))
    (call,) = await sink.called(1)
    traceparent = call.headers["traceparent"]
    assert traceparent.startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert traceparent != parent
    assert (await post.app.jobs.get(ME, job.id)).spec.request_id == "r1"


async def test_a_delivery_is_due_again_after_its_worker_died(valkey: Valkey, store: Store) -> None:
    redis = connect(valkey.url)
    outbox = Outbox(redis)
    await store.jobs.submit("j", "me", "t", JobSpec("fake", webhook="https://example.com/"), ttl_s=60)
    claim = await store.leases.claim("worker")
    assert claim
    await store.leases.finish(claim, Phase.COMPLETED)
    (due,) = await outbox.take(10, 0.2)
    assert await outbox.take(10, 0.2) == []
    async with asyncio.timeout(30):
        while not (again := await outbox.take(10, 60.0)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert again == [due]
    await redis.aclose()


async def test_a_deleted_job_has_no_deliveries(post: Post, sink: Sink, sample: Path) -> None:
    assert await post.webhooks.deliver(Due("gone:1-0", "gone", 0)) is None
    job_id = await post.ended(sink, sample)
    await post.settled(job_id, DeliveryState.DELIVERED)
    (delivery,) = await post.page()
    await post.app.jobs.delete(ME, job_id)
    assert await post.page() == []
    assert not await post.outbox.redeliver(delivery.id, ME.owner, ME.tenant)


async def test_the_end_before_a_retry_is_not_redelivered(post: Post, sink: Sink) -> None:
    job_id = await post.app.submit(b"no sound", JobSpec("fake", webhook=sink.url))
    await post.app.ended(job_id)
    await post.settled(job_id, DeliveryState.DELIVERED)
    (first,) = await post.page()
    await post.app.jobs.retry(ME, job_id)
    await post.app.ended(job_id)
    async with asyncio.timeout(30):
        while len(await post.page()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert not await post.outbox.redeliver(first.id, ME.owner, ME.tenant)
    assert await post.webhooks.deliver(Due(first.id, job_id, 1)) is None
    assert len({call.id for call in await sink.called(2)}) == 2


async def test_a_payload_that_cannot_be_rendered_counts_as_an_attempt(post: Post, sink: Sink, sample: Path) -> None:
    job_id = await post.ended(sink, sample, dialect="of another day")
    await post.settled(job_id, DeliveryState.DEAD)
    attempts = (await post.page())[0].attempts
    assert {a.error for a in attempts} == {"The service could not make this delivery."}
    assert sink.calls == []


async def test_a_tenants_slow_server_delays_no_other_tenant(
    post: Post, sink: Sink, sample: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.runner.webhook_sender.IN_FLIGHT_PER_TENANT", 1)
    held = asyncio.Event()

    async def stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(stall, "127.0.0.1", 0)
    slow = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for number in range(3):
        await store.jobs.submit(f"slow-{number}", "x", "slow", JobSpec("fake", webhook=slow), ttl_s=60)
        await store.jobs.cancel(f"slow-{number}")
    await post.ended(sink, sample)
    await sink.called(1)
    held.set()
    server.close()


BAD = [
    "http://example.com/hook",
    "ftp://example.com/",
    "https://user:word@example.com/",
    "https:///nowhere",
    "https://[bad/",
    "example.com",
]


@pytest.mark.parametrize("url", BAD)
async def test_a_bad_webhook_url_is_refused_at_once(post: Post, sample: Path, url: str) -> None:
    with pytest.raises(RequestError) as caught:
        await post.app.submit(sample, JobSpec("fake", webhook=url))
    assert caught.value.code == "source_forbidden"
    assert caught.value.fields[0][0] == "webhook"


async def test_a_private_address_is_never_called(post: Post, sample: Path) -> None:
    job_id = await post.app.submit(sample, JobSpec("fake", webhook="https://localhost/hook"))
    await post.app.ended(job_id)
    await post.settled(job_id, DeliveryState.DEAD)
    attempts = (await post.page())[0].attempts
    assert all("not a public one" in (a.error or "") for a in attempts)


def test_retries_last_three_days() -> None:
    assert 3 * 86_400 < sum(RETRIES_S) < 4 * 86_400


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (None, 0, 0),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", 0, 0),
        ("", 0, 0),
        ("120", 120, 120),
        ("soon", 0, 0),
        ("-5", 0, 0),
        pytest.param(formatdate(time() + 9000, usegmt=True), 5000, 9001, id="a future date"),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, least: float, most: float) -> None:
    assert least <= retry_after(HttpReply(503, value)) <= most


async def test_retry_after_delays_the_next_attempt(valkey: Valkey, post: Post, sink: Sink, sample: Path) -> None:
    sink.replies.append(answer(429, b"", "Retry-After: 3600"))
    job_id = await post.ended(sink, sample)
    await post.settled(job_id, DeliveryState.PENDING)
    (delivery,) = await post.page()
    assert delivery.next_at
    assert 3500 < delivery.next_at - time() < 3700
    assert len(sink.calls) == 1


async def test_a_free_place_is_filled_at_once(valkey: Valkey, app: App, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    # The queue is looked at at the start, and then only when a delivery has ended.
    monkeypatch.setattr("serve_app.runner.webhook_sender.IDLE_S", 3600.0)
    monkeypatch.setattr("serve_app.runner.webhook_sender.IN_FLIGHT_PER_TENANT", 2)
    for number in range(30):
        await app.store.jobs.submit(f"j{number}", "x", "busy", JobSpec("fake", webhook=sink.url), ttl_s=60)
        await app.store.jobs.cancel(f"j{number}")
    async with working(valkey, app):
        assert len(await sink.called(30)) == 30


async def test_a_tenant_with_a_long_queue_keeps_no_other_waiting(post: Post, sink: Sink, sample: Path, store: Store) -> None:
    slow = Sink()
    held = asyncio.Event()

    async def stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(stall, "127.0.0.1", 0)
    slow.port = server.sockets[0].getsockname()[1]
    for number in range(100):
        await store.jobs.submit(f"slow-{number}", "x", "slow", JobSpec("fake", webhook=slow.url), ttl_s=60)
        await store.jobs.cancel(f"slow-{number}")
    job_id = await post.ended(sink, sample)
    await post.settled(job_id, DeliveryState.DELIVERED)
    assert (await store.stats.read()).webhooks == 100, "none of the others is done"
    held.set()
    server.close()


async def test_deliveries_of_jobs_without_a_record_are_given_up(
    post: Post, sink: Sink, store: Store, valkey: Valkey
) -> None:
    async with Redis.from_url(valkey.url) as redis:
        ghosts = {f"ghost{n}:1-0": 1.0 for n in range(20)}
        await redis.zadd(key(f"webhooks:{ME.tenant}"), ghosts)
        await redis.zadd(key("webhooks"), {ME.tenant: 1.0})
        async with asyncio.timeout(30):
            while await redis.exists(key(f"webhooks:{ME.tenant}")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert sink.calls == []

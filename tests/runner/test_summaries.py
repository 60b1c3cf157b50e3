"""Summaries, by a model behind an OpenAI-compatible API on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest

from deployments.storage.artifacts import Artifacts
from serve_app.models.job import Job, JobSpec, Phase, SummaryState
from serve_app.runner.summaries import Summaries, SummaryModel
from serve_app.store.redis_store import Store
from tests.lib.app import ME, App, open_app

Reply = Callable[[dict[str, Any]], tuple[int, bytes]]
SPEC = JobSpec("fake", summary="brief")


class Server:
    """Replies with `reply` of each request, and records requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.reply: Reply = lambda body: (200, completion(f"About: {body['messages'][0]['content'][:12]}"))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append((self.path, self.headers.get("authorization", ""), body))
                status, content = outer.reply(body)
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def model(self) -> SummaryModel:
        prompts = {"brief": "Sum up: {transcript}"}
        return SummaryModel(f"http://127.0.0.1:{self.http.server_port}/v1/", "small", "secret", prompts)


def completion(text: str) -> bytes:
    """A chat completion."""
    return orjson.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = Thread(target=server.http.serve_forever)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.fixture
async def app(store: Store, artifacts: Artifacts, ffmpeg: str) -> AsyncIterator[App]:
    async with open_app(store, artifacts, ffmpeg) as app:
        yield app


@asynccontextmanager
async def working(app: App, model: SummaryModel) -> AsyncIterator[None]:
    task = asyncio.create_task(Summaries(app.store, app.artifacts, model, (0.0, 0.0)).run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def settled(app: App, job_id: str) -> Job:
    """A job once its summary is completed or failed."""
    await app.ended(job_id)
    async with asyncio.timeout(20):
        while (job := await app.jobs.get(ME, job_id)).summary_state is SummaryState.PENDING:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return job


async def test_a_summary_is_made_of_the_transcript(app: App, server: Server, sample: Path) -> None:
    async with working(app, server.model()):
        job = await settled(app, await app.submit(sample, SPEC))
    text = (await app.jobs.transcript(ME, job.id)).text
    assert job.summary_state is SummaryState.COMPLETED
    assert await app.jobs.results.summary(job) == f"About: Sum up: {text[:4]}"
    ((path, key, body),) = server.requests
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "small")
    assert body["messages"] == [{"role": "user", "content": f"Sum up: {text}"}]


async def test_a_job_completes_without_its_summary(app: App, sample: Path) -> None:
    job = await app.ended(await app.submit(sample, SPEC))
    assert (job.phase, job.summary_state) == (Phase.COMPLETED, SummaryState.PENDING)
    assert await app.jobs.results.summary(job) is None


async def test_a_failing_server_is_retried(app: App, server: Server, sample: Path) -> None:
    replies = iter([(503, b""), (200, b"{}")])
    server.reply = lambda _: next(replies, (200, completion("Well.")))
    async with working(app, server.model()):
        job = await settled(app, await app.submit(sample, SPEC))
    assert (job.summary_state, len(server.requests)) == (SummaryState.COMPLETED, 3)
    assert await app.jobs.results.summary(job) == "Well."


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((500, b""), "answered 500"),
        ((200, b"what?"), "no chat completion"),
        ((200, b'{"choices": []}'), "no chat completion"),
        ((200, completion("  ")), "said nothing"),
    ],
)
async def test_a_server_that_keeps_failing_fails_the_summary(
    app: App, server: Server, sample: Path, reply: tuple[int, bytes], why: str
) -> None:
    server.reply = lambda _: reply
    async with working(app, server.model()):
        job = await settled(app, await app.submit(sample, SPEC))
    assert (job.phase, job.summary_state) == (Phase.COMPLETED, SummaryState.FAILED)
    assert why in (job.summary_error or "")
    assert len(server.requests) == 3


async def test_an_unreachable_server_and_a_removed_prompt_fail_the_summary(app: App, server: Server, sample: Path) -> None:
    away = SummaryModel("http://127.0.0.1:9/v1", "small", prompts={"brief": "{transcript}"})
    async with working(app, away):
        jobs = [await settled(app, await app.submit(sample, JobSpec("fake", summary=name))) for name in ("brief", "gone")]
    assert [job.summary_state for job in jobs] == [SummaryState.FAILED] * 2
    assert "cannot be reached" in (jobs[0].summary_error or "")
    assert "no longer there" in (jobs[1].summary_error or "")


async def test_a_failed_job_gets_no_summary_and_a_deleted_one_leaves_none(app: App, server: Server, sample: Path) -> None:
    failed = await app.ended(await app.submit(b"no sound", SPEC))
    assert failed.summary_state is SummaryState.WAITING
    done = await app.ended(await app.submit(sample, SPEC))
    await app.jobs.delete(ME, done.id)
    async with working(app, server.model()):
        assert await app.store.summaries.take(10, 0.0) == []
    assert server.requests == []
    assert app.artifacts.keys(f"jobs/{done.id}") == []


async def test_a_tenant_with_many_summaries_keeps_no_other_waiting(store: Store) -> None:
    for number, tenant in enumerate(["many"] * 9 + ["few"]):
        await store.jobs.submit(f"j{number}", "me", tenant, SPEC, ttl_s=60)
        claim = await store.leases.claim("worker")
        assert claim
        await store.leases.finish(claim, Phase.COMPLETED)
    assert "j9" in await store.summaries.take(4, 60.0)


async def test_a_summary_that_fails_in_an_unknown_way_is_logged_and_due_again(
    app: App, server: Server, sample: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    noted = app.store.summaries.note
    failures = iter([ValueError("a bug")])

    async def note(*arguments: Any, **options: Any) -> bool:
        for failure in failures:
            raise failure
        return await noted(*arguments, **options)

    monkeypatch.setattr(app.store.summaries, "note", note)
    monkeypatch.setattr("serve_app.runner.summaries.HOLD_S", 0.2)
    job_id = await app.submit(sample, SPEC)
    async with working(app, server.model()):
        async with asyncio.timeout(30):
            while (await app.jobs.get(ME, job_id)).summary_state is not SummaryState.COMPLETED:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert "retrying when its hold expires" in caplog.text

"""What every dialect of jobs promises, whatever its words: one suite, which each is put through.

What a dialect's JSON looks like is kept in golden/NAME.json, with ids, times and addresses taken out. MURMUR_GOLDEN=write
writes those files anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.local.valkey import Valkey
from serve_app.models.event import EventKind
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.lib.app import ME
from tests.lib.web_server import WebServer
from tests.service.conftest import MAX_UPLOAD_BYTES, Served

GOLDEN = Path(__file__).parent / "golden"
SCOPES = ("speech:transcriptions:read", "speech:transcriptions:write", "speech:transcriptions:delete")
READ = "speech:transcriptions:read"

Send = Callable[..., Awaitable[httpx.Response]]


@dataclass(frozen=True)
class Spoken:
    """How a dialect says what all can say. `by_url` and `by_file` make a job of a URL or of bytes, with options in the
    dialect's own names; `job` is its path with `{id}`, `cancel` the method and path that cancel one, `text_at` where the
    text is to be had, if it is not in the job. `read` gives a job's id, status and text out of an answer, `code` the error
    code that a refusal names."""

    name: str
    job: str
    read: Callable[[Any], tuple[str, str, str | None]]
    code: Callable[[httpx.Response], str]
    running: tuple[str, ...]
    completed: str
    failed: str
    by_url: Send | None = None
    by_file: Send | None = None
    cancel: tuple[str, str] | None = None
    text_at: str = ""
    language: str = "language"
    made: int = 202
    scopes: Sequence[str] = SCOPES
    codes: Mapping[str, str] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)

    def status(self, case: str) -> int:
        """What a refusal answers; a 400 where the dialect says nothing else."""
        return self.statuses.get(case, {"unknown": 404, "key": 401, "scope": 403, "large": 413}.get(case, 400))


@contextmanager
def speaking(http: httpx.AsyncClient, key: str) -> Iterator[None]:
    """With another key for a while."""
    before = http.headers["Authorization"]
    http.headers["Authorization"] = f"Bearer {key}"
    yield
    http.headers["Authorization"] = before


def plain(value: Any) -> Any:
    """A golden answer without what differs each time."""
    text = json.dumps(value)
    text = re.sub(r"http://127\.0\.0\.1:\d+", "http://HOST", text)
    text = re.sub(r"\b[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}\b", "ID", text)
    # How long a decode took is told, and stands in the transcript's file.
    text = re.sub(r'"(processing_duration_in_s|size|sizeBytes)": [0-9.e-]+', r'"\1": 0', text)
    text = re.sub(r"_[0-9a-f]{32}\b", "_ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "TIME", text)
    text = re.sub(r"\b[0-9a-f]{8}\b", "WORD", text)
    return json.loads(re.sub(r"\b1[789]\d{8}\b", "0", text))


class Contract:
    """Put a dialect through it: `class TestShift(Contract): spoken = Spoken(...)`."""

    spoken: Spoken

    @pytest.fixture
    async def keys(self, valkey: Valkey, served: Served) -> AsyncIterator[ApiKeys]:
        redis = connect(valkey.url)
        keys = ApiKeys(redis)
        served.http.headers["Authorization"] = f"Bearer {await keys.create(ME.owner, ME.tenant, self.spoken.scopes)}"
        yield keys
        await redis.aclose()

    @pytest.fixture
    def send(self, served: Served, keys: ApiKeys, site: WebServer, sample: Path) -> Callable[..., Awaitable[httpx.Response]]:
        """Make a job, by file where the dialect takes files, else by URL."""
        spoken, content = self.spoken, sample.read_bytes()

        async def send(name: str = "talk.flac", **options: Any) -> httpx.Response:
            if spoken.by_file:
                bytes_ = content if name == "talk.flac" else b"this is no sound"
                return await spoken.by_file(served.http, name, bytes_, **options)
            assert spoken.by_url
            return await spoken.by_url(served.http, site.url(f"/{name}"), **options)

        return send

    async def get(self, served: Served, job_id: str) -> httpx.Response:
        return await served.http.get(self.spoken.job.format(id=job_id))

    async def ended(self, served: Served, made: httpx.Response) -> tuple[Any, tuple[str, str, str | None]]:
        """Poll a job as a client does, to its end."""
        assert made.status_code == self.spoken.made, made.text
        job_id, status, _ = self.spoken.read(made.json())
        assert status in self.spoken.running
        async with asyncio.timeout(30):
            while True:
                answer = await self.get(served, job_id)
                assert answer.status_code in (200, 202), answer.text
                read = self.spoken.read(answer.json())
                if read[1] not in self.spoken.running:
                    return answer.json(), await self._with_text(served, read)
                await asyncio.sleep(0.05)

    async def _with_text(self, served: Served, read: tuple[str, str, str | None]) -> tuple[str, str, str | None]:
        if not self.spoken.text_at or read[1] != self.spoken.completed:
            return read
        return *read[:2], (await served.http.get(self.spoken.text_at.format(id=read[0]))).text

    def refused(self, answer: httpx.Response, case: str, *codes: str) -> None:
        assert answer.status_code == self.spoken.status(case), answer.text
        told = self.spoken.code(answer)
        assert told in {self.spoken.codes.get(code, code) for code in codes}, answer.text

    # A job's life.

    async def test_a_url_becomes_text(self, served: Served, keys: ApiKeys, site: WebServer) -> None:
        if not self.spoken.by_url:
            pytest.skip("this dialect takes files only")
        _, (job_id, status, text) = await self.ended(served, await self.spoken.by_url(served.http, site.url("/talk.flac")))
        assert status == self.spoken.completed
        assert text
        assert text.split() == (await served.app.jobs.transcript(ME, job_id)).text.split()

    async def test_a_file_becomes_text(self, served: Served, keys: ApiKeys, sample: Path) -> None:
        if not self.spoken.by_file:
            pytest.skip("this dialect takes URLs only")
        made = await self.spoken.by_file(served.http, "talk.flac", sample.read_bytes())
        _, (job_id, status, text) = await self.ended(served, made)
        assert status == self.spoken.completed
        assert text
        assert text.split() == (await served.app.jobs.transcript(ME, job_id)).text.split()

    async def test_its_jobs_have_events_of_ours(self, served: Served, send: Send) -> None:
        _, (job_id, _, text) = await self.ended(served, await send())
        events = await served.app.follow(job_id)
        told = " ".join(json.loads(e.data)["text"] for e in events if e.kind is EventKind.SEGMENT)
        assert told.split() == (text or "").split()
        answer = await served.http.get(f"/v1/jobs/{job_id}/events")
        assert answer.status_code == 200
        assert "event: done" in answer.text

    async def test_what_is_no_sound_fails(self, served: Served, send: Send) -> None:
        _, (_, status, text) = await self.ended(served, await send("noise.mp3"))
        assert status == self.spoken.failed
        assert not text

    async def test_a_request_sent_again_makes_no_second_job(self, served: Served, send: Send) -> None:
        served.http.headers["Idempotency-Key"] = "once"
        first, second = await send(), await send()
        del served.http.headers["Idempotency-Key"]
        assert self.spoken.read(first.json())[0] == self.spoken.read(second.json())[0]

    async def test_a_job_can_be_cancelled(self, served: Served, send: Send) -> None:
        if self.spoken.cancel is None:
            pytest.skip("this dialect has no cancel")
        served.app.stages.gate = asyncio.Semaphore(0)
        made = await send()
        job_id = self.spoken.read(made.json())[0]
        method, path = self.spoken.cancel
        assert (await served.http.request(method, path.format(id=job_id))).status_code in (200, 202, 204)
        await served.app.follow(job_id)

    # Refusals.

    async def test_a_wrong_key_is_refused(self, served: Served, send: Send) -> None:
        with speaking(served.http, "wrong"):
            self.refused(await send(), "key", "unauthenticated")
            self.refused(await self.get(served, "any"), "key", "unauthenticated")

    async def test_a_key_without_the_scope_is_refused(self, served: Served, keys: ApiKeys, send: Send) -> None:
        with speaking(served.http, await keys.create("reader", "t", [READ])):
            self.refused(await send(), "scope", "forbidden")

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"a": 1}', b"\xff\xfe"])
    async def test_a_bad_body_is_refused(self, served: Served, keys: ApiKeys, body: bytes) -> None:
        path = self.spoken.job.removesuffix("/{id}")
        for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary=x", "text/plain"):
            answer = await served.http.post(path, content=body, headers={"Content-Type": kind})
            assert 400 <= answer.status_code < 500, answer.text
            assert self.spoken.code(answer)

    async def test_an_unknown_job_is_not_found(self, served: Served, keys: ApiKeys) -> None:
        self.refused(await self.get(served, "nothing"), "unknown", "not_found")

    async def test_anothers_job_is_not_found(self, served: Served, keys: ApiKeys, send: Send) -> None:
        job_id = self.spoken.read((await send()).json())[0]
        for owner, tenant in (("mallory", ME.tenant), (ME.owner, "other")):
            with speaking(served.http, await keys.create(owner, tenant, self.spoken.scopes)):
                answer = await self.get(served, job_id)
                self.refused(answer, "unknown", "not_found")
                assert job_id not in answer.text
        assert (await self.get(served, job_id)).status_code in (200, 202)

    async def test_another_dialects_job_is_not_found(self, served: Served, keys: ApiKeys, sample: Path) -> None:
        if self.spoken.name == "native":
            pytest.skip("the native dialect knows all jobs")
        job_id = await served.app.submit(sample)
        self.refused(await self.get(served, job_id), "unknown", "not_found")

    async def test_an_unknown_model_is_refused(self, served: Served, send: Send) -> None:
        self.refused(await send(model="acme/nothing"), "model", "model_unavailable")
        assert served.app.artifacts.keys("jobs") == []

    async def test_an_unknown_option_is_refused_by_name(self, served: Served, send: Send) -> None:
        answer = await send(nonsense="1")
        self.refused(answer, "option", "invalid_request")
        assert "nonsense" in answer.text
        assert served.app.artifacts.keys("jobs") == []

    async def test_an_unknown_language_is_refused(self, send: Send) -> None:
        self.refused(await send(**{self.spoken.language: "xx"}), "language", "language_unsupported")

    async def test_what_is_too_large_is_refused(self, served: Served, keys: ApiKeys) -> None:
        if not self.spoken.by_file:
            pytest.skip("this dialect takes URLs only")
        answer = await self.spoken.by_file(served.http, "big", bytes(MAX_UPLOAD_BYTES + 1))
        self.refused(answer, "large", "source_too_large")
        assert served.app.artifacts.keys("jobs") == []

    async def test_an_address_that_nobody_may_fetch_is_refused(self, served: Served, keys: ApiKeys) -> None:
        if not self.spoken.by_url:
            pytest.skip("this dialect takes files only")
        answer = await self.spoken.by_url(served.http, "file:///etc/hostname")
        self.refused(answer, "forbidden_url", "source_forbidden")

    async def test_a_path_that_is_not_there_is_told_in_its_own_words(self, served: Served, keys: ApiKeys) -> None:
        answer = await served.http.put(self.spoken.job.removesuffix("/{id}"))
        assert answer.status_code == 405
        assert self.spoken.code(answer)

    # What its JSON looks like.

    async def test_its_answers_look_as_they_always_did(self, served: Served, send: Send) -> None:
        made = await send()
        completed, _ = await self.ended(served, made)
        failed, _ = await self.ended(served, await send("noise.mp3"))
        refused = await send(nonsense="1")
        told = {"made": made.json(), "completed": completed, "failed": failed, "refused": _body(refused)}
        seen, path = plain(told), GOLDEN / f"{self.spoken.name}.json"
        if os.environ.get("MURMUR_GOLDEN") == "write":
            path.write_text(json.dumps(seen, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        assert seen == json.loads(path.read_text(encoding="utf-8"))


def _body(answer: httpx.Response) -> Any:
    return answer.json() if "json" in answer.headers["content-type"] else answer.text

"""Contract of all dialects: one test suite that each of them passes.

Golden files (golden/NAME.json) hold each dialect's JSON without ids, times and addresses; MURMUR_GOLDEN=write rewrites them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from deployments.errors import StorageFull
from serve_app.local.valkey import Valkey
from serve_app.models.event import EventKind
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.lib.app import ME
from tests.lib.raw_request import captured, opened, up_to_the_file
from tests.lib.shared_api import SharedApi
from tests.lib.slow_upload import SlowUpload
from tests.lib.web_server import WebServer
from tests.service.conftest import MAX_UPLOAD_BYTES, Served

GOLDEN = Path(__file__).parent / "golden"
SCOPES = ("speech:transcriptions:read", "speech:transcriptions:write", "speech:transcriptions:delete")
READ = "speech:transcriptions:read"

STATUSES = {"unknown": 404, "key": 401, "scope": 403, "large": 413, "queue": 429, "disk": 507, "idle": 408}
FORBIDDEN_URLS = (
    "file:///etc/hostname",
    "http://169.254.169.254/latest/meta-data/",
    "http://0x7f000002.:80@10.0.0.1/",
    "http://10.0.0.1/x",
    "https://[fd00::1]/x",
    "https://8.8.8.8:22/x",
    "s3://secrets/x.flac",
)

Send = Callable[..., Awaitable[httpx.Response]]


@dataclass(frozen=True)
class VendorApi:
    """Paths, statuses and codes of a dialect, and functions that submit to it and read from it."""

    name: str
    job: str  # path of a job, with `{id}`
    read: Callable[[Any], tuple[str, str, str | None]]  # body of a job -> its id, status and text
    code: Callable[[httpx.Response], str]  # error -> its code
    running: tuple[str, ...]  # statuses of a job that has not ended
    completed: str
    failed: str
    by_url: Send | None = None  # submit a URL, with options in the dialect's names
    by_file: Send | None = None  # submit bytes
    cancel: tuple[str, str] | None = None  # method and path
    text_at: str = ""  # path of the text, if the job does not hold it
    language: str = "language"
    submitted_status: int = 202
    scopes: Sequence[str] = SCOPES
    codes: Mapping[str, str] = field(default_factory=dict)  # the core's error codes -> the dialect's
    statuses: Mapping[str, int] = field(default_factory=dict)  # case of a refusal -> status, where it is not the usual one

    def status(self, case: str) -> int:
        """HTTP status of a refusal."""
        return self.statuses.get(case, STATUSES.get(case, 400))


@contextmanager
def with_key(http: httpx.AsyncClient, key: str) -> Iterator[None]:
    """Send another key meanwhile."""
    before = http.headers["Authorization"]
    http.headers["Authorization"] = f"Bearer {key}"
    yield
    http.headers["Authorization"] = before


def plain(value: Any) -> Any:
    """A body without ids, times, addresses and other values that differ each time."""
    text = json.dumps(value)
    text = re.sub(r"http://127\.0\.0\.1:\d+", "http://HOST", text)
    text = re.sub(r"\b[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}\b", "ID", text)
    # The duration of a decode is shown, and is in the transcript's file.
    text = re.sub(r'"(processing_duration_in_s|size|sizeBytes)": [0-9.e-]+', r'"\1": 0', text)
    text = re.sub(r"_[0-9a-f]{32}\b", "_ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "TIME", text)
    text = re.sub(r"\b[0-9a-f]{8}\b", "WORD", text)
    return json.loads(re.sub(r"\b1[789]\d{8}\b", "0", text))


class Contract:
    """Base class of a dialect's tests: `class TestShift(Contract): api = VendorApi(...)`."""

    api: VendorApi

    @pytest.fixture
    async def keys(self, valkey: Valkey, served: Served) -> AsyncIterator[ApiKeys]:
        redis = connect(valkey.url)
        keys = ApiKeys(redis)
        served.http.headers["Authorization"] = f"Bearer {await keys.create(ME.owner, ME.tenant, self.api.scopes)}"
        yield keys
        await redis.aclose()

    @pytest.fixture
    def send(self, served: Served, keys: ApiKeys, site: WebServer, sample: Path) -> Callable[..., Awaitable[httpx.Response]]:
        """Submit a job, by file where the dialect takes files, else by URL."""
        api, content = self.api, sample.read_bytes()

        async def send(name: str = "talk.flac", **options: Any) -> httpx.Response:
            if api.by_file:
                recording = content if name == "talk.flac" else b"this is no sound"
                return await api.by_file(served.http, name, recording, **options)
            assert api.by_url
            return await api.by_url(served.http, site.url(f"/{name}"), **options)

        return send

    async def get(self, served: Served, job_id: str) -> httpx.Response:
        return await served.http.get(self.api.job.format(id=job_id))

    async def ended(self, served: Served, submitted: httpx.Response) -> tuple[Any, tuple[str, str, str | None]]:
        """Poll a job to its end, as a client does; its body, and id, status and text."""
        assert submitted.status_code == self.api.submitted_status, submitted.text
        job_id, status, _ = self.api.read(submitted.json())
        assert status in self.api.running
        async with asyncio.timeout(30):
            while True:
                response = await self.get(served, job_id)
                assert response.status_code in (200, 202), response.text
                job = self.api.read(response.json())
                if job[1] not in self.api.running:
                    return response.json(), await self._with_text(served, job)
                await asyncio.sleep(0.05)

    async def _with_text(self, served: Served, job: tuple[str, str, str | None]) -> tuple[str, str, str | None]:
        if not self.api.text_at or job[1] != self.api.completed:
            return job
        return *job[:2], (await served.http.get(self.api.text_at.format(id=job[0]))).text

    def refused(self, response: httpx.Response, case: str, *codes: str) -> None:
        assert response.status_code == self.api.status(case), response.text
        assert self.api.code(response) in {self.api.codes.get(code, code) for code in codes}, response.text

    # Life cycle of a job.

    async def test_a_url_becomes_text(self, served: Served, keys: ApiKeys, site: WebServer) -> None:
        if not self.api.by_url:
            pytest.skip("this dialect takes files only")
        _, (job_id, status, text) = await self.ended(served, await self.api.by_url(served.http, site.url("/talk.flac")))
        assert status == self.api.completed
        assert text
        assert text.split() == (await served.app.jobs.transcript(ME, job_id)).text.split()

    async def test_a_file_becomes_text(self, served: Served, keys: ApiKeys, sample: Path) -> None:
        if not self.api.by_file:
            pytest.skip("this dialect takes URLs only")
        submitted = await self.api.by_file(served.http, "talk.flac", sample.read_bytes())
        _, (job_id, status, text) = await self.ended(served, submitted)
        assert status == self.api.completed
        assert text
        assert text.split() == (await served.app.jobs.transcript(ME, job_id)).text.split()

    async def test_its_jobs_have_events_in_the_native_api(self, served: Served, send: Send) -> None:
        _, (job_id, _, text) = await self.ended(served, await send())
        events = await served.app.follow(job_id)
        segments = " ".join(json.loads(e.data)["text"] for e in events if e.kind is EventKind.SEGMENT)
        assert segments.split() == (text or "").split()
        response = await served.http.get(f"/v1/jobs/{job_id}/events")
        assert response.status_code == 200
        assert "event: done" in response.text

    async def test_a_file_that_is_not_audio_fails(self, served: Served, send: Send) -> None:
        _, (_, status, text) = await self.ended(served, await send("noise.mp3"))
        assert status == self.api.failed
        assert not text

    async def test_a_repeated_request_with_an_idempotency_key_makes_no_second_job(self, served: Served, send: Send) -> None:
        served.http.headers["Idempotency-Key"] = "once"
        first, second = await send(), await send()
        del served.http.headers["Idempotency-Key"]
        assert self.api.read(first.json())[0] == self.api.read(second.json())[0]

    async def test_a_job_can_be_cancelled(self, served: Served, send: Send) -> None:
        if self.api.cancel is None:
            pytest.skip("this dialect has no cancel")
        served.app.stages.gate = asyncio.Semaphore(0)
        job_id = self.api.read((await send()).json())[0]
        method, path = self.api.cancel
        assert (await served.http.request(method, path.format(id=job_id))).status_code in (200, 202, 204)
        await served.app.follow(job_id)

    # Refusals.

    async def test_a_wrong_key_is_refused(self, served: Served, send: Send) -> None:
        with with_key(served.http, "wrong"):
            self.refused(await send(), "key", "unauthenticated")
            self.refused(await self.get(served, "any"), "key", "unauthenticated")

    async def test_a_key_without_the_scope_is_refused(self, served: Served, keys: ApiKeys, send: Send) -> None:
        with with_key(served.http, await keys.create("reader", "t", [READ])):
            self.refused(await send(), "scope", "forbidden")

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"a": 1}', b"\xff\xfe"])
    async def test_a_bad_body_is_refused(self, served: Served, keys: ApiKeys, body: bytes) -> None:
        path = self.api.job.removesuffix("/{id}")
        for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary=x", "text/plain"):
            response = await served.http.post(path, content=body, headers={"Content-Type": kind})
            assert 400 <= response.status_code < 500, response.text
            assert self.api.code(response)

    async def test_an_unknown_job_is_not_found(self, served: Served, keys: ApiKeys) -> None:
        self.refused(await self.get(served, "nothing"), "unknown", "not_found")

    async def test_another_callers_job_is_not_found(self, served: Served, keys: ApiKeys, send: Send) -> None:
        job_id = self.api.read((await send()).json())[0]
        for owner, tenant in (("mallory", ME.tenant), (ME.owner, "other")):
            with with_key(served.http, await keys.create(owner, tenant, self.api.scopes)):
                response = await self.get(served, job_id)
                self.refused(response, "unknown", "not_found")
                assert job_id not in response.text
        assert (await self.get(served, job_id)).status_code in (200, 202)

    async def test_another_dialects_job_is_not_found(self, served: Served, keys: ApiKeys, sample: Path) -> None:
        if self.api.name == "native":
            pytest.skip("the native dialect knows all jobs")
        job_id = await served.app.submit(sample)
        self.refused(await self.get(served, job_id), "unknown", "not_found")

    async def test_an_unknown_model_is_refused(self, served: Served, send: Send) -> None:
        self.refused(await send(model="acme/nothing"), "model", "model_unavailable")
        assert served.app.artifacts.keys("jobs") == []

    async def test_an_unknown_option_is_refused_by_name(self, served: Served, send: Send) -> None:
        response = await send(nonsense="1")
        self.refused(response, "option", "invalid_request")
        assert "nonsense" in response.text
        assert served.app.artifacts.keys("jobs") == []

    async def test_an_unknown_language_is_refused(self, send: Send) -> None:
        self.refused(await send(**{self.api.language: "xx"}), "language", "language_unsupported")

    async def test_an_upload_that_is_too_large_is_refused(self, served: Served, keys: ApiKeys) -> None:
        if not self.api.by_file:
            pytest.skip("this dialect takes URLs only")
        response = await self.api.by_file(served.http, "big", bytes(MAX_UPLOAD_BYTES + 1))
        self.refused(response, "large", "source_too_large")
        assert served.app.artifacts.keys("jobs") == []

    @pytest.mark.parametrize("url", FORBIDDEN_URLS)
    async def test_a_url_that_must_not_be_fetched_is_refused(self, served: Served, keys: ApiKeys, url: str) -> None:
        if not self.api.by_url:
            pytest.skip("this dialect takes files only")
        self.refused(await self.api.by_url(served.http, url), "forbidden_url", "source_forbidden")

    async def test_an_empty_upload_is_refused(self, served: Served, keys: ApiKeys) -> None:
        if not self.api.by_file:
            pytest.skip("this dialect takes URLs only")
        self.refused(await self.api.by_file(served.http, "talk.flac", b""), "empty", "no_audio")
        assert served.app.artifacts.keys("jobs") == []

    async def test_a_name_of_a_file_is_bounded(self, served: Served, keys: ApiKeys) -> None:
        if not self.api.by_file:
            pytest.skip("this dialect takes URLs only")
        response = await self.api.by_file(served.http, f"{'x' * 300}.flac", b"sound")
        self.refused(response, "option", "invalid_request")
        assert "filename" in response.text.lower()

    # Refusals before the body.

    async def upload(self, served: Served, **options: Any) -> httpx.Request:
        """An upload that is not sent yet."""
        by_file = self.api.by_file
        if by_file is None:
            pytest.skip("this dialect takes URLs only")
        return await captured(served.http, lambda http: by_file(http, "talk.flac", b"sound" * 1000, **options))

    async def refused_at(self, upload: SlowUpload, case: str, code: str) -> str:
        """Check the refusal of an upload whose body was not sent; its text."""
        async with asyncio.timeout(20):
            status, text = await upload.status(), await upload.text()
        self.refused(httpx.Response(status, text=text, headers=dict(upload.headers)), case, code)
        return text

    async def test_a_length_over_the_limit_is_refused_before_the_body(self, served: Served, keys: ApiKeys) -> None:
        request = await self.upload(served)
        async with opened(request, Content_Length="99999999999", Expect="100-continue") as upload:
            await self.refused_at(upload, "large", "source_too_large")
            assert upload.headers["connection"] == "close"

    async def test_a_full_queue_is_refused_before_the_body(self, served: Served, keys: ApiKeys, send: Send) -> None:
        request = await self.upload(served)
        await served.app.runner.stop()
        served.app.jobs._admission.queue_limit = 1
        assert (await send()).status_code == self.api.submitted_status
        async with opened(request, Expect="100-continue") as upload:
            await self.refused_at(upload, "queue", "rate_limited")
            assert int(upload.headers["retry-after"]) > 0

    async def test_a_repeated_request_is_received_though_the_queue_is_full(self, served: Served, send: Send) -> None:
        await served.app.runner.stop()
        served.app.jobs._admission.queue_limit = 1
        served.http.headers["Idempotency-Key"] = "once"
        first, second = await send(), await send()
        assert self.api.read(first.json())[0] == self.api.read(second.json())[0]

    async def test_a_full_disk_is_refused_before_the_body(
        self, served: Served, keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = await self.upload(served)

        def require_space(_: object, size: int = 0) -> None:
            raise StorageFull(f"There is no room for {size} bytes.")

        monkeypatch.setattr(type(served.app.artifacts), "require_space", require_space, raising=False)
        async with opened(request, Expect="100-continue") as upload:
            await self.refused_at(upload, "disk", "storage_full")

    @pytest.mark.parametrize("option", ["nonsense", "model"])
    async def test_fields_before_the_file_are_refused_before_the_file(
        self, served: Served, keys: ApiKeys, option: str
    ) -> None:
        request = await self.upload(served, **{option: "acme/nothing"})
        async with opened(request, Content_Length=str(MAX_UPLOAD_BYTES)) as upload:
            await upload.send(up_to_the_file(request))
            case, code = ("option", "invalid_request") if option == "nonsense" else ("model", "model_unavailable")
            assert option in await self.refused_at(upload, case, code)
        assert served.app.artifacts.keys("jobs") == []

    async def test_a_body_that_stops_coming_is_cut_off(self, served: Served, keys: ApiKeys, shared_api: SharedApi) -> None:
        request = await self.upload(served)
        shared_api.bind(replace(served.context, body_idle_s=0.3), served.auth, served.app.store)
        async with opened(request, Idempotency_Key="once") as upload:
            await upload.send(request.content[:-100])
            await self.refused_at(upload, "idle", "timeout")
        assert served.app.artifacts.keys("jobs") == []
        assert not list(Path(urlsplit(served.app.artifacts.uri).path).rglob("*.part"))
        async with opened(request, Idempotency_Key="once") as upload, asyncio.timeout(20):
            await upload.send(request.content)
            assert await upload.status() in (200, 201, 202)

    async def test_errors_of_the_router_have_its_form_too(self, served: Served, keys: ApiKeys) -> None:
        response = await served.http.put(self.api.job.removesuffix("/{id}"))
        assert response.status_code == 405
        assert self.api.code(response)

    # Wire format.

    async def test_its_bodies_equal_the_golden_file(self, served: Served, send: Send) -> None:
        submitted = await send()
        completed, _ = await self.ended(served, submitted)
        failed, _ = await self.ended(served, await send("noise.mp3"))
        refused = await send(nonsense="1")
        bodies = {"made": submitted.json(), "completed": completed, "failed": failed, "refused": _body(refused)}
        actual, path = plain(bodies), GOLDEN / f"{self.api.name}.json"
        if os.environ.get("MURMUR_GOLDEN") == "write":
            path.write_text(json.dumps(actual, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        assert actual == json.loads(path.read_text(encoding="utf-8"))


def _body(response: httpx.Response) -> Any:
    return response.json() if "json" in response.headers["content-type"] else response.text

"""Browsers: CORS, tickets, private responses, hosts."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.http.uploads import MAX_JSON_BYTES
from serve_app.models.job import JobSpec
from tests.lib.app import ME
from tests.lib.edge import Edge, bearer, open_edge
from tests.service.conftest import Served
from tests.service.test_native import problem

PAGE = "https://app.example"
PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,range"}


async def finished_job(served: Served, sample: Path) -> str:
    """Id of an ended job of `me` in the tenant `t`."""
    job_id = await served.app.submit(sample)
    await served.app.ended(job_id)
    return job_id


async def ticket(edge: Edge, job_id: str, key: str, **options: float) -> str:
    made = await edge.http.post(f"/v1/jobs/{job_id}/ticket", headers=bearer(key), json=options)
    assert made.status_code == 201, made.text
    return str(made.json()["ticket"])


# CORS.


async def test_an_allowed_page_calls_a_service_with_keys(served: Served) -> None:
    async with open_edge(served, origins=(PAGE,)) as edge:
        preflight = await edge.http.options("/v1/jobs", headers=PREFLIGHT)
        assert preflight.status_code == 200, "it is answered without a key"
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert "range" in preflight.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in preflight.headers
        listed = await edge.http.get("/v1/jobs", headers={"Origin": PAGE, **bearer(await edge.key())})
        assert (listed.status_code, listed.headers["access-control-allow-origin"]) == (200, PAGE)
        exposed = listed.headers["access-control-expose-headers"].lower().split(", ")
        assert {"location", "retry-after", "x-request-id", "content-range"} <= set(exposed)
        refused = await edge.http.get("/v1/jobs", headers={"Origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)


async def test_another_page_is_not_allowed_to_read(served: Served) -> None:
    async with open_edge(served, origins=(PAGE,)) as edge:
        other = {"Origin": "https://evil.example"}
        assert (await edge.http.options("/v1/jobs", headers=PREFLIGHT | other)).status_code == 400
        listed = await edge.http.get("/v1/jobs", headers=other | bearer(await edge.key()))
        assert "access-control-allow-origin" not in listed.headers
        assert "Origin" in listed.headers["vary"]


async def test_any_page_may_be_allowed_without_credentials(served: Served) -> None:
    async with open_edge(served, origins=("*",)) as edge:
        listed = await edge.http.get("/v1/jobs", headers={"Origin": PAGE, **bearer(await edge.key())})
        assert listed.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in listed.headers


async def test_without_keys_only_named_pages_are_let_in(served: Served) -> None:
    async with open_edge(served, required=False, origins=(PAGE,)) as edge:
        assert (await edge.http.get("/v1/jobs", headers={"Origin": PAGE})).status_code == 200
        problem(await edge.http.get("/v1/jobs", headers={"Origin": "https://evil.example"}), 403, "forbidden")
        problem(await edge.http.get("/v1/jobs", headers={"Origin": f"{PAGE}:8443"}), 403, "forbidden")
        problem(await edge.http.get("/v1/jobs", headers={"Origin": PAGE, "Host": "evil.example"}), 403, "forbidden")


async def test_without_the_setting_there_is_no_cors(served: Served) -> None:
    answer = await served.http.options("/v1/jobs", headers=PREFLIGHT | {"Origin": "http://localhost:3000"})
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


# The router's errors.


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/jobs", "GET, POST"),
        ("/v1/jobs/x", "DELETE, GET"),
        ("/v1/jobs/x/cancel", "POST"),
        ("/v1/audio/transcriptions", "POST"),
        ("/v2/jobs", "POST"),
        ("/api/v1/inference/transcriptions/jobs", "GET, POST"),
        ("/healthz", "GET"),
    ],
)
async def test_a_method_that_a_path_does_not_take_is_answered_with_those_that_it_takes(
    served: Served, path: str, allow: str
) -> None:
    answer = await served.http.put(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


async def test_a_slash_at_the_end_is_not_redirected_to_the_host_of_the_request(served: Served) -> None:
    answer = await served.http.get("/v1/jobs/", headers={"Host": "evil.example"}, follow_redirects=False)
    assert "slash" in problem(answer, 404, "not_found")["detail"]
    assert "location" not in answer.headers


# Headers.


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/nothing", "/healthz", "/metrics", "/v1/models", "/v2/jobs/auth"])
async def test_a_response_is_private_and_keeps_its_type(served: Served, path: str) -> None:
    headers = (await served.http.get(path)).headers
    assert headers["cache-control"] == "private, no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


async def test_artifacts_are_private_and_streams_keep_their_own_rule(served: Served, sample: Path) -> None:
    async with open_edge(served) as edge:
        headers = bearer(await edge.key())
        job_id = await finished_job(served, sample)
        artifact = await edge.http.get(f"/v1/jobs/{job_id}/artifacts/audio.wav", headers=headers)
        assert (artifact.status_code, artifact.headers["cache-control"]) == (200, "private, no-store")
        events = await edge.http.get(f"/v1/jobs/{job_id}/events", headers=headers)
        assert events.headers.get_list("cache-control") == ["no-cache"]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/docs/assets/swagger-ui.css"])
async def test_the_docs_may_be_cached_but_are_revalidated(served: Served, path: str) -> None:
    answer = await served.http.get(path)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")


async def test_an_unexpected_error_has_all_headers_too(served: Served) -> None:
    async with open_edge(served, origins=(PAGE,)) as edge:
        headers = {"Origin": PAGE, **bearer(await edge.key())}

        async def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(served.app.jobs), "page", fail)
            answer = await edge.http.get("/v1/jobs", headers=headers | {"X-Request-ID": "req-1"})
    problem(answer, 500, "internal")
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["x-request-id"] == "req-1"


async def test_the_headers_cost_microseconds() -> None:
    """Ten thousand requests through the middleware, beside as many without it."""
    from serve_app.http.response_headers import ResponseHeaders

    async def app(_: object, __: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"a/b")]})  # type: ignore[operator]

    async def discard(_: object) -> None: ...

    begun = time.perf_counter()
    for _ in range(10_000):
        await ResponseHeaders(app)({"type": "http", "path": "/v1/jobs"}, discard, discard)  # type: ignore[arg-type]
    assert time.perf_counter() - begun < 1.0, "100 µs each, of some 1000 of a request"


# Hosts.


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/metrics"])
async def test_the_docs_and_metrics_answer_no_other_host(served: Served, path: str) -> None:
    problem(await served.http.get(path, headers={"Host": "evil.example"}), 403, "forbidden")
    assert (await served.http.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_may_use_any_host(served: Served, path: str) -> None:
    assert (await served.http.get(path, headers={"Host": "10.1.2.3"})).status_code in (200, 503)


async def test_metrics_want_a_key_where_the_operator_wants_one(served: Served) -> None:
    for required in (True, False):
        async with open_edge(served, required=required, metrics_key_required=True) as edge:
            problem(await edge.http.get("/metrics"), 401, "unauthenticated")
            key = await edge.key("scraper", "ops", "speech:transcriptions:read")
            assert (await edge.http.get("/metrics", headers=bearer(key))).status_code == 200


SHIFT = "/api/v1/inference/transcriptions/jobs"


@pytest.mark.parametrize(
    ("host", "public_url", "begins"),
    [
        ("evil.example", "", SHIFT),
        ("localhost:9999", "", f"http://localhost:9999{SHIFT}"),
        ("evil.example", "https://speech.example/", f"https://speech.example{SHIFT}"),
    ],
)
async def test_links_never_name_a_host_that_is_not_ours(
    served: Served, sample: Path, host: str, public_url: str, begins: str
) -> None:
    jobs = served.app.jobs.for_dialect("shift", "tj_{.hex}")
    async with jobs.draft(ME) as draft:
        served.app.artifacts.put(draft.source, sample.read_bytes())
        job_id = (await draft.submit(JobSpec("fake", echo={"responseFormat": "json", "providerId": ""}))).id
    await served.app.ended(job_id)
    async with open_edge(served, context={"public_url": public_url}) as edge:
        answer = await edge.http.get(f"{SHIFT}/{job_id}", headers={"Host": host, **bearer(await edge.key())})
    urls = [artifact["url"] for artifact in answer.json()["data"]["artifacts"]]
    assert urls
    assert all(url.startswith(begins) for url in urls)


# Tickets.


async def test_a_ticket_reads_its_job_without_any_header(served: Served, sample: Path) -> None:
    job_id = await finished_job(served, sample)
    async with open_edge(served) as edge:
        params = {"ticket": await ticket(edge, job_id, await edge.key("me", "t", "speech:transcriptions:read"))}
        events = await edge.http.get(f"/v1/jobs/{job_id}/events", params=params)
        assert "event: done" in events.text
        last = [line for line in events.text.splitlines() if line.startswith("id: ")][-2].removeprefix("id: ")
        rest = await edge.http.get(f"/v1/jobs/{job_id}/events", params=params | {"lastEventId": last})
        assert rest.text.count("event: ") == 1
        for path in ("", "/transcript", "/artifacts/audio.wav"):
            assert (await edge.http.get(f"/v1/jobs/{job_id}{path}", params=params)).status_code == 200
        part = await edge.http.get(f"/v1/jobs/{job_id}/artifacts/audio.wav", params=params, headers={"Range": "bytes=0-3"})
        assert (part.status_code, part.content) == (206, b"RIFF")


async def test_a_ticket_reads_no_body_of_any_length(served: Served, sample: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:  # without a Content-Length
        yield b'{"lifetime_s": 60, "x": "'
        for _ in range(MAX_JSON_BYTES >> 15):
            yield b"x" * (1 << 16)
        yield b'"}'

    async with open_edge(served) as edge:
        job_id = await finished_job(served, sample)
        headers = {"Content-Type": "application/json", **bearer(await edge.key())}
        made = await edge.http.post(f"/v1/jobs/{job_id}/ticket", headers=headers, content=chunks())
        problem(made, 400, "malformed")


async def test_a_ticket_opens_nothing_else(served: Served, sample: Path) -> None:
    job_id, other = await finished_job(served, sample), await finished_job(served, sample)
    async with open_edge(served) as edge:
        query = f"ticket={await ticket(edge, job_id, await edge.key())}"
        for method, path in (
            ("GET", f"/v1/jobs/{other}"),
            ("GET", f"/v1/jobs/{other}/transcript"),
            ("GET", "/v1/jobs"),
            ("GET", "/v1/models"),
            ("POST", f"/v1/jobs/{job_id}/cancel"),
            ("POST", f"/v1/jobs/{job_id}/ticket"),
            ("DELETE", f"/v1/jobs/{job_id}"),
            ("GET", f"{SHIFT}/{job_id}"),
        ):
            # Refused as a key that may not, or as a parameter that the route does not know.
            assert (await edge.http.request(method, f"{path}?{query}")).status_code in (403, 422), (method, path)
        problem(await edge.http.get(f"/v1/jobs/{job_id}"), 401, "unauthenticated")


async def test_a_ticket_is_refused_when_it_was_changed(served: Served, sample: Path) -> None:
    job_id, other = await finished_job(served, sample), await finished_job(served, sample)
    async with open_edge(served) as edge:
        good = await ticket(edge, job_id, await edge.key())
        payload, _, signature = good.partition(".")
        fields = json.loads(base64.urlsafe_b64decode(payload + "=="))
        forged = base64.urlsafe_b64encode(json.dumps([other, *fields[1:]]).encode()).rstrip(b"=").decode()
        for wrong in (f"{forged}.{signature}", f"{payload}.", payload, "", ".", "é.é", f"{good}a", good * 10):
            answer = await edge.http.get(f"/v1/jobs/{other}", params={"ticket": wrong})
            problem(answer, 401, "unauthenticated")


async def test_a_ticket_ends_in_time_and_with_its_key(served: Served, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await finished_job(served, sample)
    async with open_edge(served) as edge:
        key = await edge.key()
        params = {"ticket": await ticket(edge, job_id, key, lifetime_s=3600)}
        brief = {"ticket": await ticket(edge, job_id, key, lifetime_s=300)}
        now = time.time()
        with monkeypatch.context() as patch:
            patch.setattr("serve_app.http.tickets.time.time", lambda: now + 301)
            problem(await edge.http.get(f"/v1/jobs/{job_id}", params=brief), 401, "unauthenticated")
            assert (await edge.http.get(f"/v1/jobs/{job_id}", params=params)).status_code == 200
        await edge.keys.revoke(key.split("_")[1])
        problem(await edge.http.get(f"/v1/jobs/{job_id}", params=params), 401, "unauthenticated")


@pytest.mark.parametrize("lifetime", [0, -1, 3601, "x"])
async def test_the_lifetime_of_a_ticket_is_bounded(served: Served, sample: Path, lifetime: object) -> None:
    job_id = await finished_job(served, sample)
    async with open_edge(served) as edge:
        made = await edge.http.post(
            f"/v1/jobs/{job_id}/ticket", headers=bearer(await edge.key()), json={"lifetime_s": lifetime}
        )
        problem(made, 422, "invalid_request")


async def test_a_ticket_needs_a_job_of_the_caller(served: Served, sample: Path) -> None:
    job_id = await finished_job(served, sample)
    async with open_edge(served) as edge:
        stranger = bearer(await edge.key("stranger"))
        problem(await edge.http.post(f"/v1/jobs/{job_id}/ticket", headers=stranger), 404, "not_found")
        made = await edge.http.post(f"/v1/jobs/{job_id}/ticket", headers=bearer(await edge.key()))
        assert made.json()["expires_at"], "a body is not needed"


async def test_no_log_line_of_ours_holds_a_ticket(served: Served, sample: Path, caplog: pytest.LogCaptureFixture) -> None:
    job_id = await finished_job(served, sample)
    caplog.set_level(logging.DEBUG, "serve_app")
    async with open_edge(served) as edge:
        value = await ticket(edge, job_id, await edge.key())
        for path in (f"/v1/jobs/{job_id}/events", "/v1/jobs", "/nothing"):
            answer = await edge.http.get(path, params={"ticket": value})
            assert value not in str(answer.headers)
            assert value not in answer.text
        await edge.http.get(f"/v1/jobs/{job_id}", params={"ticket": value[:-1]})
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("serve_app", "deployments"))]
    assert not [line for line in ours if value[:20] in line]
    assert any("refused" in line for line in ours)

"""A new vendor is one file and one entry in the list of dialects: nothing else knows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from pydantic import ValidationError

from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.safe_http import SafeHttp
from serve_app.dialects import DIALECTS, dialect_settings, key_headers, renderers
from serve_app.http.auth import Auth
from serve_app.ingress import create_api
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.jobs.service import Jobs
from serve_app.local.valkey import Valkey
from serve_app.runner.webhook_sender import WebhookSender
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from serve_app.store.webhook_outbox import Outbox
from tests.lib.app import ME
from tests.lib.toy_dialect import PREFIX, TOY
from tests.lib.web_server import WebServer
from tests.runner.test_webhook_sender import Sink, sink
from tests.service.conftest import Served

__all__ = ["sink"]

WITH_TOY = (*DIALECTS, TOY)


@pytest.fixture
async def toy(served: Served, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """Client of an API that has the toy too, with a key in the toy's own header."""
    monkeypatch.setenv("MURMUR_TOY_GREETING", "good morning")
    redis = connect(valkey.url)
    quotas = Quotas(served.app.store, TenantLimits())
    auth = Auth(ApiKeys(redis), quotas, required=True, key_headers=key_headers(WITH_TOY))
    jobs = Jobs(
        served.app.store,
        served.app.events,
        served.app.artifacts,
        served.app.jobs.catalog,
        quotas=quotas,
        allowed=AllowList.parse(["127.0.0.1"]),
        result_ttl_s=3600,
    )
    context = replace(served.context, jobs=jobs, dialect_settings=dialect_settings(WITH_TOY))
    api = create_api(context, auth, served.app.store, served.app.events, version="0", dialects=WITH_TOY)
    key = await ApiKeys(redis).create(ME.owner, ME.tenant, ["speech:transcriptions:read", "speech:transcriptions:write"])
    headers = {"x-toy-key": key, "Authorization": "Bearer dummy"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url=served.url, headers=headers) as http:
        yield http
    await redis.aclose()


async def test_a_recording_is_submitted_read_and_its_end_is_sent(
    served: Served, toy: httpx.AsyncClient, valkey: Valkey, site: WebServer, sink: Sink
) -> None:
    submitted = await toy.post(PREFIX, json={"link": site.url("/talk.flac"), "hook": sink.url})
    assert submitted.status_code == 202, submitted.text
    assert submitted.json()["greeting"] == "good morning"
    job_id = submitted.json()["key"]
    assert job_id.startswith("toy-")
    await served.app.ended(job_id)
    recording = (await toy.get(f"{PREFIX}/{job_id}")).json()
    assert recording["state"] == "completed"
    assert recording["words"] == (await served.app.jobs.transcript(ME, job_id)).text.split()
    redis = connect(valkey.url)
    http = SafeHttp(AllowList.parse(["127.0.0.1"]))
    sender = WebhookSender(Outbox(redis), served.app.store, served.app.jobs.results, http, renderers(WITH_TOY), (0.0,))
    sending = asyncio.create_task(sender.run())
    (call,) = await sink.called(1)
    sending.cancel()
    await asyncio.wait([sending])
    await redis.aclose()
    assert json.loads(call.body) == {"key": job_id, "state": "completed"}


async def test_errors_have_its_form_below_its_prefix_only(toy: httpx.AsyncClient) -> None:
    for response, status, code in (
        (await toy.get(f"{PREFIX}/none"), 404, "not_found"),
        (await toy.post(PREFIX, json={"link": 1}), 400, "invalid_request"),
        (await toy.put(PREFIX), 405, "not_allowed"),
        (await toy.get(f"{PREFIX}/none", headers={"x-toy-key": "wrong"}), 401, "unauthenticated"),
    ):
        assert (response.status_code, response.json()) == (status, {"oops": code})
    assert (await toy.get("/v1/jobs/none")).json()["code"] == "not_found"


async def test_the_document_has_its_operations_models_and_key(toy: httpx.AsyncClient) -> None:
    document = (await toy.get("/openapi.json")).json()
    submit = document["paths"][PREFIX]["post"]
    assert (submit["operationId"], submit["tags"]) == ("toy_submit", ["Toy"])
    assert submit["security"][-1] == {"x-toy-key": []}
    assert submit["responses"]["400"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ToyError"}
    assert {"ToyError", "ToyRecording", "ToyRequest"} <= set(document["components"]["schemas"])


def test_a_bad_value_of_its_settings_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MURMUR_TOY_GREETING", "x" * 21)
    with pytest.raises(ValidationError) as refused:
        dialect_settings(WITH_TOY)
    assert refused.value.errors()[0]["loc"] == ("toy_greeting",)

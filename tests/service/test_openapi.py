"""The OpenAPI document: complete in itself, true to what is sent, and fit for a client generator."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from unittest.mock import MagicMock

import jsonschema
import openapi_python_client
import pytest
from fastapi.routing import APIRoute
from openapi_python_client.config import Config, ConfigFile, MetaType

from batching.types import Segment as CoreSegment
from serve_app.dialects import DIALECTS
from serve_app.dialects.base import ApiContext
from serve_app.dialects.native import events
from serve_app.models.event import EventKind, Progress
from serve_app.models.job import JobSpec
from tests.service.conftest import Served
from tests.service.test_native import follow, upload

Document = dict[str, Any]
BODYLESS = {"204", "416"}
PLAIN = {"/healthz", "/readyz", "/metrics"}


@pytest.fixture
async def document(served: Served) -> Document:
    body: Document = (await served.http.get("/openapi.json")).json()
    return body


def test_no_body_is_read_before_the_key_is_checked() -> None:
    routes = [route for dialect in DIALECTS for route in dialect.routes(cast("ApiContext", MagicMock())).routes]
    bodies = [route.path for route in routes if isinstance(route, APIRoute) and route.body_field]
    assert not bodies, "FastAPI reads a whole body, however long, before dependencies run"


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    """Every operation, by its method and path."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def schemas(part: Any) -> Iterator[Document]:
    """Every object below a part of the document."""
    if isinstance(part, dict):
        yield part
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from schemas(value)


def valid(document: Document, name: str, instance: Any) -> None:
    """Validate `instance` against a component, and require that the component names all its fields."""
    jsonschema.validate(instance, {"$ref": f"#/components/schemas/{name}", "components": document["components"]})
    assert set(instance) <= set(document["components"]["schemas"][name]["properties"])


# The document by itself.


async def test_operations_have_unique_ids_a_tag_a_summary_and_a_description(document: Document) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids)) > 40
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in ids), ids
    tags = {tag["name"] for tag in document["tags"]}
    assert all(tag["description"] for tag in document["tags"])
    for name, operation in operations(document):
        assert len(operation["tags"]) == 1, name
        assert set(operation["tags"]) <= tags, name
        assert operation["summary"], name
        assert operation["description"], name
    assert tags == {tag for _, operation in operations(document) for tag in operation["tags"]}


async def test_every_parameter_has_a_description(document: Document) -> None:
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), (name, parameter["name"])
            assert {"type": "null"} not in parameter["schema"].get("anyOf", ()), (name, parameter["name"])


async def test_every_response_has_content_with_a_schema(document: Document) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            assert response["description"], (name, status)
            assert response["description"] != "Successful Response", (name, status)
            assert "X-Request-ID" in response["headers"], (name, status)
            content = response.get("content", {})
            assert bool(content) == (status not in BODYLESS), (name, status)
            assert all(body.get("schema") for body in content.values()), (name, status)


async def test_every_operation_names_the_errors_that_all_have(document: Document) -> None:
    for name, operation in operations(document):
        if name.split()[1] not in PLAIN:
            assert {"401", "403", "429", "500", "503"} <= set(operation["responses"]), name
            assert "Retry-After" in operation["responses"]["429"]["headers"], name
            assert "WWW-Authenticate" in operation["responses"]["401"]["headers"], name


async def test_errors_of_the_native_api_are_problems(document: Document) -> None:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    tagged = [operation for _, operation in operations(document) if operation["tags"][0] in ("Jobs", "Models", "Webhooks")]
    assert len(tagged) == 16
    for operation in tagged:
        for status, response in operation["responses"].items():
            assert status < "400" or status == "416" or response["content"] == problem


async def test_bodies_are_components(document: Document) -> None:
    for name, operation in operations(document):
        for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
            assert media_type == "application/octet-stream" or set(body["schema"]) <= {"$ref", "default"}, name


async def test_schemas_are_named_by_their_class_and_fields_of_forms_are_never_null(document: Document) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert re.fullmatch(r"[A-Z][A-Za-z]+", name), name
        assert "ValidationError" not in name
        if any(part.get("format") == "binary" for part in schema.get("properties", {}).values()):
            assert not [part for part in schemas(list(schema["properties"].values())) if part == {"type": "null"}], name
    assert "HTTPValidationError" not in json.dumps(document)


async def test_every_component_is_used_and_every_reference_leads_somewhere(document: Document) -> None:
    used = {part["$ref"] for part in schemas(document) if isinstance(part.get("$ref"), str)}
    defined = {f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in document["components"][kind]}
    assert used == defined
    assert not [part for part in schemas(document) if "$defs" in part]


async def test_examples_are_valid(document: Document) -> None:
    examples = 0
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            valid(document, name, example)
            examples += 1
    assert examples >= 13


WITH_TICKET = {f"GET /v1/jobs/{{job_id}}{rest}" for rest in ("", "/events", "/transcript", "/artifacts/{name}")}


async def test_it_says_what_it_is_and_how_to_send_a_key(document: Document) -> None:
    assert document["info"]["description"]
    assert document["info"]["license"] == {"name": "Apache License 2.0", "identifier": "Apache-2.0"}
    schemes = document["components"]["securitySchemes"]
    assert set(schemes) == {"bearer", "apiKey", "x-bf-vk", "ticket"}
    for name, operation in operations(document):
        keys = {key for choice in operation.get("security", ()) for key in choice}
        ticket = {"ticket"} if name in WITH_TICKET else set()
        bifrost = {"x-bf-vk"} if operation["tags"] == ["Bifrost"] else set()
        assert keys == (set() if name.split()[1] in PLAIN else {"bearer", "apiKey", *bifrost, *ticket}), name


async def test_paths_have_no_aliases(document: Document) -> None:
    assert not [path for path in document["paths"] if path.endswith("/")]


# The document and what is sent.


async def test_jobs_events_and_transcripts_are_as_documented(served: Served, document: Document, sample: Path) -> None:
    job = await upload(served, sample, word_timestamps="true", channels="true", language="en")
    valid(document, "Job", job)
    names = {kind.value: model.__name__ for kind, model in events.EVENTS.items()}
    kinds = set()
    for _, kind, data in await follow(served, job["id"]):
        valid(document, names[kind], data)
        kinds.add(kind)
    assert kinds == {kind.value for kind in EventKind}
    failed = await served.app.submit(b"this is no sound", JobSpec("fake"))
    *_, done = await served.app.follow(failed)
    valid(document, "DoneEvent", json.loads(done.data))
    valid(document, "Transcript", (await served.http.get(f"/v1/jobs/{job['id']}/transcript")).json())
    valid(document, "JobList", (await served.http.get("/v1/jobs")).json())
    valid(document, "Problem", (await served.http.get("/v1/jobs/none")).json())


def test_events_have_the_fields_of_the_core() -> None:
    assert set(events.Segment.model_fields) == set(CoreSegment.__dataclass_fields__)
    assert set(events.ProgressEvent.model_fields) == set(Progress.__dataclass_fields__)


# A generated client.


@pytest.fixture
def client(document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Client that openapi-python-client generates without a warning."""
    source = tmp_path / "openapi.json"
    source.write_text(json.dumps(document))
    file = ConfigFile(
        project_name_override="murmur-client",
        package_name_override="murmur_client",
        content_type_overrides={"text/event-stream": "text/plain", "audio/wav": "application/octet-stream"},
        post_hooks=[],
    )
    config = Config.from_sources(
        file, MetaType.NONE, source, "utf-8", overwrite=True, output_path=tmp_path / "murmur_client"
    )
    assert openapi_python_client.generate(config=config) == []
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("murmur_client")
    for name in [name for name in sys.modules if name.partition(".")[0] == "murmur_client"]:
        del sys.modules[name]


async def test_a_generated_client_submits_follows_and_reads(served: Served, client: ModuleType, sample: Path) -> None:
    jobs = {name: importlib.import_module(f"murmur_client.api.jobs.jobs_{name}") for name in CALLS}
    models, types = importlib.import_module("murmur_client.models"), importlib.import_module("murmur_client.types")
    async with client.Client(base_url=served.url) as http:
        with sample.open("rb") as content:
            file = types.File(payload=content, file_name=sample.name, mime_type="audio/flac")
            metadata = models.JobFormMetadata.from_dict({"ticket": "7"})
            form = models.JobForm(file=file, language="en", word_timestamps=True, fallbacks=["second"], metadata=metadata)
            submitted = await jobs["submit"].asyncio(client=http, body=form)
        assert isinstance(submitted, models.Job)
        stream = await jobs["events"].asyncio(client=http, job_id=submitted.id)
        assert "event: segment" in stream
        assert stream.rstrip().endswith('data: {"phase":"completed"}')
        job = await jobs["get"].asyncio(client=http, job_id=submitted.id)
        assert (job.phase, job.language, job.metadata.to_dict()) == (models.Phase.COMPLETED, "en", {"ticket": "7"})
        assert job.options["word_timestamps"] is True
        assert job.options["fallbacks"] == ["second"]
        text = await jobs["transcript"].asyncio(client=http, job_id=job.id, format_=models.JobsTranscriptFormat.TEXT)
        transcript = json.loads(await jobs["transcript"].asyncio(client=http, job_id=job.id))
        assert text.split() == transcript["text"].split()
        assert models.Transcript.from_dict(transcript).segments[0].words
        problem = await jobs["get"].asyncio(client=http, job_id="none")
        assert isinstance(problem, models.Problem)
        assert (problem.status, problem.code) == (404, "not_found")


CALLS = ("submit", "get", "events", "transcript")


async def test_a_generated_client_sends_a_raw_body_with_options_in_the_query(
    served: Served, client: ModuleType, sample: Path
) -> None:
    submit = importlib.import_module("murmur_client.api.jobs.jobs_submit")
    models, types = importlib.import_module("murmur_client.models"), importlib.import_module("murmur_client.types")
    async with client.Client(base_url=served.url) as http:
        body = types.File(payload=sample.read_bytes())
        job = await submit.asyncio(client=http, body=body, language="de", filename="talk.flac", channels=True)
    assert isinstance(job, models.Job), job
    assert (job.language, job.options["channels"]) == ("de", True)


# The page.


async def test_the_page_of_docs_loads_nothing_from_elsewhere(served: Served) -> None:
    page = await served.http.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"(https?:)?//\w", page.text)
    assert '"validatorUrl": null' in page.text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3
    for url in (*loaded, "openapi.json"):
        assert (await served.http.get(f"/{url}")).status_code == 200, url
    styles = (await served.http.get("/docs/assets/swagger-ui.css")).text
    assert not re.search(r"@import|url\((?!\"?data:)", styles)


async def test_assets_are_files_of_the_page_and_no_others(served: Served) -> None:
    for path in ("/docs/assets/none.js", "/docs/assets/../../etc/passwd", "/docs/assets/%2e%2e/__init__.py", "/docs/x"):
        assert (await served.http.get(path)).status_code == 404
    assert (await served.http.get("/docs/oauth2-redirect")).status_code == 404

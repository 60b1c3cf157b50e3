"""Sizes of what a job stores, and how long it is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serve_app.errors import RequestError
from serve_app.jobs.spec_bounds import (
    ECHO_BYTES,
    FALLBACKS,
    LENGTHS,
    METADATA_BYTES,
    METADATA_KEY,
    check_bounds,
    check_file_bounds,
)
from serve_app.models.file import File
from serve_app.models.job import JobSpec
from serve_app.models.trace import Trace
from serve_app.store.records import SPEC
from tests.lib.app import ME, App

SPEC_OF_FEW = JobSpec("fake")
FILE = File("f", "me", "t", "talk")


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"k": "x" * METADATA_BYTES}},
        {"metadata": {str(n): "x" * 1000 for n in range(20)}},
        {"metadata": {"k": "ü" * (METADATA_BYTES // 2)}},
        {"metadata": {"k" * (METADATA_KEY + 1): ""}},
        {"fallbacks": ("second",) * (FALLBACKS + 1)},
        {"fallbacks": ("x" * 201,)},
        {"echo": {"request": "x" * ECHO_BYTES}},
        *({name: "x" * (length + 1)} for name, length in LENGTHS.items()),
    ],
    ids=str,
)
def test_what_is_too_long_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        check_bounds(replace(SPEC_OF_FEW, **fields))
    assert refused.value.code == "invalid_request"
    name = next(iter(fields))
    assert refused.value.fields[0][0] == ("request" if name == "echo" else name)
    assert len(refused.value.message) < 200


def test_what_is_long_enough_is_accepted() -> None:
    texts: dict[str, Any] = {name: "x" * length for name, length in LENGTHS.items()}
    metadata = {"k" * METADATA_KEY: "x" * (METADATA_BYTES - METADATA_KEY - 7)}
    spec = replace(SPEC_OF_FEW, **texts, metadata=metadata, echo={"request": "x" * 30_000})
    check_bounds(spec)
    assert len(SPEC.dump_json(spec)) < 100 << 10


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"k": {"deep": ["x" * METADATA_BYTES]}}},
        {"description": "x" * 4097},
        {"tags": ("x" * 100,) * 200},
        {"filename": "x" * 256},
    ],
    ids=str,
)
def test_a_file_is_bounded_as_well(fields: dict[str, Any]) -> None:
    check_file_bounds(FILE)
    with pytest.raises(RequestError):
        check_file_bounds(replace(FILE, **fields))


async def test_every_field_of_a_spec_is_bounded() -> None:
    texts = {name for name, kind in JobSpec.__annotations__.items() if kind in ("str", "str | None")}
    # Made by the service, or checked against a list.
    own = {"drive_root", "file", "task", "dialect", "request_id", "traceparent"}
    assert texts - own == set(LENGTHS)


async def test_a_request_id_is_bounded(app: App) -> None:
    async with app.jobs.draft(ME, None, Trace("x" * 5000)) as draft:
        app.artifacts.put(draft.source, b"sound")
        job = await draft.submit(SPEC_OF_FEW)
    assert job.spec.request_id == "x" * 128


async def test_results_are_kept_no_longer_than_the_operator_allows(app: App) -> None:
    app.jobs._rules._max_result_ttl_s = 600
    with pytest.raises(RequestError, match="600 s at most") as refused:
        await app.submit(b"sound", replace(SPEC_OF_FEW, result_ttl_s=601))
    assert refused.value.fields == (("result_ttl_s", "too long"),)
    job = await app.jobs.get(ME, await app.submit(b"sound", replace(SPEC_OF_FEW, result_ttl_s=600)))
    assert job.ttl_s == 600


async def test_a_webhook_is_checked_when_it_is_set_too(app: App) -> None:
    job_id = await app.submit(b"sound")
    for url in ("https://10.0.0.1/x", "https://example.org:22/", f"https://example.org/{'x' * 5000}"):
        with pytest.raises(RequestError) as refused:
            await app.jobs.set_webhook(ME, job_id, replace(SPEC_OF_FEW, webhook=url))
        assert refused.value.code in ("source_forbidden", "invalid_request")

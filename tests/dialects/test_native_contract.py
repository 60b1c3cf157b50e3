"""The native API passes the contract of all dialects."""

from __future__ import annotations

from typing import Any

import httpx

from tests.dialects.contract import Contract, VendorApi


async def by_url(http: httpx.AsyncClient, url: str, **options: Any) -> httpx.Response:
    return await http.post("/v1/jobs", json={"source": {"url": url}, **options})


async def by_file(http: httpx.AsyncClient, name: str, content: bytes, **options: Any) -> httpx.Response:
    return await http.post("/v1/jobs", files={"file": (name, content)}, data=options)


class TestNative(Contract):
    api = VendorApi(
        name="native",
        job="/v1/jobs/{id}",
        read=lambda body: (body["id"], body["phase"], None),
        code=lambda response: response.json()["code"],
        running=("queued", "downloading", "transcoding", "transcribing"),
        completed="completed",
        failed="failed",
        by_url=by_url,
        by_file=by_file,
        cancel=("POST", "/v1/jobs/{id}/cancel"),
        text_at="/v1/jobs/{id}/transcript?format=text",
        statuses={"model": 422, "option": 422, "language": 422, "forbidden_url": 422, "empty": 422},
    )

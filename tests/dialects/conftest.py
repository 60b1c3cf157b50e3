"""Fixtures of the dialects' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.lib.web_server import WebServer, answer, serving
from tests.service.conftest import served

pytest.register_assert_rewrite("tests.dialects.contract")

__all__ = ["served"]


@pytest.fixture
async def site(sample: Path) -> AsyncIterator[WebServer]:
    """Web server with the sample, under two names, and a file that is not audio."""
    async with serving() as site:
        site.replies["/talk.flac"] = site.replies["/recording.mp3"] = answer(200, sample.read_bytes())
        site.replies["/noise.mp3"] = answer(200, b"this is no sound")
        yield site

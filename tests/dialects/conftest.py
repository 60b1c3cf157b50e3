"""What tests of dialects share."""

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
    """A web server that has the sample, under two names, and something that is no sound."""
    async with serving() as site:
        site.replies["/talk.flac"] = site.replies["/recording.mp3"] = answer(200, sample.read_bytes())
        site.replies["/noise.mp3"] = answer(200, b"this is no sound")
        yield site

"""Range headers (RFC 9110, section 14)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from serve_app.http.byte_ranges import byte_range, file_response, in_bytes, requested_range
from serve_app.jobs.results import Artifact, Results


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-499", (0, 500)),
        ("bytes=500-999", (500, 1000)),
        ("bytes=0-0", (0, 1)),
        ("bytes=9999-9999", (9999, 10_000)),
        ("bytes=9500-", (9500, 10_000)),
        ("bytes=0-", (0, 10_000)),
        ("bytes=-500", (9500, 10_000)),
        ("bytes=-1", (9999, 10_000)),
    ],
)
def test_a_range_is_the_bytes_from_first_to_last(header: str, span: tuple[int, int]) -> None:
    """The examples of RFC 9110, section 14.1.2, on 10,000 bytes."""
    assert byte_range(header, 10_000) == span


@pytest.mark.parametrize(
    ("header", "span"),
    [("bytes=2-99", (2, 10)), ("bytes=0-999999999999999999", (0, 10)), ("bytes=-10", (0, 10)), ("bytes=-99", (0, 10))],
)
def test_a_range_beyond_the_end_is_truncated(header: str, span: tuple[int, int]) -> None:
    assert byte_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-11", "bytes=99-", "bytes=-0"])
def test_a_range_outside_the_file_is_unsatisfiable(header: str) -> None:
    assert byte_range(header, 10) is None


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_an_empty_file_has_no_ranges(header: str) -> None:
    assert byte_range(header, 0) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-2",
        "bytes=a-b",
        "bytes=1",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=0x0-0x1",
        "0-1",
    ],
)
def test_a_malformed_range_is_rejected(header: str) -> None:
    assert byte_range(header, 10) is None


def test_several_ranges_are_not_served_as_one() -> None:
    assert byte_range("bytes=0-1,4-5", 10) is None


@pytest.mark.parametrize(("header", "span"), [("Bytes=0-4", (0, 5)), ("bytes=0-99999999999999999999", (0, 10))])
def test_units_ignore_case_and_positions_any_length(header: str, span: tuple[int, int]) -> None:
    assert byte_range(header, 10) == span


def test_a_range_in_another_unit_is_ignored() -> None:
    assert in_bytes("bytes=0-4")
    assert not in_bytes("items=0-4")


FILE = Artifact("a", "key", "audio/wav", 10)


class Content(Results):
    """Results with one file."""

    def __init__(self) -> None:
        """Need no storage."""

    async def open(self, file: Artifact, start: int, length: int) -> AsyncGenerator[bytes, None]:
        async def chunks() -> AsyncGenerator[bytes, None]:
            yield b"0123456789"[start : start + length]

        return chunks()


@pytest.mark.parametrize("header", ["bytes=0-1,4-5", "bytes=0-0, -1", "bytes=0-,2-"])
async def test_of_several_ranges_the_whole_file_is_sent(header: str) -> None:
    response = await file_response(Content(), FILE, header)
    assert (response.status_code, response.headers["content-length"]) == (200, "10")
    assert "content-range" not in response.headers


@pytest.mark.parametrize("if_range", ['"stale"', 'W/"weak"', "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_a_validator_that_does_not_match_gets_the_whole_file(if_range: str) -> None:
    assert requested_range("bytes=0-1", if_range) is None
    assert (await file_response(Content(), FILE, requested_range("bytes=0-1", if_range))).status_code == 200
    assert (await file_response(Content(), FILE, requested_range("bytes=0-1", None))).status_code == 206

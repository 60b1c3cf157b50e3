"""Request bodies: multipart parsing with any chunk boundaries; refused uploads leave nothing in storage."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from hashlib import sha256
from itertools import pairwise

import httpx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError
from serve_app.http.uploads import MAX_FIELD_BYTES, MAX_FIELDS, MAX_JSON_BYTES, OVERHEAD_BYTES, Form, read_json, receive

KEY = "jobs/j1/source"
BOUNDARY = "edge-7"
END = b"--edge-7--\r\n"
ANY_CHUNKS = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def field(name: str, value: bytes) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"


def file(content: bytes, name: str = "file") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="talk.wav"'
    return f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: audio/wav\r\n\r\n".encode() + content + b"\r\n"


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def form(
    artifacts: Artifacts, *chunks: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}", limit: int = 1000
) -> Form:
    return await receive(body(*chunks), kind, artifacts, KEY, "file", limit)


async def test_fields_and_file_are_separated(artifacts: Artifacts) -> None:
    got = await form(artifacts, field("model", b"base") + file(b"RIFF\r\n\x00") + field("prompt", "Grüße".encode()) + END)
    assert got == Form({"model": ["base"], "prompt": ["Grüße"]}, "talk.wav", 7, sha256(b"RIFF\r\n\x00").hexdigest())
    assert artifacts.read(KEY) == b"RIFF\r\n\x00"


async def test_a_repeated_field_keeps_every_value_in_order(artifacts: Artifacts) -> None:
    got = await form(
        artifacts, field("hotwords", b"b") + field("hotwords", b"") + file(b"x") + field("hotwords", b"a") + END
    )
    assert got.fields == {"hotwords": ["b", "", "a"]}


async def test_a_form_can_arrive_byte_by_byte(artifacts: Artifacts) -> None:
    whole = field("model", b"base") + file(b"one\r\n--edge-\r\ntwo") + END
    at_once = await form(artifacts, whole)
    assert await form(artifacts, *(bytes([byte]) for byte in whole)) == at_once
    assert artifacts.read(KEY) == b"one\r\n--edge-\r\ntwo"


@ANY_CHUNKS
@given(
    pieces=st.lists(st.sampled_from([b"\r", b"\n", b"\r\n--", b"--edge", b"-7", b"\x00\xff", b"pcm"]), max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
async def test_chunk_boundaries_do_not_change_a_form(artifacts: Artifacts, pieces: list[bytes], cuts: list[int]) -> None:
    content = b"".join(pieces)
    assume(content and f"\r\n--{BOUNDARY}".encode() not in b"\r\n" + content)
    whole = field("model", b"base") + file(content) + END
    edges = [0, *sorted(cuts), len(whole)]
    got = await form(artifacts, *(whole[a:b] for a, b in pairwise(edges)))
    assert got == Form({"model": ["base"]}, "talk.wav", len(content), sha256(content).hexdigest())
    assert artifacts.read(KEY) == content


async def test_a_form_that_httpx_encodes(artifacts: Artifacts) -> None:
    request = httpx.Request(
        "POST",
        "http://127.0.0.1/v1/jobs",
        files={"file": ("größe.flac", b"fLaC\x00", "audio/flac")},
        data={"model": "base", "fallbacks": ["tiny.en", "small"]},
    )
    got = await form(artifacts, request.read(), kind=request.headers["content-type"])
    assert got == Form({"model": ["base"], "fallbacks": ["tiny.en", "small"]}, "größe.flac", 5, got.sha256)
    assert got.sha256 == sha256(b"fLaC\x00").hexdigest()
    assert artifacts.read(KEY) == b"fLaC\x00"


@pytest.mark.parametrize("boundary", ["------------------------d74496d66958873e", "----WebKitFormBoundary7MA4YWxkTrZu0gW"])
async def test_forms_that_curl_and_browsers_send(artifacts: Artifacts, boundary: str) -> None:
    sent = (field("language", b"en") + file(b"sound") + END).replace(b"--edge-7", f"--{boundary}".encode())
    got = await form(artifacts, sent, kind=f"multipart/form-data; boundary={boundary}")
    assert (got.fields, artifacts.read(KEY)) == ({"language": ["en"]}, b"sound")


@pytest.mark.parametrize(
    ("chunks", "code"),
    [
        pytest.param([b""], "malformed", id="nothing"),
        pytest.param([b'{"source": {}}'], "malformed", id="not a form"),
        pytest.param([file(b"sound")], "malformed", id="no last boundary"),
        pytest.param([file(b"sound")[:-9]], "malformed", id="ends inside the file"),
        pytest.param([b"--edge-7\r\nContent-Type: audio/wav\r\n\r\nx\r\n", END], "malformed", id="a part without a name"),
        pytest.param([b"--edge-7\r\nX: " + b"x" * 10_000], "malformed", id="a header too long"),
        pytest.param([field("model", b"base"), END], "invalid_request", id="no file"),
        pytest.param([file(b"a"), file(b"b"), END], "invalid_request", id="two files"),
        pytest.param([file(b"a"), file(b"b", "other"), END], "invalid_request", id="a file too many, elsewhere"),
        pytest.param([file(b"a", "audio"), END], "invalid_request", id="the file in the wrong field"),
        pytest.param([file(b"a"), field("prompt", b"\xff\xfe"), END], "malformed", id="a field that is not UTF-8"),
        pytest.param([file(b"a"), field("prompt", b"x" * (MAX_FIELD_BYTES + 1)), END], "malformed", id="a field too long"),
        pytest.param([file(b"x" * 1001), END], "source_too_large", id="a file too large"),
        pytest.param([file(b"x"), END, b"x" * (OVERHEAD_BYTES + 1000)], "source_too_large", id="a body too large"),
    ],
)
async def test_a_refused_form_leaves_nothing_in_storage(artifacts: Artifacts, chunks: list[bytes], code: str) -> None:
    with pytest.raises(RequestError) as refused:
        await form(artifacts, *chunks)
    assert refused.value.code == code
    assert artifacts.keys("jobs") == []


async def test_a_form_at_its_limits_is_accepted(artifacts: Artifacts) -> None:
    fields = [field(f"f{n}", b"") for n in range(MAX_FIELDS - 1)] + [field("long", b"x" * MAX_FIELD_BYTES)]
    got = await form(artifacts, *fields, file(b"x" * 1000), END)
    assert (len(got.fields), got.size) == (MAX_FIELDS, 1000)


async def test_too_many_fields_are_refused(artifacts: Artifacts) -> None:
    with pytest.raises(RequestError, match="fields") as refused:
        await form(artifacts, file(b"x"), *(field(f"f{n}", b"") for n in range(MAX_FIELDS + 1)), END)
    assert refused.value.code == "malformed"
    assert artifacts.keys("jobs") == []


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""']
)
async def test_a_form_without_a_boundary_is_malformed(artifacts: Artifacts, kind: str) -> None:
    with pytest.raises(RequestError) as refused:
        await form(artifacts, file(b"x"), END, kind=kind)
    assert refused.value.code == "malformed"
    assert artifacts.keys("jobs") == []


async def test_a_missing_file_is_named(artifacts: Artifacts) -> None:
    with pytest.raises(RequestError) as refused:
        await form(artifacts, END)
    assert refused.value.fields == (("file", "missing"),)


async def test_a_client_that_disconnects_leaves_nothing_in_storage(artifacts: Artifacts) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield file(b"half of it")[:-5]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await receive(broken(), f"multipart/form-data; boundary={BOUNDARY}", artifacts, KEY, "file", 1000)
    assert artifacts.keys("jobs") == []


async def test_the_watch_callback_sees_each_chunk_and_may_refuse(artifacts: Artifacts) -> None:
    chunks = [field("model", b"base"), file(b"x" * 100), END]
    kind, seen = f"multipart/form-data; boundary={BOUNDARY}", []

    def watch(received: int, form: Form) -> None:
        seen.append((received, form.size, dict(form.fields)))
        if len(seen) == 5:
            raise RequestError("malformed", "no more")

    await receive(body(*chunks), kind, artifacts, KEY, "file", 1000, watch=watch)
    assert [received for received, _, _ in seen] == [len(b"".join(chunks[: n + 1])) for n in range(3)]
    assert [size for _, size, _ in seen] == [0, 100, 100]
    assert seen[1][2] == {"model": ["base"]}
    artifacts.delete("jobs")
    with pytest.raises(RequestError, match="no more"):
        await receive(body(*chunks), kind, artifacts, KEY, "file", 1000, watch=watch)
    assert artifacts.keys("jobs") == []


async def test_a_long_file_is_never_held_in_memory(artifacts: Artifacts) -> None:
    async def long() -> AsyncIterator[bytes]:
        yield file(b"")[:-2]
        for _ in range(256):
            yield bytes(1 << 16)
        yield b"\r\n" + END

    tracemalloc.start()
    try:
        got = await receive(long(), f"multipart/form-data; boundary={BOUNDARY}", artifacts, KEY, "file", 1 << 30)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert got.size == artifacts.size(KEY) == 16 << 20
    assert peak < 4 << 20


async def test_json_may_arrive_in_chunks() -> None:
    assert await read_json(body(b'{"source": {"u', b'rl": "\xc3', b'\xa9"}}')) == {"source": {"url": "é"}}


async def test_json_at_its_size_limit_is_accepted() -> None:
    text = b"x" * (MAX_JSON_BYTES - 2)
    assert await read_json(body(b'"', text, b'"')) == text.decode()


@pytest.mark.parametrize("sent", [b"", b"{", b"{'a': 1}", b"NaN", b'"\xff"', b"{} {}", b"[" * 100_000])
async def test_invalid_json_is_malformed(sent: bytes) -> None:
    with pytest.raises(RequestError, match="not valid JSON") as refused:
        await read_json(body(sent))
    assert refused.value.code == "malformed"


async def test_json_beyond_its_limit_is_not_read_to_the_end() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * (1 << 18)

    with pytest.raises(RequestError, match="longer") as refused:
        await read_json(endless())
    assert refused.value.code == "malformed"


async def test_a_boundary_too_long_is_malformed(artifacts: Artifacts) -> None:
    with pytest.raises(RequestError) as refused:
        await form(artifacts, b"", kind="multipart/form-data; boundary=" + "x" * 257)
    assert refused.value.code == "malformed"
    assert artifacts.keys("jobs") == []


async def test_one_field_repeated_without_end_is_refused(artifacts: Artifacts) -> None:
    with pytest.raises(RequestError, match="fields"):
        await form(artifacts, *(field("a", b"x") for _ in range(MAX_FIELDS + 1)), file(b"x"), END)

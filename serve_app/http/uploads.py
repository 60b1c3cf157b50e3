"""Request bodies: JSON, and uploads streamed into the artifact storage."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import orjson
from fastapi import Request
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from deployments.storage.artifacts import Artifacts
from deployments.storage.writer import ArtifactWriter
from serve_app.errors import RequestError

MAX_FIELD_BYTES = 64 << 10
MAX_FIELDS = 250
MAX_JSON_BYTES = 1 << 20
OVERHEAD_BYTES = 1 << 20  # allowed for boundaries, headers and fields beside the file


@dataclass(slots=True)
class Form:
    fields: dict[str, list[str]] = field(default_factory=dict)  # a name may repeat
    filename: str | None = None
    size: int = 0  # of the file, in bytes
    sha256: str = ""  # of the file, in hex


Watch = Callable[[int, Form], None]  # called with the bytes received so far, and the form as parsed so far
Check = Callable[[Form], None]  # called with the form as parsed before the file; may raise RequestError


def accept_all(_: Form) -> None: ...


class FormReader:
    """Incremental multipart parser; writes the file part to `writer` chunk by chunk."""

    def __init__(
        self, boundary: bytes, writer: ArtifactWriter, file_field: str, max_bytes: int, check: Check = accept_all
    ) -> None:
        self.form = Form()
        self._check = check
        self._writer = writer
        self._file_field = file_field
        self._max_bytes = max_bytes
        self._headers: dict[str, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._name = ""
        self._value: bytearray | None = None
        self._parts = 0
        self._ended = False
        self._digest = hashlib.sha256()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except MultipartParseError:
            raise RequestError("malformed", "The body is not valid multipart/form-data.") from None

    def finish(self) -> Form:
        """Raises RequestError if the body is incomplete."""
        if not self._ended:
            raise RequestError("malformed", "The multipart body ends before its last boundary.")
        self.form.sha256 = self._digest.hexdigest()
        if self.form.filename is not None and not self.form.size:
            if self.form.filename:
                raise RequestError("no_audio", "The file is empty: send the recording.", ((self._file_field, "empty"),))
            self.form.filename = None  # browsers send such a part for an input without a file
        return self.form

    def _part_begin(self) -> None:
        self._headers = {}

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[name.decode("latin-1").lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        if b"name" not in options:
            raise RequestError("malformed", "A part of the multipart body has no name.")
        self._name = options[b"name"].decode(errors="replace")
        filename = options.get(b"filename")
        if filename is None and self._name != self._file_field:
            self._parts += 1
            if self._parts > MAX_FIELDS:
                raise RequestError("malformed", f"There are more than {MAX_FIELDS} fields.")
            self._value = bytearray()
            return
        if self._name != self._file_field or self.form.filename is not None:
            raise RequestError("invalid_request", f"Send one file, in the field {self._file_field}.")
        self.form.filename = (filename or b"").decode(errors="replace")
        self._value = None
        self._check(self.form)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._value is None:
            self.form.size += end - start
            if self.form.size > self._max_bytes:
                raise RequestError("source_too_large", f"The file is larger than the {self._max_bytes} bytes allowed.")
            chunk = memoryview(data)[start:end]
            self._digest.update(chunk)
            self._writer.write(chunk)
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise RequestError("malformed", f"The field {self._name} is longer than {MAX_FIELD_BYTES} bytes.")

    def _part_end(self) -> None:
        if self._value is not None:
            try:
                self.form.fields.setdefault(self._name, []).append(self._value.decode())
            except UnicodeDecodeError:
                raise RequestError("malformed", f"The field {self._name} is not UTF-8.") from None

    def _end(self) -> None:
        self._ended = True


class _NoFile(Exception):  # aborts the writer
    pass


async def receive(
    body: AsyncIterator[bytes],
    content_type: str,
    artifacts: Artifacts,
    key: str,
    file_field: str,
    max_bytes: int,
    *,
    needed: bool = True,
    check: Check = accept_all,
    watch: Watch = lambda _body, _form: None,
) -> Form:
    """Read a multipart body and store its file under `key`; nothing is stored if this raises. Raises RequestError."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise RequestError("malformed", "The multipart body has no boundary.")
    threads = artifacts.threads
    with suppress(_NoFile):
        async with threads.entered(artifacts.writer(key, incoming=True)) as writer:
            try:
                reader = FormReader(boundary, writer, file_field, max_bytes, check)
            except FormParserError:
                raise RequestError("malformed", "The boundary of the multipart body is too long.") from None
            received = 0
            async for chunk in body:
                received += len(chunk)
                if received > max_bytes + OVERHEAD_BYTES:
                    raise RequestError("source_too_large", f"The body is larger than the {max_bytes} bytes allowed.")
                await threads.run(reader.feed, chunk)
                watch(received, reader.form)
            form = reader.finish()
            if form.filename is None:
                if needed:
                    raise RequestError("invalid_request", f"The field {file_field} is missing.", ((file_field, "missing"),))
                raise _NoFile
    return form


async def receive_raw(body: AsyncIterator[bytes], artifacts: Artifacts, key: str, max_bytes: int) -> Form:
    """Store a raw body under `key`; nothing is stored if this raises. Raises RequestError."""
    form, digest = Form(), hashlib.sha256()
    threads = artifacts.threads
    async with threads.entered(artifacts.writer(key, incoming=True)) as writer:

        def store(chunk: bytes) -> None:
            digest.update(chunk)
            writer.write(chunk)

        async for chunk in body:
            form.size += len(chunk)
            if form.size > max_bytes:
                raise RequestError("source_too_large", f"The body is larger than the {max_bytes} bytes allowed.")
            await threads.run(store, chunk)
        if not form.size:
            raise RequestError("no_audio", "The body is empty: send the recording.")
    form.sha256 = digest.hexdigest()
    return form


def refuse_large(declared: str | None, max_bytes: int) -> int:
    """The Content-Length, 0 if there is none. Raises RequestError `source_too_large`."""
    size = int(declared) if declared and declared.isdecimal() else 0
    if size > max_bytes:
        raise RequestError("source_too_large", f"The body is larger than the {max_bytes} bytes allowed.")
    return size


async def json_body(request: Request, empty: object = None) -> object:
    """Read and parse a JSON body, unless its Content-Length is too large. Raises RequestError."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_JSON_BYTES:
        raise _json_too_long()
    return await read_json(request.stream(), empty)


def _json_too_long() -> RequestError:
    return RequestError("malformed", f"The JSON body is longer than {MAX_JSON_BYTES} bytes.")


async def read_json(body: AsyncIterator[bytes], empty: object = None) -> object:
    """Parse a JSON body of at most `MAX_JSON_BYTES`; `empty` stands for no body. Raises RequestError."""
    document = bytearray()
    async for chunk in body:
        document += chunk
        if len(document) > MAX_JSON_BYTES:
            raise _json_too_long()
    if empty is not None and not document:
        return empty
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        raise RequestError("malformed", "The body is not valid JSON.") from None

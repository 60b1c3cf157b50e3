"""Dialect and ApiContext, and what dialects share: parameters, form fields, times, request bodies in the document."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, overload

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError
from serve_app.http.byte_ranges import requested_range
from serve_app.http.openapi import COMPONENT, schema_of, without_null
from serve_app.http.uploads import (
    OVERHEAD_BYTES,
    Check,
    Form,
    Watch,
    accept_all,
    receive,
    receive_raw,
    refuse_large,
)
from serve_app.http.validation import invalid
from serve_app.jobs.deliveries import Deliveries
from serve_app.jobs.service import Jobs
from serve_app.jobs.submission import Draft
from serve_app.jobs.webhook_payload import PayloadRenderer

M = TypeVar("M", bound=BaseModel)
S = TypeVar("S", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The core, and the limits of the edge: all that routes work with."""

    jobs: Jobs
    deliveries: Deliveries
    artifacts: Artifacts  # storage of uploads
    max_upload_bytes: int
    sse_max_age_s: float  # age at which a stream ends, to be resumed
    public_url: str = ""  # URL that clients reach the service by; '' for the request's own
    devices: Mapping[str, str] = field(default_factory=dict)  # model -> device and compute type, as far as known
    dialect_settings: Mapping[str, BaseSettings] = field(default_factory=dict)  # dialect -> its settings
    body_idle_s: float = 30.0  # silence after which a request body is cut off

    def at(self, request: Request) -> str:
        """URL of the service as the client knows it, without a trailing slash; '' where its Host is not a known one."""
        known = self.public_url or request.app.state.auth.knows_host(request.headers)
        return (self.public_url or str(request.base_url)).rstrip("/") if known else ""

    def settings(self, dialect: str, kind: type[S]) -> S:
        """Settings of a dialect as the root read them, else the defaults."""
        settings = self.dialect_settings.get(dialect)
        return settings if isinstance(settings, kind) else kind.model_construct()

    async def receive_form(
        self,
        request: Request,
        draft: Draft,
        field: str,
        *,
        required: bool = True,
        check: Check = accept_all,
        watch: Watch = lambda _body, _form: None,
    ) -> Form:
        """Read a multipart body; its file `field` is stored as the draft's source."""
        kind, limit = request.headers.get("content-type", ""), self.max_upload_bytes
        await self._admit(request, draft, limit + OVERHEAD_BYTES)
        return await receive(
            request.stream(), kind, self.artifacts, draft.source, field, limit, needed=required, check=check, watch=watch
        )

    async def receive_raw(self, request: Request, draft: Draft) -> Form:
        """Read a body that is the recording itself; it is stored as the draft's source."""
        await self._admit(request, draft, self.max_upload_bytes)
        return await receive_raw(request.stream(), self.artifacts, draft.source, self.max_upload_bytes)

    async def _admit(self, request: Request, draft: Draft, max_bytes: int) -> None:
        # Before the first byte is read, so that the client sends none: it gets its `100 Continue` when reading begins.
        size = refuse_large(request.headers.get("content-length"), max_bytes)
        await draft.admit()
        await self.artifacts.threads.run(self.artifacts.require_space, size)


@dataclass(frozen=True, slots=True)
class Dialect:
    """A vendor's API: one file or folder, and one entry of DIALECTS."""

    name: str  # marks the jobs that are made through it
    prefix: str  # of its paths
    routes: Callable[[ApiContext], APIRouter]
    error: Callable[[RequestError], Response]  # renders errors below the prefix
    render: PayloadRenderer | None = None  # renders the webhook payload, where the API has webhooks
    key_header: str = ""  # header in which its clients send the API key, beside the usual ones
    settings: type[BaseSettings] | None = None  # variables of its own, with the prefix MURMUR_ or an alias in capitals
    tags: Mapping[str, str] = field(default_factory=dict)  # groups of operations in the document -> description


# Parameters that several dialects have.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 characters; sent again with the same request, it returns the job that the first one made.",
    ),
]
JobId = Annotated[str, Path(description="Id of the job.")]
ByteRange = Annotated[str | None, Depends(requested_range)]
PageSize = Annotated[int, Query(ge=1, le=100, description="Entries of a page, at most.")]


def validated(model: type[M], data: object) -> M:
    """`data` as a `model`. Raises RequestError with the fields that are wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(error.errors(), model) from None


def validated_so_far(model: type[M], data: object) -> M | None:
    """Like `validated`, but None while required fields are missing."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        wrong = [each for each in error.errors() if each["type"] != "missing"]
        if wrong:
            raise invalid(wrong, model) from None
        return None


def flat(fields: Mapping[str, list[str]], lists: Collection[str] = (), ignored: Collection[str] = ()) -> dict[str, Any]:
    """One value per form field, but for those of `lists`, which may be repeated, with or without brackets."""
    values_of: dict[str, Any] = {}
    for name, values in fields.items():
        plain = name.removesuffix("[]")
        if plain in lists:
            values_of.setdefault(plain, []).extend(values)
        elif len(values) > 1:
            raise RequestError("invalid_request", f"The field {name} is given twice.", ((name, "given twice"),))
        elif name not in ignored:
            values_of[name] = values[0]
    return values_of


def without_blanks(data: object) -> Any:
    """An object without the values that clients send for "not set": null and the empty string."""
    if not isinstance(data, dict):
        return data
    return {name: value for name, value in data.items() if value is not None and value not in ("", [""])}


@overload
def utc(seconds: float) -> datetime: ...
@overload
def utc(seconds: None) -> None: ...
@overload
def utc(seconds: float | None) -> datetime | None: ...
def utc(seconds: float | None) -> datetime | None:
    """Unix seconds as a time in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def moment(seconds: float | None) -> str | None:
    """Unix seconds in the format of RFC 3339, in UTC, to the millisecond."""
    return None if seconds is None else utc(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def artifact_url(job_id: str, name: str) -> str:
    """Path of a job's artifact in the native API."""
    return f"/v1/jobs/{job_id}/artifacts/{name}"


def request_body(
    *,
    form: type[BaseModel] | None = None,
    file: str = "",
    json: type[BaseModel] | None = None,
    form_name: str = "",
    file_required: bool = True,
    required: bool = True,
) -> dict[str, Any]:
    """`openapi_extra` of a body that a route reads itself: JSON, or multipart with a file in the field `file`. The
    component of the form is `form_name`, else named after the model."""
    content: dict[str, Any] = {}
    if json:
        content["application/json"] = {"schema": schema_of(json, "validation")}
    if form:
        content["multipart/form-data"] = {"schema": _form_schema(form, file, form_name, required=file_required)}
    return {"requestBody": {"required": required, "content": content}}


def _form_schema(form: type[BaseModel], file: str, name: str, *, required: bool) -> dict[str, Any]:
    """Schema of a form: the model's, with the file first. Form fields are absent rather than null."""
    name = name or (form.__name__ if form.__name__.endswith("Form") else f"{form.__name__}Form")
    definitions = schema_of(form, "validation")["$defs"]
    schema = definitions.pop(form.__name__)
    properties = {field: without_null(part) for field, part in schema["properties"].items()}
    binary = {"type": "string", "format": "binary", "title": "File", "description": "The recording."}
    schema |= {"title": name, "properties": {file: binary, **properties}}
    schema["required"] = [*([file] if required else ()), *schema.get("required", ())]
    if not schema["required"]:
        del schema["required"]
    if "examples" in schema:
        schema["examples"] = [{file: "(the bytes of the recording)", **example} for example in schema["examples"]]
    return {"$ref": COMPONENT.format(model=name), "$defs": {**definitions, name: schema}}

"""What every dialect has: a router, its own way to say what went wrong, and the same care with what it is sent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, ValidationError

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError
from serve_app.http.uploads import Form, Watch, receive, receive_raw
from serve_app.jobs.deliveries import Deliveries
from serve_app.jobs.service import Jobs
from serve_app.jobs.submission import Draft
from serve_app.jobs.webhook_payload import PayloadRenderer

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ApiContext:
    """What routes work with: the core, deliveries, the storage that uploads go to, and the edge's limits. `public_url` is
    how clients reach the service, where the request does not tell; `drive_uri` a template of where recordings lie; `devices`
    what models run on, as far as it is known."""

    jobs: Jobs
    deliveries: Deliveries
    artifacts: Artifacts
    max_upload_bytes: int
    sse_max_age_s: float
    public_url: str = ""
    drive_uri: str = ""
    devices: Mapping[str, str] = field(default_factory=dict)

    def at(self, request: Request) -> str:
        """The service's own URL as the client knows it, without a slash at its end."""
        return (self.public_url or str(request.base_url)).rstrip("/")

    async def receive_form(
        self, request: Request, draft: Draft, field: str, *, required: bool = True, watch: Watch = lambda _body, _form: None
    ) -> Form:
        """Read a multipart body; its file `field` is stored as the draft's source. `watch` sees the progress."""
        kind, limit = request.headers.get("content-type", ""), self.max_upload_bytes
        return await receive(
            request.stream(), kind, self.artifacts, draft.source, field, limit, needed=required, watch=watch
        )

    async def receive_raw(self, request: Request, draft: Draft) -> Form:
        """Read a body that is the recording itself; it is stored as the draft's source."""
        return await receive_raw(request.stream(), self.artifacts, draft.source, self.max_upload_bytes)


@dataclass(frozen=True, slots=True)
class Dialect:
    """`error` renders an error for paths that start with `prefix`; `routes` binds the routes to an edge; `render` tells a
    webhook that a job made in the dialect called `name` has ended, in one that has webhooks."""

    name: str
    prefix: str
    routes: Callable[[ApiContext], APIRouter]
    error: Callable[[RequestError], Response]
    render: PayloadRenderer | None = None


IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", description="Sent again, it makes no second job.")]
"""What every POST that makes a job takes."""


def validated(model: type[M], data: object) -> M:
    """What was sent, as `model` has it. EdgeError names the fields that are wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(error.errors()) from None


def invalid(errors: Any) -> RequestError:
    """Pydantic's findings as an error of ours."""
    found = tuple((".".join(str(p) for p in e["loc"] if p != "body"), str(e["msg"])) for e in errors)
    told = "; ".join(f"{name}: {what}" if name else what for name, what in found[:3])
    return RequestError("invalid_request", f"The request is not valid. {told}.", found)


def flat(fields: Mapping[str, list[str]], lists: Collection[str] = (), ignored: Collection[str] = ()) -> dict[str, Any]:
    """A form's fields, one value each, but those of `lists`, which may come several times, with brackets or without."""
    told: dict[str, Any] = {}
    for name, values in fields.items():
        plain = name.removesuffix("[]")
        if plain in lists:
            told.setdefault(plain, []).extend(values)
        elif len(values) > 1:
            raise RequestError("invalid_request", f"The field {name} is given twice.", ((name, "given twice"),))
        elif name not in ignored:
            told[name] = values[0]
    return told


def given(data: object) -> Any:
    """What was sent, without what clients send for "not given": null and the empty string."""
    if not isinstance(data, dict):
        return data
    return {name: value for name, value in data.items() if value is not None and value not in ("", [""])}


def moment(seconds: float | None) -> str | None:
    """A time as RFC 3339 has it, in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def request_body(
    *, form: type[BaseModel] | None = None, file: str = "", json: type[BaseModel] | None = None
) -> dict[str, Any]:
    """How the document tells of a body that is read by hand: multipart with a `file`, or JSON."""
    content: dict[str, Any] = {}
    if json:
        content["application/json"] = {"schema": inlined(json.model_json_schema())}
    if form:
        schema = inlined(form.model_json_schema())
        schema["properties"] = {file: {"type": "string", "format": "binary"}, **schema["properties"]}
        schema["required"] = [file, *schema.get("required", ())]
        content["multipart/form-data"] = {"schema": schema}
    return {"requestBody": {"required": True, "content": content}}


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose definitions stand where they are used: in the document there is no other place for them."""
    definitions = schema.pop("$defs", {})

    def placed(part: Any) -> Any:
        if isinstance(part, list):
            return [placed(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return placed(definitions[part["$ref"].rpartition("/")[2]])
        return {name: placed(value) for name, value in part.items() if name != "discriminator"}

    told: dict[str, Any] = placed(schema)
    return told

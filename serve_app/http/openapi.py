"""The OpenAPI document: schemas as components, error responses, operation ids, and what all operations share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import reduce
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.types import ASGIApp

Document = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

COMPONENT = "#/components/schemas/{model}"
ERRORS = {
    400: "The body, a parameter or a header is not valid.",
    401: "An API key is required, or the one sent is wrong, expired or revoked.",
    403: "The API key lacks the scope, or Host or Origin does not name this service.",
    404: "There is no such object, or it is another caller's.",
    405: "The path does not take this method.",
    408: "Nothing of the body came for too long.",
    409: "The state does not allow it, or another request with the Idempotency-Key is in progress.",
    410: "The object was deleted.",
    413: "The recording is larger than allowed.",
    415: "The media type of the body is not supported.",
    422: "A field is missing, unknown or out of range, or its value is not supported.",
    429: "A rate limit, a quota or the queue of the tenant is exhausted.",
    500: "The service failed to answer the request.",
    503: "Redis, the storage, or the key set of the token's issuer cannot be reached right now: try again.",
    507: "The disk of the storage is full: try again once there is room.",
}
FAILURES = (500, 503, 507)
UPLOAD = (408, 409, 413)  # of routes that read a recording
HEADERS: Document = {
    "X-Request-ID": ("Id of the request in the log; the request's own if it sent one.", "string"),
    "Allow": ("Methods that the path takes.", "string"),
    "WWW-Authenticate": ("`Bearer`.", "string"),
    "Retry-After": ("Seconds to wait before the request is sent again.", "integer"),
    "RateLimit": (
        "Limit that is exhausted, and the seconds until it is reset (draft-ietf-httpapi-ratelimit-headers).",
        "string",
    ),
    "RateLimit-Policy": ("Limit that is exhausted: its quota and window.", "string"),
}
# Headers that accompany a status in every dialect, beside X-Request-ID.
HEADERS_OF = {
    "401": ("WWW-Authenticate",),
    "405": ("Allow",),
    "409": ("Retry-After",),
    "429": ("Retry-After", "RateLimit", "RateLimit-Policy"),
    "503": ("Retry-After",),
    "507": ("Retry-After",),
}
NEVER_SENT = ("HTTPValidationError", "ValidationError")  # FastAPI's own: validation errors go through the dialect


def schema_of(kind: Any, mode: Literal["validation", "serialization"] = "serialization") -> Document:
    """JSON Schema of a type in which models are references to components. Its `$defs` hold them, to be hoisted."""
    schemas, definitions = TypeAdapter.json_schemas([("", mode, TypeAdapter(kind))], ref_template=COMPONENT)
    return {**schemas["", mode], **definitions}


def content(kind: Any, *media_types: str) -> Document:
    """Content of a response: one type in one or several media types, JSON unless named."""
    return {media_type: {"schema": schema_of(kind)} for media_type in media_types or ("application/json",)}


def event_stream(
    name: str, data: Any, *, events: Collection[str] = (), only_json: bool = True, example: str = ""
) -> Document:
    """Content of Server-Sent Events: text, or parsed the component `name`, whose data is JSON of the type `data`."""
    schema = schema_of(data)
    definitions = schema.pop("$defs")
    event = {"type": "string", "description": "Kind of the event.", **({"enum": [*events]} if events else {})}
    media_type = {"contentMediaType": "application/json"} if only_json else {}
    frame = {
        "title": name,
        "type": "object",
        "description": "Server-Sent Event.",
        "properties": {
            "id": {"type": "string", "description": "Id to resume after, where the stream can be resumed."},
            "event": event,
            "data": {"type": "string", "description": "JSON.", **media_type, "contentSchema": schema},
        },
        "required": ["data"],
    }
    reference = {"$ref": COMPONENT.format(model=name)}
    stream = {"anyOf": [{"type": "string"}, reference], "$defs": {**definitions, name: frame}}
    return {"text/event-stream": {"schema": stream, **({"example": example} if example else {})}}


def binary(*media_types: str) -> Document:
    """Content of a response that is a file."""
    return {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types}


def header(description: str, kind: str = "string") -> Document:
    """Header of a response."""
    return {"description": description, "schema": {"type": kind}}


def errors(kind: Any, *statuses: int, media_type: str = "application/json") -> Responses:
    """Error responses of a dialect, in its own form; those of FAILURES always among them."""
    return {
        status: {"description": ERRORS[status], "content": content(kind, media_type)} for status in (*statuses, *FAILURES)
    }


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Schema of a form field or parameter, which is absent rather than null: without that alternative and default."""
    alternatives = [part for part in schema.get("anyOf", ()) if part != {"type": "null"}]
    if len(alternatives) == len(schema.get("anyOf", ())):
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf" and not (name == "default" and value is None)}
    return {**rest, **alternatives[0]} if len(alternatives) == 1 else {**rest, "anyOf": alternatives}


def operation_id(route: APIRoute) -> str:
    """Tag and name of a route: stable, and unique across the dialects."""
    tag = str(route.tags[0]) if route.tags else "service"
    return f"{tag}_{route.name}".lower().replace(" ", "_")


class Api(FastAPI):
    """FastAPI whose document has its schemas as components, and names the headers and keys that all operations share.
    `key_header_of` gives the header that clients of a path may send their key in; `layers` are middlewares."""

    def __init__(
        self, *, key_header_of: Callable[[str], str], layers: Sequence[Callable[[ASGIApp], ASGIApp]], **options: Any
    ) -> None:
        super().__init__(generate_unique_id_function=operation_id, **options)
        self.key_header_of = key_header_of
        self._layers = layers

    def build_middleware_stack(self) -> ASGIApp:
        # Starlette's own list would be inside of the handler of unexpected errors. Innermost first.
        return reduce(lambda app, layer: layer(app), self._layers, super().build_middleware_stack())

    def openapi(self) -> Document:
        """The document; made once."""
        if not self.openapi_schema:
            document = super().openapi()
            schemas = document["components"]["schemas"]
            _hoist(document, schemas)
            for name in NEVER_SENT:
                schemas.pop(name, None)
            for schema in schemas.values():
                for example in schema.get("examples", ()):  # FastAPI has dropped the nulls
                    example.update({name: None for name in schema.get("required", ()) if name not in example})
            document["components"]["headers"] = {name: header(*each) for name, each in HEADERS.items()}
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _share_headers(operation["responses"])
                    operation["responses"] = dict(sorted(operation["responses"].items()))
                    for parameter in operation.get("parameters", ()):
                        parameter["schema"] = without_null(parameter["schema"])
                    self._add_key_header(document, operation, self.key_header_of(path))
        return self.openapi_schema or {}

    @staticmethod
    def _add_key_header(document: Document, operation: Document, name: str) -> None:
        if name and "security" in operation:
            description = "The API key, in the header that this API's own clients use."
            scheme = {"type": "apiKey", "in": "header", "name": name, "description": description}
            document["components"]["securitySchemes"][name] = scheme
            operation["security"].append({name: []})


def _hoist(part: Any, schemas: Document) -> None:
    """Move every `$defs` below `part` to `schemas`. Raises ValueError where two different schemas have one name."""
    if isinstance(part, list):
        for item in part:
            _hoist(item, schemas)
    elif isinstance(part, dict):
        for name, schema in part.pop("$defs", {}).items():
            if schemas.setdefault(name, schema) != schema:
                raise ValueError(f"two schemas are named {name}")
        for value in list(part.values()):
            _hoist(value, schemas)


def _share_headers(responses: Document) -> None:
    """Name the headers that every response has, and drop the 422 of FastAPI that no dialect sends."""
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    for status, response in responses.items():
        names = ("X-Request-ID", *HEADERS_OF.get(status, ()))
        shared = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
        response["headers"] = {**response.get("headers", {}), **shared}
        response.setdefault("description", HTTPStatus(int(status)).phrase)

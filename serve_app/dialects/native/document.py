"""The native API in the OpenAPI document: summary and responses of each route, options in the query of a raw body."""

from __future__ import annotations

from typing import Any

import serve_app.dialects.native.events as events
import serve_app.dialects.native.wire as wire
from serve_app.dialects.base import request_body
from serve_app.dialects.native.translate import PROBLEM
from serve_app.formats import FORMATS
from serve_app.http.openapi import (
    UPLOAD,
    Responses,
    binary,
    content,
    errors,
    event_stream,
    header,
    operation_id,
    schema_of,
    without_null,
)
from serve_app.http.parameters import KNOWN_QUERY

Described = dict[str, Any]  # keyword arguments of a route

NATIVE_ROUTER: Described = {"dependencies": KNOWN_QUERY, "generate_unique_id_function": operation_id}
TAGS = {
    "Jobs": "Native API: submit recordings, follow jobs, read transcripts.",
    "Models": "Native API, and OpenAI's list of models: the models on offer.",
    "Webhooks": "Native API: deliveries of webhooks, and the secrets that sign them.",
}
STREAM = """retry: 2000

id: 1795808464089-0
event: segment
data: {"id":0,"start":0.2,"end":3.9,"text":"Good morning, Mira.","confidence":0.83,"language":"en","flags":[]}

id: 1795808464102-0
event: done
data: {"phase":"completed"}
"""


def problems(*statuses: int) -> Responses:
    """Error responses of a route; every route checks the key, the rate limit and the names of its parameters."""
    return errors(wire.Problem, *sorted({401, 403, 422, 429, *statuses}), media_type=PROBLEM)


def _raw_options() -> list[Described]:
    """Options as query parameters of a raw body; without defaults, which some clients would send with other bodies."""
    properties = schema_of(wire.Options, "validation")["$defs"]["Options"]["properties"]
    properties["metadata"] = {"type": "string", "description": f"{properties['metadata']['description']} A JSON object."}
    properties["filename"] = {"type": "string", "description": "Name of the recording."}
    return [
        {
            "name": name,
            "in": "query",
            "description": f"{schema.pop('description')} Only for a raw body.",
            "schema": {key: value for key, value in without_null(schema).items() if key != "default"},
        }
        for name, schema in properties.items()
    ]


def _submit_body() -> Described:
    """Bodies of a submission."""
    body = request_body(form=wire.Options, form_name="JobForm", file="file", json=wire.JobRequest)
    body["requestBody"]["description"] = (
        "A source to fetch (JSON), a file with options as form fields, or the recording itself. A raw recording may also be "
        "sent as audio/* or video/*."
    )
    body["requestBody"]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return {**body, "parameters": _raw_options()}


def _events() -> Described:
    """Content of an event stream."""
    data = events.PhaseEvent | events.ProgressEvent | events.Segment | events.DoneEvent
    return event_stream("JobEvent", data, events=[kind.value for kind in events.EVENTS], example=STREAM)


def _transcripts() -> Described:
    """Content of a transcript in every format; text first, which all of them can be read as."""
    texts = [each.content_type.partition(";")[0] for each in FORMATS.values() if each.suffix != "json"]
    return {**content(str, *texts), **content(events.Transcript)}


SUBMIT: Described = {
    "summary": "Submit a recording",
    "openapi_extra": _submit_body(),
    "responses": {
        202: {
            "description": "The job, which is durable now.",
            "headers": {
                "Location": header("Path of the job."),
                "Idempotent-Replayed": header("`true` where the Idempotency-Key was used before, for the same request."),
            },
        },
        **problems(400, 415, 422, *UPLOAD),
    },
}
LIST: Described = {"name": "list", "summary": "List jobs", "response_description": "The page.", "responses": problems(422)}
GET: Described = {"summary": "Read a job", "response_description": "The job.", "responses": problems(404, 410)}
EVENTS: Described = {
    "summary": "Follow a job",
    "responses": {
        200: {
            "description": "Events as they occur, up to `done`. "
            + ", ".join(f"`{kind}` carries {model.__name__}" for kind, model in events.EVENTS.items())
            + ".",
            "content": _events(),
        },
        204: {"description": "There are no more events: do not reconnect."},
        **problems(400, 404, 410),
    },
}
TRANSCRIPT: Described = {
    "summary": "Read a transcript",
    "responses": {
        200: {
            "description": "The transcript.",
            "headers": {"Transcript-Partial": header("`true` where the job ended early or has not ended.")},
            "content": _transcripts(),
        },
        **problems(404, 409, 410, 422),
    },
}
RANGE = {"Content-Range": header("Range of the body, or the size of the file.")}
ARTIFACT: Described = {
    "summary": "Read an artifact",
    "responses": {
        200: {
            "description": "The file.",
            "headers": {"Accept-Ranges": header("`bytes`.")},
            "content": binary("application/octet-stream", "application/x-ndjson", "audio/mpeg", "audio/wav"),
        },
        206: {
            "description": "The range of its bytes.",
            "headers": RANGE,
            "content": binary("application/octet-stream", "application/x-ndjson", "audio/mpeg", "audio/wav"),
        },
        416: {"description": "The file has no such range.", "headers": RANGE},
        **problems(404, 410),
    },
}
TICKET: Described = {
    "summary": "Make a ticket",
    "response_description": "The ticket.",
    "responses": problems(400, 404, 408, 410, 422),
}
CANCEL: Described = {
    "summary": "Cancel a job",
    "response_description": "The job; one that runs is cancelled within a window.",
    "responses": problems(404, 409),
}
RETRY: Described = {
    "summary": "Retry a failed job",
    "response_description": "The job, queued again.",
    "responses": problems(404, 409, 410),
}
DELETE: Described = {
    "summary": "Delete a job",
    "responses": {204: {"description": "It is deleted."}, **problems(404, 409, 422)},
}
LIST_MODELS: Described = {
    "name": "list",
    "summary": "List models",
    "response_description": "The models.",
    "responses": problems(),
}
GET_MODEL: Described = {
    "name": "get",
    "summary": "Read a model",
    "response_description": "The model.",
    "responses": problems(404),
}
LIST_DELIVERIES: Described = {"summary": "List deliveries", "response_description": "The page.", "responses": problems(422)}
REDELIVER: Described = {
    "summary": "Redeliver a webhook",
    "response_description": "The delivery, which is attempted now.",
    "responses": problems(404, 409),
}
SECRETS: Described = {"summary": "Read the signing secrets", "response_description": "The secrets.", "responses": problems()}
ROTATE: Described = {
    "summary": "Rotate the signing secret",
    "response_description": "The secrets, the new one first.",
    "responses": problems(400, 408, 422),
}

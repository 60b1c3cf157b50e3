"""Pydantic's validation errors as a RequestError that a caller understands."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

from serve_app.errors import RequestError

SHOWN = 3  # problems in the message; `fields` has all
OBJECT_EXPECTED = {"model_type", "model_attributes_type", "dict_type", "dataclass_type"}
Location = Sequence[str | int]


def invalid(errors: Sequence[Any], model: type[BaseModel] | None = None) -> RequestError:
    """RequestError for pydantic's errors; the fields of `model`, if known, are suggested for misspelt names."""
    fields, sentences = [], []
    for error in errors:
        location = [part for part in error["loc"] if part != "body"]
        name, problem = ".".join(map(str, location)), _problem(error, location, model)
        fields.append((name, problem))
        names_itself = not name or error["type"] == "extra_forbidden"
        sentences.append(problem if names_itself else f"{name}: {problem}")
    text = "; ".join(sentences[:SHOWN]).replace("?;", "?")
    return RequestError(
        "invalid_request", f"The request is not valid. {text}{'' if text.endswith('?') else '.'}", tuple(fields)
    )


def _problem(error: Any, location: Location, model: type[BaseModel] | None) -> str:
    if error["type"] in OBJECT_EXPECTED:
        return "must be an object"
    if error["type"] != "extra_forbidden":
        return str(error["msg"])
    *parents, last = location
    similar = get_close_matches(str(last), _names(model, parents), 1)
    suggestion = f"; did you mean {'.'.join(map(str, [*parents, similar[0]]))!r}?" if similar else ""
    return f"There is no option {'.'.join(map(str, location))!r}{suggestion}"


def _names(model: type[BaseModel] | None, location: Location) -> list[str]:
    """Names of the fields of the object at a location in a model."""
    for part in location:
        if model is None:
            break
        if isinstance(part, str):
            annotations = [field.annotation for name, field in model.model_fields.items() if part in (name, field.alias)]
            model = _model_in(annotations[0]) if annotations else None
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """First model in an annotation such as `list[Item] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)

"""Sentences of validation errors."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.errors import RequestError
from serve_app.http.validation import invalid


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str


class Order(Item):
    language: str = ""
    webhook: str = Field("", alias="webhookUrl")
    items: list[Item] | None = None
    item: Item | None = None
    labels: dict[str, str] = {}


def refused(body: object) -> RequestError:
    """Error of a body that is no Order."""
    with pytest.raises(ValidationError) as error:
        Order.model_validate(body)
    return invalid(error.value.errors(), Order)


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({"url": "x", "langauge": "en"}, "langauge", "There is no option 'langauge'; did you mean 'language'?"),
        ({"url": "x", "webhook_url": ""}, "webhook_url", "There is no option 'webhook_url'; did you mean 'webhookUrl'?"),
        ({"url": "x", "nonsense": 1}, "nonsense", "There is no option 'nonsense'"),
        (
            {"url": "x", "items": [{"url": "x", "urll": 1}]},
            "items.0.urll",
            "There is no option 'items.0.urll'; did you mean 'items.0.url'?",
        ),
        (
            {"url": "x", "labels": {}, "item": {"url": "x", "link": 1}},
            "item.link",
            "There is no option 'item.link'",
        ),
    ],
)
def test_an_unknown_option_is_named_with_a_similar_one(body: object, field: str, problem: str) -> None:
    error = refused(body)
    assert error.fields == ((field, problem),)
    assert error.message == f"The request is not valid. {problem}{'' if problem.endswith('?') else '.'}"


@pytest.mark.parametrize(("name", "value"), [("item", "https://x"), ("labels", "a=b")])
def test_a_value_that_should_be_an_object(name: str, value: object) -> None:
    error = refused({"url": "x", name: value})
    assert error.fields == ((name, "must be an object"),)
    assert error.message == f"The request is not valid. {name}: must be an object."


def test_several_problems_are_one_message() -> None:
    error = refused({"langauge": "en", "item": "x"})
    assert error.message == (
        "The request is not valid. url: Field required; item: must be an object; "
        "There is no option 'langauge'; did you mean 'language'?"
    )

"""Settings of a command, with errors in one line."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import typer
from pydantic import SecretStr, ValidationError

from serve_app.settings import PREFIX, Settings, UnknownVariable, check_variables

SHOWN = 80  # characters of an invalid value
CREDENTIALS = re.compile(r"(\w://)\S*@")
SECRET_NAME = re.compile(r"secret|password|token|key", re.IGNORECASE)


def fail(message: str, status: int) -> typer.Exit:
    """Print an error, without credentials; returns the exit to raise."""
    sys.stderr.write(f"murmur: {without_credentials(message)}\n")
    return typer.Exit(status)


def settings_with(**flags: Any) -> Settings:
    """Read settings; flags that are not None override the environment. An invalid one exits with status 2."""
    from serve_app.dialects import dialect_settings, dialect_variables

    try:
        check_variables(os.environ, dialect_variables())
        dialect_settings()  # the service reads them again; a bad one is refused here, before anything starts
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except UnknownVariable as error:
        raise fail(str(error), 2) from None
    except ValidationError as error:
        raise fail(_describe(error), 2) from None


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message  # without the values: they are all settings, secrets included
    name = str(first["loc"][0])
    variable = name if name.isupper() else f"{PREFIX}{name.upper()}"
    if _secret(str(first["loc"][0])):
        return f"{variable}: {message}"
    value = without_credentials(repr(first["input"]))
    return f"{variable}: {message} (given: {value if len(value) <= SHOWN else value[:SHOWN] + '...'})"


def without_credentials(text: str) -> str:
    return CREDENTIALS.sub(r"\1", text)


def _secret(name: str) -> bool:
    # By its type, or by its name where it is a dialect's.
    field = Settings.model_fields.get(name.lower().removeprefix(PREFIX.lower()))
    return (field is not None and field.annotation is SecretStr) or bool(SECRET_NAME.search(name))

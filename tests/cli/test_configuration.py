"""Settings of a command: an invalid one is one line on standard error and status 2."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
import typer
from pydantic import ValidationError

from serve_app.cli.configuration import _describe, fail, settings_with
from serve_app.settings import Settings, UnknownVariable, check_variables


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this machine's own settings."""
    for name in [name for name in os.environ if name.startswith("MURMUR_")]:
        monkeypatch.delenv(name)


def test_flags_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MURMUR_PORT", "9000")
    assert settings_with(port=None).port == 9000
    assert settings_with(port=9001).port == 9001


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MURMUR_RESULT_TTL", "5", "MURMUR_RESULT_TTL: there is no such setting, did you mean MURMUR_RESULT_TTL_S?"),
        ("murmur_prot", "1", "murmur_prot: there is no such setting, did you mean MURMUR_PORT?"),
        ("MURMUR_QQQQ", "1", "MURMUR_QQQQ: there is no such setting, docs/settings.md lists all settings"),
        ("MURMUR_SUMMARY_PROMPTS", "{", "MURMUR_SUMMARY_PROMPTS: write a JSON object of prompts by id"),
        ("MURMUR_SUMMARY_PROMPTS", "[1]", "MURMUR_SUMMARY_PROMPTS: Input should be a valid dictionary (given: [1])"),
        ("MURMUR_PORT", "x" * 1000, "MURMUR_PORT: Input should be a valid integer, unable to parse"),
        ("MURMUR_JWT_SECRET", "hunter2", "tokens need jwt_issuer, jwt_audience and one of jwt_secret and jwt_jwks_url"),
    ],
)
def test_an_invalid_setting_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(typer.Exit) as ended:
        settings_with()
    assert ended.value.exit_code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"murmur: {message}")
    assert len(line) < 300
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((f"MURMUR_{name.upper()}", "hunter2") for name, field in Settings.model_fields.items() if "Secret" in str(field)),
        ("MURMUR_PORT", "redis://user:hunter2@host/0"),
        ("MURMUR_TENANT_WEIGHTS", "https://key:hunter2@host=x"),
        ("MURMUR_FETCH_ALLOW", "https://key:hunter2@host"),
    ],
)
@pytest.mark.parametrize("broken", [{}, {"MURMUR_SUMMARY_BASE_URL": "http://a"}, {"MURMUR_JWT_ISSUER": "x"}])
def test_no_secret_is_in_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, broken: dict[str, str]
) -> None:
    """Of a field, of a validator of several fields, or of another field beside it."""
    for variable, text in broken.items():
        monkeypatch.setenv(variable, text)
    with suppress(typer.Exit):
        settings_with(**{name.removeprefix("MURMUR_").lower(): value})
    monkeypatch.setenv(name, value)
    with suppress(typer.Exit):
        settings_with()
    with suppress(typer.Exit):
        settings_with(beam_below="x")
    assert "hunter2" not in capsys.readouterr().err


def test_a_secret_of_the_wrong_type_is_not_quoted() -> None:
    with pytest.raises(ValidationError) as invalid:
        Settings.model_validate({"summary_key": ["hunter2"]})
    assert "hunter2" not in _describe(invalid.value)


def test_an_error_is_printed_without_credentials_of_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    fail("cannot reach redis://user:hunter2@host/0, nor s3://key:hunter2@bucket", 2)
    assert capsys.readouterr().err == "murmur: cannot reach redis://host/0, nor s3://bucket\n"


def test_variables_of_the_client_the_tests_and_vendors_are_known() -> None:
    check_variables(["PATH", "MURMUR_SERVER", "MURMUR_API_KEY", "MURMUR_RECORDINGS", "MURMUR_GOLDEN", "murmur_batch_size"])
    check_variables(["MURMUR_ACME_DRIVE"], vendor_variables=("MURMUR_ACME_DRIVE",))
    with pytest.raises(UnknownVariable):
        check_variables(["MURMUR_ACME_DRIVE"])

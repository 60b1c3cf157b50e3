"""Settings of single dialects: read from the environment with those of the service, and refused by name like them."""

from __future__ import annotations

import os

import pytest
import typer
from pydantic import ValidationError

from serve_app.cli.configuration import settings_with
from serve_app.dialects import dialect_settings, dialect_variables
from serve_app.dialects.shift.settings import ShiftSettings
from serve_app.settings import check_variables


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this machine's own settings."""
    for name in [name for name in os.environ if name.startswith("MURMUR_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("uri", ["s3://b/{session_id}/{file_id}", "file:///x/{session_id}-{file_id}.wav", ""])
def test_a_drive_is_a_template(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MURMUR_STAGE_DRIVE_URI", uri)
    settings = dialect_settings()["shift"]
    assert isinstance(settings, ShiftSettings)
    assert settings.stage_drive_uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/{file_id}",
        "ftp://b/{session_id}/{file_id}",
        "s3://{session_id}/{file_id}",
        "https://{session_id}/{file_id}",
        "s3://b/{session_id}/{file_id}?x=1",
        "file://host/{session_id}/{file_id}",
    ],
)
def test_a_drive_that_is_no_template_is_refused(uri: str) -> None:
    with pytest.raises(ValidationError, match="session_id"):
        ShiftSettings(stage_drive_uri=uri)


def test_shifts_other_mode_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFT_TRANSCRIPTION_RUNNER_MODE", "deployment")
    assert ShiftSettings().shift_transcription_runner_mode == "deployment"
    for mode in ("k8s-job", "other"):
        monkeypatch.setenv("SHIFT_TRANSCRIPTION_RUNNER_MODE", mode)
        with pytest.raises(ValidationError, match="deployment"):
            ShiftSettings()


@pytest.mark.parametrize(
    ("name", "value"), [("MURMUR_STAGE_DRIVE_URI", "ftp://b"), ("SHIFT_TRANSCRIPTION_RUNNER_MODE", "k8s-job")]
)
def test_a_bad_value_ends_the_command_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(typer.Exit) as refused:
        settings_with()
    assert refused.value.exit_code == 2
    assert capsys.readouterr().err.startswith(f"murmur: {name}: ")


def test_variables_of_dialects_are_known() -> None:
    assert dialect_variables() == ("MURMUR_STAGE_DRIVE_URI", "SHIFT_TRANSCRIPTION_RUNNER_MODE")
    check_variables(dialect_variables(), dialect_variables())


@pytest.mark.parametrize("name", list(ShiftSettings.model_fields))
def test_every_setting_has_a_sentence(name: str) -> None:
    description = ShiftSettings.model_fields[name].description
    assert description
    assert description.endswith(".")

"""Settings of Shift's API: drives, and the variable that Shift's own deployments set."""

from __future__ import annotations

import re

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PLACES = r"s3://[a-z0-9.-]+|gs://[a-z0-9._-]+|file://|https?://[^/{}?#\s]+"
DRIVE = re.compile(rf"({PLACES})/([^{{}}?#\s]|\{{(session_id|file_id|tenant|owner)\}})+")


class ShiftSettings(BaseSettings):
    """Settings of Shift's API."""

    model_config = SettingsConfigDict(env_prefix="MURMUR_", frozen=True, extra="ignore")

    stage_drive_uri: str = Field(
        default="",
        description="Where files of Shift's drives lie: `s3://bucket/{tenant}/{session_id}/{file_id}`, say; or nowhere.",
    )
    shift_transcription_runner_mode: str = Field(
        default="deployment",
        validation_alias="SHIFT_TRANSCRIPTION_RUNNER_MODE",
        description="Shift's own variable, without the prefix: `deployment` is how jobs run here; `k8s-job` is refused.",
    )

    @field_validator("stage_drive_uri")
    @classmethod
    def _check_drive(cls, value: str) -> str:
        if value and not (DRIVE.fullmatch(value) and "{session_id}" in value and "{file_id}" in value):
            raise ValueError("write it as s3://, gs://, file:/// or https:// with {session_id} and {file_id} in its path")
        return value

    @field_validator("shift_transcription_runner_mode")
    @classmethod
    def _check_mode(cls, value: str) -> str:
        if value == "k8s-job":
            raise ValueError("k8s-job is not there yet: jobs run as a deployment")
        if value != "deployment":
            raise ValueError("use deployment")
        return value

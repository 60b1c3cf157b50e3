"""Settings of Shift's API: drives, and the variable that Shift's own deployments set."""

from __future__ import annotations

import re

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from serve_app.errors import RequestError
from serve_app.models.principal import Principal

PLACES = r"s3://[a-z0-9.-]+|gs://[a-z0-9._-]+|file://|https?://[^/{}?#\s]+"
DRIVE = re.compile(rf"({PLACES})/([^{{}}?#\s]|\{{(session_id|file_id|tenant|owner)\}})+")


NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._@-]{1,128}")  # of a tenant, owner, session or file: never a folder's "." or ".."


def in_drive(template: str, principal: Principal, session_id: str, file_id: str) -> tuple[str, str]:
    """URL of a file in the drive, and the root below which it must lie: the caller's part. Raises RequestError."""
    ids = {"tenant": principal.tenant, "owner": principal.owner, "session_id": session_id, "file_id": file_id}
    for name, value in ids.items():
        if f"{{{name}}}" in template and not NAME.fullmatch(value):
            raise RequestError("source_forbidden", f"The {name} cannot be part of a drive's path.", (("source", name),))
    url = template.format(**ids)
    # Links from one tenant's folder to another's lead out of the root, so it is as narrow as the template allows.
    fixed = re.split(r"\{(?:session_id|file_id)\}", template, maxsplit=1)[0].rpartition("/")[0]
    root = fixed.format(**ids) + "/"
    # Two names beside each other may make dots of parts that are none.
    if {".", ".."} & set(url.split("/")) or not url.startswith(root):
        raise RequestError("source_forbidden", "The source does not lie in the drive.", (("source", "outside"),))
    return url, root


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

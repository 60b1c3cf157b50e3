"""Wire models of requests, in camelCase."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

# Deeper metadata could be written by the JSON encoder, but not read back.
METADATA_LEVELS = 32
# Headers of a webhook that belong to the HTTP client.
RESERVED = ("host", "connection", "transfer-encoding", "content-length", "content-type", "upgrade", "te", "expect")
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
HeaderValue = Annotated[str, Field(pattern=r"^([!-~]([ -~]*[!-~])?)?$", max_length=1024)]


class KoldanRequestModel(BaseModel):
    """Part of a request. Unknown names are refused; null means absent."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, body: Any) -> Any:
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


class KoldanLanguageOptions(KoldanRequestModel):
    """Language as a BCP 47 tag; detected when absent."""

    default_language_code: Annotated[str | None, Field(max_length=35)] = None


class KoldanTranscriptionOptions(KoldanRequestModel):
    """Model, language and style of the transcript."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    language: KoldanLanguageOptions
    punctuation: bool = True
    capitalization: bool = True


class KoldanChannelLabel(KoldanRequestModel):
    """Speaker label of a channel."""

    channel: Annotated[int, Field(ge=0, le=7)]
    label: Annotated[str, Field(min_length=1, max_length=100)]


class KoldanDiarizationOptions(KoldanRequestModel):
    """Speaker separation: by voice or by channel."""

    enabled: bool
    mode: Literal["SPEAKER", "CHANNEL"] = "SPEAKER"
    max_speakers: Annotated[int | None, Field(ge=1, le=100)] = None
    channel_mapping: Annotated[list[KoldanChannelLabel], Field(max_length=8)] = []


class KoldanWebhookRequest(KoldanRequestModel):
    """Webhook to call at the end of a job; `secret` signs the call."""

    url: Annotated[str, Field(max_length=4096)]
    secret: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=20)] = {}

    @field_validator("headers")
    @classmethod
    def _refuse_reserved(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if name.lower() in RESERVED or name.lower().startswith(("webhook-", "x-webhook-")):
                raise ValueError(f"the header {name} is reserved: choose another name")
        return headers


class KoldanSummaryOptions(KoldanRequestModel):
    """Summary of the transcript, by a prompt template."""

    prompt_template_id: Annotated[str, Field(min_length=1, max_length=200)]


class KoldanJobRequest(KoldanRequestModel):
    """Job for an uploaded file."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "fileId": "4b9c5a35-7f0b-4a3e-9c1d-2f6a1f0e8d11",
                    "transcription": {"model": "base", "language": {"defaultLanguageCode": "en-US"}},
                }
            ]
        }
    )

    file_id: UUID
    transcription: KoldanTranscriptionOptions
    diarization: KoldanDiarizationOptions | None = None
    webhook: KoldanWebhookRequest | None = None


class KoldanUploadForm(KoldanRequestModel):
    """Form fields of an upload, beside its file."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "talk", "transcription": {"model": "base", "language": {"defaultLanguageCode": "en-US"}}}]
        }
    )

    uri: Annotated[str | None, Field(max_length=4096)] = None
    name: Annotated[str, Field(min_length=1, max_length=255)]
    description: Annotated[str | None, Field(max_length=4096)] = None
    path: Annotated[str, Field(pattern=r"^/([^/]+/)*$", max_length=1024)] = "/"
    metadata: dict[str, Any] = {}
    tags: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=50)] = []
    generate_listening_audio: bool = True
    transcription: KoldanTranscriptionOptions
    diarization: KoldanDiarizationOptions | None = None
    webhook: KoldanWebhookRequest | None = None
    summary: KoldanSummaryOptions | None = None

    @field_validator("metadata")
    @classmethod
    def _limit_nesting(cls, metadata: dict[str, Any]) -> dict[str, Any]:
        if _depth(metadata) > METADATA_LEVELS:
            raise ValueError(f"must not be nested more than {METADATA_LEVELS} deep")
        return metadata


def _depth(value: object) -> int:
    # Counted up to METADATA_LEVELS + 1.
    depth, level = 0, [value]
    while depth <= METADATA_LEVELS and (containers := [item for item in level if isinstance(item, dict | list)]):
        level = [x for item in containers for x in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth


class KoldanJobQuery(BaseModel):
    """Filter, sort order and page of the job list."""

    model_config = ConfigDict(alias_generator=to_camel)

    page: Annotated[int, Field(ge=0, le=10_000_000, description="Number of the page, from 0.")] = 0
    size: Annotated[int, Field(ge=1, le=100, description="Jobs of a page.")] = 20
    status: Annotated[list[str], Field(description="Only jobs in these statuses; repeated, or separated by commas.")] = []
    file_id: Annotated[UUID | None, Field(description="Only jobs for this file.")] = None
    is_deleted: Annotated[bool, Field(description="Only deleted jobs, instead of the others.")] = False
    is_purged: Annotated[bool | None, Field(description="Only jobs that are purged, or that are not.")] = None
    created_after: Annotated[datetime | None, Field(description="Only jobs created after this time.")] = None
    created_before: Annotated[datetime | None, Field(description="Only jobs created before this time.")] = None
    completed_after: Annotated[datetime | None, Field(description="Only jobs completed after this time.")] = None
    completed_before: Annotated[datetime | None, Field(description="Only jobs completed before this time.")] = None
    sort: Annotated[
        str,
        Field(
            pattern=r"^(creationDate|completionDate|status)(,(asc|desc))?$",
            description="Field to sort by, and `asc` or `desc` (the default).",
        ),
    ] = "creationDate,desc"

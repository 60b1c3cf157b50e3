"""Wire models of responses, in camelCase. A field with a default may be absent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from serve_app.dialects.koldan.wire_requests import KoldanChannelLabel

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
JobStatus = Literal["PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED"]


class KoldanResponseModel(BaseModel):
    """Part of a response."""

    model_config = ConfigDict(alias_generator=to_camel)


class KoldanFile(KoldanResponseModel):
    """File. `listeningAudioUrl` is an MP3 copy."""

    id: str
    name: str
    description: str | None
    path: str
    metadata: dict[str, Any]
    tags: list[str]
    file_name: str | None
    uri: str | None
    size: int | None
    listening_audio_url: str | None
    is_deleted: bool
    creation_date: Timestamp


class KoldanRemovedFile(KoldanResponseModel):
    """File whose record is gone."""

    id: str
    is_deleted: Literal[True]


class KoldanLanguage(KoldanResponseModel):
    """Requested language."""

    default_language_code: str | None = None


class KoldanTranscription(KoldanResponseModel):
    """Options of the transcript in effect."""

    model: str
    language: KoldanLanguage
    punctuation: bool
    capitalization: bool


class KoldanDiarization(KoldanResponseModel):
    """Speaker separation in effect."""

    enabled: bool
    mode: Literal["SPEAKER", "CHANNEL"]
    max_speakers: int | None = None
    channel_mapping: list[KoldanChannelLabel]


class KoldanJobError(KoldanResponseModel):
    """Reason of a failed job."""

    code: str
    message: str
    timestamp: Timestamp


class KoldanWebhook(KoldanResponseModel):
    """Webhook of a job, without its secret."""

    url: str
    headers: dict[str, str]


class KoldanJob(KoldanResponseModel):
    """Job without its result. `purgeAt` is when its results expire."""

    id: str
    status: JobStatus
    is_deleted: bool
    is_purged: bool
    creation_date: Timestamp
    completion_date: Timestamp | None
    deleted_at: Timestamp | None
    purged_at: Timestamp | None
    purge_at: Timestamp | None
    file: KoldanFile | KoldanRemovedFile
    transcription: KoldanTranscription
    diarization: KoldanDiarization | None
    error_code: str | None
    errors: list[KoldanJobError] | None
    webhook: KoldanWebhook | None


class KoldanWord(KoldanResponseModel):
    """Word in lower case, punctuation after it, and capitalized form. Times in seconds."""

    word: str
    start: float
    end: float
    confidence: float
    punctuation: str | None
    capitalization: str | None


class KoldanSegment(KoldanResponseModel):
    """Sentence. Times in seconds."""

    start: float
    end: float
    text: str
    confidence: float
    language: str | None
    speaker: str | None
    channel: int | None
    words: list[KoldanWord]


class KoldanResult(KoldanResponseModel):
    """Transcript of a completed job; `duration` in seconds."""

    text: str
    detected_languages: list[str]
    confidence: float | None
    duration: float
    segments: list[KoldanSegment]


class KoldanSummary(KoldanResponseModel):
    """Summary of a transcript."""

    id: str
    status: JobStatus
    prompt_template_id: str
    text: str | None
    error: str | None


class KoldanJobWithResult(KoldanJob):
    """Job with its result, once completed, and the summary, if requested."""

    result: KoldanResult | None
    summary: KoldanSummary | None = None


class KoldanUpload(KoldanResponseModel):
    """Uploaded or imported file, and its job."""

    file: KoldanFile
    job: KoldanJob
    summary: KoldanSummary | None


class KoldanJobFilters(KoldanResponseModel):
    """Filters in effect."""

    status: list[JobStatus] | None = None
    file_id: str | None = None
    is_deleted: bool
    is_purged: bool | None = None
    created_after: Timestamp | None = None
    created_before: Timestamp | None = None
    completed_after: Timestamp | None = None
    completed_before: Timestamp | None = None


class KoldanJobSort(KoldanResponseModel):
    """Sort order in effect."""

    field: Literal["creationDate", "completionDate", "status"]
    direction: Literal["asc", "desc"]


class KoldanJobList(KoldanResponseModel):
    """Page of jobs. `size` counts this page, `total` all pages."""

    jobs: list[KoldanJob]
    size: int
    total: int
    filters: KoldanJobFilters
    sort: KoldanJobSort


class KoldanError(KoldanResponseModel):
    """Refused request."""

    timestamp: Timestamp
    status: int
    code: str
    message: str

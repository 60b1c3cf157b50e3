"""Redis hashes → Job and File."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import TypeAdapter

from batching.types import SAMPLE_RATE
from serve_app.models.file import File
from serve_app.models.job import (
    ChannelCheckpoint,
    Checkpoint,
    Job,
    JobError,
    JobSpec,
    JobWarning,
    Phase,
    SummaryState,
)

SPEC = TypeAdapter(JobSpec)
FILE = TypeAdapter(File)
CHANNEL = TypeAdapter(ChannelCheckpoint)
WARNING = TypeAdapter(JobWarning)
WARNINGS = TypeAdapter(tuple[JobWarning, ...])


def _seconds(fields: Mapping[str, str], name: str) -> float | None:
    return int(fields[name]) / 1000 if name in fields else None


def _number(fields: Mapping[str, str], name: str) -> float | None:
    return float(fields[name]) if name in fields else None


def to_job(fields: Mapping[str, str]) -> Job:
    error = JobError(fields["error_code"], fields["error_message"]) if "error_code" in fields else None
    spec = SPEC.validate_json(fields["spec"])
    return Job(
        id=fields["id"],
        owner=fields["owner"],
        tenant=fields["tenant"],
        phase=Phase(fields["phase"]),
        spec=spec,
        model=fields.get("model", spec.model),
        created_at=int(fields["created_at"]) / 1000,
        started_at=_seconds(fields, "started_at"),
        completed_at=_seconds(fields, "completed_at"),
        attempts=int(fields["attempts"]),
        checkpoint=_checkpoint(fields),
        audio_done_s=float(fields["audio_done_s"]),
        audio_total_s=_number(fields, "audio_total_s"),
        eta_s=_number(fields, "eta_s"),
        device=fields.get("device"),
        error=error,
        cancelling="cancelling" in fields,
        done_event=fields.get("done_event"),
        transcript=int(fields["transcript"]) if "transcript" in fields else None,
        deleted_at=_seconds(fields, "deleted_at"),
        purged_at=_seconds(fields, "purged_at"),
        erasing="erasing" in fields,
        ttl_s=int(fields["ttl_ms"]) / 1000,
        setbacks=int(fields["stalls"]) + int(fields["losses"]),
        audio_declared_s=_number(fields, "audio_declared_s"),
        audio_deleted_at=_seconds(fields, "audio_deleted_at"),
        summary_state=SummaryState(fields.get("summary_state", "waiting")) if spec.summary else None,
        summary_error=fields.get("summary_error") or None,
        summary_tries=int(fields.get("summary_tries", 0)),
        audio_channels=int(fields["audio_channels"]) if "audio_channels" in fields else None,
        warnings=WARNINGS.validate_json(fields["warnings"]) if "warnings" in fields else (),
        partial="partial" in fields and "transcript" in fields,
    )


def _checkpoint(fields: Mapping[str, str]) -> Checkpoint:
    windows, segments, end_s = int(fields["next_window"]), int(fields["segments"]), float(fields["end_s"])
    prefix = "channel:"
    channels = {
        int(number) if number else None: CHANNEL.validate_json(state)
        for name, state in fields.items()
        if name.startswith(prefix)
        for number in (name.removeprefix(prefix),)
    }
    if windows and not channels:
        # Committed by a version that stored no places.
        separate = range(int(fields["audio_channels"])) if "audio_channels" in fields else (None,)
        channels = {channel: ChannelCheckpoint(int(end_s * SAMPLE_RATE), end_s) for channel in separate}
    return Checkpoint(windows, segments, end_s, fields.get("language"), channels)


def to_file(fields: Mapping[str, str]) -> File:
    made_at, deleted_at = int(fields["made_at"]) / 1000, _seconds(fields, "deleted_at")
    file = FILE.validate_json(fields["record"])
    size = int(fields["size"]) if "size" in fields else file.size
    return replace(file, made_at=made_at, deleted_at=deleted_at, size=size)


def with_position(job: Job, position: int | None = None, wait_ms: int | None = None) -> Job:
    """Add queue position and expected wait to a queued job."""
    return replace(job, queue_position=position, eta_s=None if wait_ms is None else wait_ms / 1000)

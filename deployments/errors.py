"""Errors of a job's work."""

from __future__ import annotations


class WorkError(Exception):
    """Base of all errors of a job's work."""

    code = "internal"  # stable, part of the API
    transient = False  # whether a retry may succeed

    # One sentence: what was wrong and what to do about it. The only argument, since Ray pickles no other constructor.
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SourceUnreachable(WorkError):
    code = "source_unreachable"
    transient = True


class SourceTooSlow(SourceUnreachable):
    """The source sends too slowly; a retry would take a download's place again."""

    transient = False


class SourceForbidden(WorkError):
    code = "source_forbidden"


class SourceNotFound(WorkError):
    code = "source_not_found"


class SourceTooLarge(WorkError):
    code = "source_too_large"


class UnsupportedMedia(WorkError):
    code = "unsupported_media"


class CorruptMedia(WorkError):
    code = "corrupt_media"


class NoAudio(WorkError):
    code = "no_audio"


class AudioTooLong(WorkError):
    code = "audio_too_long"


class ModelUnavailable(WorkError):
    code = "model_unavailable"


class EngineFailed(WorkError):
    code = "engine_failed"
    transient = True


class StageLost(WorkError):
    """The actor was lost; another one can do the work."""

    code = "internal"
    transient = True


class StageDied(StageLost):
    """The actor died while it decoded this audio, perhaps because of it."""


class StageUnavailable(WorkError):
    """No actor is available at the moment."""

    code = "internal"
    transient = True


class StorageUnavailable(WorkError):
    """The artifact storage failed or is slow: the work waits for it, which costs no attempt."""

    code = "unavailable"
    transient = True


class StorageFull(StorageUnavailable):
    """No space is left on the artifact storage."""

    code = "storage_full"


class PoisonPill(WorkError):
    """Every actor that did this work died."""

    code = "engine_failed"

"""What can go wrong with the work itself.

Each error has a stable `code`, and a message of one sentence that says what was wrong and what to do about it. The
message is the only argument: an actor's border carries no other constructor. `transient` ones may succeed when tried again.
"""

from __future__ import annotations


class WorkError(Exception):
    """A job's work cannot go on."""

    code = "internal"
    transient = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SourceUnreachable(WorkError):
    code = "source_unreachable"
    transient = True


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


class LanguageUnsupported(WorkError):
    code = "language_unsupported"


class ModelUnavailable(WorkError):
    code = "model_unavailable"


class EngineFailed(WorkError):
    code = "engine_failed"
    transient = True


class StageLost(WorkError):
    """The actor that did the work died or was taken away; another will do it."""

    code = "internal"
    transient = True


class StageDied(StageLost):
    """It died while it decoded this very audio, perhaps of it."""


class StageAway(WorkError):
    """No actor can be had for the work at the moment."""

    code = "internal"
    transient = True


class Deadly(WorkError):
    """The work has ended every actor that did it."""

    code = "engine_failed"

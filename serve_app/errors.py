"""Errors of requests, and error codes with their HTTP status."""

from __future__ import annotations

from collections.abc import Mapping

STATUS = {
    "invalid_request": 422,
    "malformed": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "not_allowed": 405,
    "timeout": 408,
    "conflict": 409,
    "gone": 410,
    "key_reused": 422,
    "unavailable": 503,
    "file_unusable": 422,
    "source_unreachable": 422,
    "source_forbidden": 422,
    "source_too_large": 413,
    "source_not_found": 404,
    "unsupported_media": 415,
    "corrupt_media": 422,
    "no_audio": 422,
    "audio_too_long": 422,
    "language_unsupported": 422,
    "model_unavailable": 422,
    "feature_unavailable": 422,
    "engine_failed": 500,
    "diarization_failed": 500,
    "quota_exceeded": 429,
    "rate_limited": 429,
    "storage_full": 507,
    "cancelled": 409,
    "internal": 500,
}


# Seconds after which a client may try again, where an error has none of its own.
RETRY_AFTER_S = {503: 5, 507: 60}


class StoreUnavailable(Exception):
    """Redis cannot be reached, does not reply in time or refuses its work."""

    # The message is for the operator's log, the summary for anybody: it names no address.
    def __init__(self, message: str, summary: str = "Redis cannot be reached") -> None:
        super().__init__(message)
        self.summary = summary


class StoreMisconfigured(StoreUnavailable):
    """Redis refuses the service until an operator mends its settings."""


class RequestError(Exception):
    """A request is refused."""

    def __init__(
        self,
        code: str,  # a key of STATUS
        message: str,
        fields: tuple[tuple[str, str], ...] = (),  # (field, what is wrong with it)
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fields = fields
        self.retry_after_s = retry_after_s
        self._headers = dict(headers or {})

    @property
    def status(self) -> int:
        return STATUS[self.code]

    @property
    def plain_status(self) -> int:
        """HTTP status in APIs that answer 400 to every invalid request."""
        return 400 if self.status in (415, 422) else self.status

    @property
    def headers(self) -> dict[str, str]:
        """Response headers, alike in every dialect."""
        after_s = RETRY_AFTER_S.get(self.status) if self.retry_after_s is None else self.retry_after_s
        wait = {"Retry-After": str(after_s)} if after_s is not None else {}
        return wait | self._headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def not_found() -> RequestError:
    """Error for a job that does not exist or is not the caller's."""
    return RequestError("not_found", "There is no such job.")

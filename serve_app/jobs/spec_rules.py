"""class SpecRules: options and URLs that this installation refuses."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import parse_s3_url
from deployments.ingestion.url_rules import url_fault
from serve_app.errors import RequestError
from serve_app.models.job import JobSpec

# Options that need a stage which does not exist yet.
FEATURES = {
    "diarize": "speaker diarization",
    "redact": "redaction",
    "label_audio": "audio labelling",
}


class SpecRules:
    """Checks of a job before it is accepted. Raises RequestError."""

    def __init__(self, allowed: AllowList, prompts: Collection[str] = ()) -> None:
        self._allowed = allowed
        self._prompts = prompts

    def check(self, spec: JobSpec) -> None:
        """Check all but the models."""
        if spec.summary is not None and spec.summary not in self._prompts:
            why = f"there is no prompt template {spec.summary!r}" if self._prompts else "no model for it is configured"
            message = f"The option summary is refused: {why}."
            raise RequestError("feature_unavailable", message, (("summary", "unavailable"),))
        for option, name in FEATURES.items():
            if getattr(spec, option):
                raise RequestError("feature_unavailable", f"The option {option} is refused: {name} is not implemented.")
        if spec.url is not None and not spec.drive:
            self._check_source(spec.url)
        if spec.webhook_secret is not None and spec.webhook is None:
            message = "webhook_secret needs a webhook."
            raise RequestError("invalid_request", message, (("webhook_secret", "needs a webhook"),))
        if spec.webhook is not None:
            self.check_webhook(spec.webhook)

    def check_webhook(self, url: str) -> None:
        """Require https, or an allowed host."""
        _check_url(url, "webhook")
        parts = urlsplit(url)
        if parts.scheme != "https" and not self._allowed.has_host(parts.hostname or "", parts.port or 80):
            message = "A webhook's URL must be https, unless MURMUR_FETCH_ALLOW names its host."
            raise RequestError("source_forbidden", message, (("webhook", "scheme"),))

    @staticmethod
    def _check_source(url: str) -> None:
        if url.startswith("s3://"):
            parse_s3_url(url)
        else:
            _check_url(url, "url")


def _check_url(url: str, field: str) -> None:
    if fault := url_fault(url):
        raise RequestError("source_forbidden", fault.message, ((field, fault.reason),))

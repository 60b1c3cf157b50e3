"""class SpecRules: options and URLs that this installation refuses."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from deployments.errors import SourceForbidden
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import check_object
from deployments.ingestion.url_rules import address_fault, url_fault
from serve_app.errors import RequestError
from serve_app.jobs.spec_bounds import check_bounds
from serve_app.models.job import JobSpec

# Options that need a stage which does not exist yet.
FEATURES = {
    "diarize": "speaker diarization",
    "redact": "redaction",
    "label_audio": "audio labelling",
}


class SpecRules:
    """Checks of a job before it is accepted. Raises RequestError."""

    def __init__(self, allowed: AllowList, prompts: Collection[str], max_result_ttl_s: float) -> None:
        self._allowed = allowed
        self._prompts = prompts
        self._max_result_ttl_s = max_result_ttl_s

    def check(self, spec: JobSpec, tenant: str) -> None:
        """Check all but the models."""
        check_bounds(spec)
        self._check_ttl(spec)
        if spec.summary is not None and spec.summary not in self._prompts:
            why = f"there is no prompt template {spec.summary!r}" if self._prompts else "no model for it is configured"
            message = f"The option summary is refused: {why}."
            raise RequestError("feature_unavailable", message, (("summary", "unavailable"),))
        for option, name in FEATURES.items():
            if getattr(spec, option):
                raise RequestError("feature_unavailable", f"The option {option} is refused: {name} is not implemented.")
        if spec.url is not None and not spec.drive_root:
            self._check_source(spec.url, tenant)
        if spec.webhook_secret is not None and spec.webhook is None:
            message = "webhook_secret needs a webhook."
            raise RequestError("invalid_request", message, (("webhook_secret", "needs a webhook"),))
        if spec.webhook is not None:
            self.check_webhook(spec)

    def check_webhook(self, spec: JobSpec) -> None:
        """Require https, or an allowed host."""
        check_bounds(spec)
        url = spec.webhook or ""
        self._check_url(url, "webhook")
        parts = urlsplit(url)
        if parts.scheme != "https" and not self._allowed.has_host(parts.hostname or "", parts.port or 80):
            message = "A webhook's URL must be https, unless MURMUR_FETCH_ALLOW names its host."
            raise RequestError("source_forbidden", message, (("webhook", "scheme"),))

    def _check_ttl(self, spec: JobSpec) -> None:
        if spec.result_ttl_s is not None and spec.result_ttl_s > self._max_result_ttl_s:
            message = f"Results are kept for {self._max_result_ttl_s:.0f} s at most here: send a shorter time."
            raise RequestError("invalid_request", message, (("result_ttl_s", "too long"),))

    def _check_source(self, url: str, tenant: str) -> None:
        if not url.startswith("s3://"):
            self._check_url(url, "url")
            return
        try:
            check_object(url, self._allowed, tenant)
        except SourceForbidden as error:
            raise RequestError("source_forbidden", error.message, (("url", "not allowed"),)) from None

    def _check_url(self, url: str, field: str) -> None:
        if fault := url_fault(url) or address_fault(url, self._allowed):
            raise RequestError("source_forbidden", fault.message, ((field, fault.reason),))

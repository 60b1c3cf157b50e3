"""Rules for URLs of users."""

from __future__ import annotations

import pytest

from deployments.ingestion.url_rules import url_fault


@pytest.mark.parametrize("url", ["http://a", "https://example.com:8443/x?y=z#w", "https://[::1]/", "https://ex.com/a@b"])
def test_an_http_url_with_a_host_is_accepted(url: str) -> None:
    assert url_fault(url) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://[bad/", "invalid"),
        ("https://a:99999/", "invalid"),
        ("https://a/b c", "blanks"),
        ("https://a/\u200b", "blanks"),
        ("ftp://a/", "scheme"),
        ("file:///etc/hostname", "scheme"),
        ("https:///a", "scheme"),
        ("example.com", "scheme"),
        ("https://user@a/", "credentials"),
        ("https://:word@a/", "credentials"),
        ("https://:@a/", "credentials"),
    ],
)
def test_a_bad_url_breaks_a_rule(url: str, reason: str) -> None:
    fault = url_fault(url)
    assert fault
    assert fault.reason == reason

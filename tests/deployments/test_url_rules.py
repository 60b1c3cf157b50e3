"""Rules for URLs of users."""

from __future__ import annotations

import pytest

from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.url_rules import address_fault, url_fault
from tests.deployments.test_hostile_urls import HOSTS, PORTS


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


# Notations that are known to be hostile before they are resolved: all but names and full-width digits.
LITERAL = [host for host in HOSTS if host.isascii() and "localhost" not in host.lower()]


@pytest.mark.parametrize("host", LITERAL)
def test_an_address_that_is_not_public_is_refused_before_it_is_resolved(host: str) -> None:
    fault = address_fault(f"https://{host}/x", AllowList())
    assert fault
    assert fault.reason == "address"


@pytest.mark.parametrize("url", PORTS.split()[:-1])
def test_a_port_that_is_not_reached_is_refused(url: str) -> None:
    fault = address_fault(url, AllowList())
    assert fault
    assert fault.reason == "port"


@pytest.mark.parametrize(
    ("url", "entries", "reason"),
    [
        ("http://10.1.2.3/x", [], "address"),
        ("http://10.1.2.3/x", ["10.1.2.3"], None),
        ("http://10.1.2.3:9000/x", ["10.0.0.0/8"], None),
        ("http://10.1.2.3:9000/x", ["10.1.2.3:9001"], "address"),
        ("http://[fd00::1]:9000/x", ["fd00::/8"], None),
        ("https://minio.local:9000/x", [], "port"),
        ("https://minio.local:9000/x", ["minio.local:9000"], None),
        ("https://minio.local:9000/x", ["10.0.0.0/8"], None),  # it may resolve to one of these
        ("https://minio.local:0/x", ["10.0.0.0/8"], "port"),
        ("https://example.com/x", [], None),
        ("https://example.com:443/x", [], None),
        ("http://1.1.1.1:80/x", [], None),
    ],
)
def test_what_the_operator_lists_is_reached(url: str, entries: list[str], reason: str | None) -> None:
    fault = address_fault(url, AllowList.parse(entries))
    assert (fault and fault.reason) == reason

"""Every error code has a status; every WorkError survives pickling between actors."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from deployments import errors
from deployments.errors import PoisonPill, SourceTooSlow, WorkError
from serve_app.errors import STATUS, RequestError, not_found

PROMISED = (  # clients rely on these
    *(
        "source_unreachable",
        "source_forbidden",
        "source_too_large",
        "source_not_found",
        "unsupported_media",
        "corrupt_media",
    ),
    *("no_audio", "audio_too_long", "language_unsupported", "model_unavailable", "feature_unavailable", "engine_failed"),
    *("diarization_failed", "quota_exceeded", "rate_limited", "cancelled", "internal"),
)


def kinds(root: type[WorkError] = WorkError) -> Iterator[type[WorkError]]:
    """WorkError and all its subclasses."""
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


FINAL = (PoisonPill, SourceTooSlow)  # of codes that are transient otherwise
WORK = [kind for kind in kinds() if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("code", PROMISED)
def test_a_promised_code_has_a_status(code: str) -> None:
    assert STATUS[code] >= 400


@pytest.mark.parametrize("kind", WORK)
def test_every_work_error_has_a_status(kind: type[WorkError]) -> None:
    assert kind.code in STATUS


@pytest.mark.parametrize("kind", WORK)
def test_every_work_error_survives_pickling(kind: type[WorkError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("It broke: mend it.")))
    assert type(copy) is kind
    assert (copy.message, str(copy), copy.code) == ("It broke: mend it.", "It broke: mend it.", kind.code)


def test_all_work_errors_are_found() -> None:
    assert {"source_unreachable", "corrupt_media", "engine_failed"} < {kind.code for kind in WORK}


@pytest.mark.parametrize(
    ("code", "transient"),
    [("source_unreachable", True), ("engine_failed", True), ("source_forbidden", False), ("corrupt_media", False)],
)
def test_only_transient_errors_are_retried(code: str, transient: bool) -> None:
    assert {kind.transient for kind in WORK if kind.code == code and kind not in FINAL} == {transient}
    assert not any(kind.transient for kind in FINAL)


@pytest.mark.parametrize("code", list(STATUS))
def test_a_request_error_has_its_status_and_message(code: str) -> None:
    error = RequestError(code, "No.", (("field", "missing"),))
    assert 400 <= error.status <= 599
    assert (error.status, str(error), error.fields) == (STATUS[code], "No.", (("field", "missing"),))


def test_a_missing_job_is_a_404() -> None:
    assert (not_found().code, not_found().status) == ("not_found", 404)

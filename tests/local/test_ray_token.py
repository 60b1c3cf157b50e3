"""Ray's token: made private, and made so where Ray has left it open."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from serve_app.local.ray_token import protect_token


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File of the token, in a home of its own."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray/auth_token"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_missing_token_is_made_private(token: Path) -> None:
    protect_token()
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    made = token.read_text()
    assert len(made) == 64
    protect_token()
    assert token.read_text() == made


def test_an_open_token_is_closed_and_kept(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("old")
    token.chmod(0o644)
    protect_token()
    assert (mode(token), token.read_text()) == (0o600, "old")


def test_a_token_of_the_environment_needs_no_file(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    protect_token()
    assert not token.exists()

"""Ray's authentication token, private to its owner."""

# Its reader can run code as the service.

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def token_file() -> Path:
    """Path where Ray looks for it."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")


def protect_token() -> None:
    """Create the token, or correct its permissions."""
    # Ray itself makes it readable to all.
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    file = token_file()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
    if file.stat().st_uid == os.getuid():
        file.chmod(0o600)

"""class Audited: middleware that writes what a request does to the audit log, with its caller."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.jobs.audit import RECORDER
from serve_app.jobs.audit_log import AuditLog
from serve_app.models.principal import Principal

MAX_TEXT = 256  # characters of a text that a client chose


class Audited:
    """Middleware: writes each event of a request once."""

    def __init__(self, app: ASGIApp, log: AuditLog, dialect_of: Callable[[str], str]) -> None:
        self._app = app
        self._log = log
        self._dialect_of = dialect_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        recorded: set[tuple[str, str]] = set()

        def record(event: str, job_id: str = "", result: str = "ok") -> None:
            if (event, job_id) not in recorded:
                recorded.add((event, job_id))
                self._log.write(event, result=result, job_id=job_id or None, **self._request(scope))

        token = RECORDER.set(record)
        try:
            await self._app(scope, receive, send)
        finally:
            RECORDER.reset(token)

    def _request(self, scope: Scope) -> dict[str, object]:
        state = scope.get("state", {})
        principal: Principal | None = state.get("principal")
        client = scope.get("client")
        forwarded = Headers(scope=scope).get("x-forwarded-for")
        return {
            "tenant": principal and principal.tenant,
            "owner": principal and principal.owner,
            "key_id": (principal and principal.key_id) or None,
            "ticket": bool(principal and principal.job_id),
            "request_id": state.get("request_id"),
            "request": f"{scope['method']} {scope['path']}"[:MAX_TEXT],  # without the query, which may hold a ticket
            "dialect": self._dialect_of(scope["path"]),
            "remote": client[0] if client else None,
            **({"forwarded_for": forwarded[:MAX_TEXT]} if forwarded else {}),
        }

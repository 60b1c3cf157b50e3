"""Headers of every response: caching, and restrictions on browsers."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PRIVATE = (b"cache-control", b"private, no-store")
REVALIDATED = (b"cache-control", b"no-cache")
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # a ticket is in the URL
)
PUBLIC = ("/docs", "/openapi.json")  # these are the same for everybody


class ResponseHeaders:
    """Middleware; a response may have a Cache-Control of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cache = REVALIDATED if scope["path"].startswith(PUBLIC) else PRIVATE

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                if not any(name.lower() == b"cache-control" for name, _ in headers):
                    headers.append(cache)
                headers.extend(ALWAYS)
            await send(message)

        await self._app(scope, receive, send_with_headers)

"""FastAPI application shared by all tests of a process: building its routes takes longer than most tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from fastapi import FastAPI

from serve_app.dialects.base import ApiContext
from serve_app.http.auth import Auth
from serve_app.ingress import create_api
from serve_app.jobs.event_stream import EventStreams
from serve_app.store.redis_store import Store


class Forwarder:
    """Forwards attributes to the object that `target` returns at the time; `forwarders` replace some of them."""

    def __init__(self, target: Callable[[], object], **forwarders: object) -> None:
        self._target = target
        self.__dict__.update(forwarders)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)


class SharedApi:
    """Application whose routes forward to the context, authentication and store of the current test."""

    def __init__(self) -> None:
        self._context: ApiContext | None = None
        self._store: Store | None = None
        # A route keeps these when it is built; it reads all else of the context in a request.
        jobs = Forwarder(lambda: self._context.jobs, for_dialect=self._for_dialect)  # type: ignore[union-attr]
        deliveries = Forwarder(lambda: self._context.deliveries)  # type: ignore[union-attr]
        artifacts = Forwarder(lambda: self._context.artifacts)  # type: ignore[union-attr]
        forwarders = {"jobs": jobs, "deliveries": deliveries, "artifacts": artifacts}
        context = cast("ApiContext", Forwarder(lambda: self._context, **forwarders))
        store = cast("Store", Forwarder(lambda: self._store))
        self._api = create_api(context, cast("Auth", None), store, cast("EventStreams", None), version="0")

    def bind(self, context: ApiContext, auth: Auth, store: Store) -> FastAPI:
        """Put a test's objects behind the application, which has no lifespan: the test starts and stops them."""
        self._context, self._store, self._api.state.auth = context, store, auth
        return self._api

    def _for_dialect(self, dialect: str, ids: str) -> Forwarder:
        return Forwarder(lambda: self._context.jobs.for_dialect(dialect, ids))  # type: ignore[union-attr]

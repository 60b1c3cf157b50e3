"""Deployment of the application on Ray Serve, and what a start waits for."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from serve_app.local.preflight import StartError, without_password
from serve_app.local.tls import check_tls, unverified
from serve_app.settings import Settings

log = logging.getLogger(__name__)

APPLICATION = "murmuration"
UNDEPLOY_S = 7.0
POLL_S = 0.1
REMINDER_S = 30.0  # between two log lines on what a start waits for
# Serve's proxies and controller get this at the start, replicas with the application.
LOGGING = {"enable_access_log": False, "log_level": "WARNING"}
NEEDED = ("redis", "runner", "model")  # parts of /readyz; the others pass without a restart and do not delay `ready`


class Deployment:
    """The application on a Ray that is joined."""

    def __init__(self, settings: Settings, url: str, check_interrupted: Callable[[], None]) -> None:
        self._settings = settings
        self._url = url
        self._check_interrupted = check_interrupted
        self._begun = False

    def run(self, application: Any) -> None:
        """Deploy it, and wait until it is ready. Raises StartError."""
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

        settings = self._settings
        logging_config = LOGGING | {"encoding": settings.log_format.upper()}
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        self._begun = True
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={
                    "host": settings.host,
                    "port": settings.port,
                    "request_timeout_s": None,
                    **check_tls(settings),
                },
                logging_config=logging_config,
            )
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            target = serve.RunTarget(application, APPLICATION, "/", logging_config)
            serve.run_many([target], wait_for_applications_running=False)
            self._wait_until_running()
            self._wait_until_ready()
        except (RayServeException, RuntimeError, OSError, ray.exceptions.RayError) as error:
            raise StartError(f"the application did not start: {last_line(error)}") from error

    def remove(self) -> None:
        """Remove it, so that Runners return their jobs."""
        # Bounded, in case the cluster is broken.
        import ray
        from ray import serve

        remove = serve.shutdown if not self._settings.ray_address else partial(serve.delete, APPLICATION)
        if self._begun and ray.is_initialized():
            thread = threading.Thread(target=remove, daemon=True)
            thread.start()
            thread.join(UNDEPLOY_S)

    def _wait_until_running(self) -> None:
        from ray import serve
        from ray.serve.schema import ApplicationStatus

        for reminder_due in self._waits():
            application = serve.status().applications[APPLICATION]
            if application.status == ApplicationStatus.RUNNING:
                return
            if application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise RuntimeError(application.message)
            if reminder_due:
                log.warning("the application is not running yet, waiting: %s", waited_for(application.deployments))

    def _wait_until_ready(self) -> None:
        opener = build_opener(ProxyHandler({}), HTTPSHandler(context=unverified()))
        for reminder_due in self._waits():
            states = _readiness(opener, f"{self._url}/readyz")
            red = {part: state for part, state in states.items() if part != "status" and state != "ok"}
            if states and not red.keys() & set(NEEDED):
                for part, state in red.items():
                    log.warning("started, but %s is not ready: %s", part, state)
                return
            if reminder_due:
                log.warning("the service is not ready yet, waiting: %s", red or "its port does not answer")

    def _waits(self) -> Iterator[bool]:
        """Endless; True where a log line is due."""
        next_line = time.monotonic() + REMINDER_S
        while True:
            self._check_interrupted()
            due = time.monotonic() >= next_line
            if due:
                next_line += REMINDER_S
            yield due
            time.sleep(POLL_S)


def waited_for(deployments: Any) -> str:
    """Deployments that are not healthy, with Serve's message."""
    waiting = []
    for name, deployment in deployments.items():
        if str(getattr(deployment.status, "value", deployment.status)) != "HEALTHY":
            states = ", ".join(
                f"{count} {str(state).lower()}" for state, count in deployment.replica_states.items() if count
            )
            reason = " ".join(deployment.message.split())[:200]
            waiting.append(f"{name} ({states or 'no replica'}{': ' + reason if reason else ''})")
    return "; ".join(waiting) or "its deployments"


def _readiness(opener: Any, url: str) -> dict[str, str]:
    """State of each part; empty while there is no answer of the application."""
    try:
        with opener.open(url, timeout=30) as response:
            body: Any = json.load(response)
    except HTTPError as error:
        with error:
            try:
                body = json.load(error)
            except ValueError:
                return {}
    except (OSError, ValueError):
        return {}
    return {name: str(state) for name, state in body.items()} if "redis" in body else {}


def last_line(error: BaseException) -> str:
    """Last line of an error, without credentials."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(without_password(word) for word in lines[-1].split()) if lines else type(error).__name__

"""One machine: start what is missing of Valkey and Ray, deploy, and in the end stop all that was started, no more."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import psutil

from deployments.errors import ModelUnavailable
from deployments.transcoding.ffmpeg import NoFfmpeg, find_ffmpeg
from serve_app.local.preflight import (
    StartError,
    check_host,
    check_port,
    check_ray,
    check_redis,
    free_port,
    in_turn,
    locked,
    temporary_directory,
)
from serve_app.local.valkey import Valkey, ValkeyFailed
from serve_app.logs import turn_over
from serve_app.ray_serve.environment import RAY_ENVIRONMENT, batch_scheduled
from serve_app.settings import Settings

log = logging.getLogger(__name__)

APPLICATION = "murmuration"
OBJECT_STORE_BYTES = 150 << 20
"""Ray's shared memory: indices and text pass through it, never audio."""
LOOK_S = 0.5
"""How often the embedded Valkey is looked at."""
LONGEST_S = 30.0
"""How long it is left alone, at most, after it could not be started."""
UNDEPLOY_S = 7.0
LAST_WORDS_S = 3.0
"""What Ray started may take this long to end by itself once Ray is told to end."""
LOGGING = {"enable_access_log": False, "log_level": "WARNING"}
"""What Serve's own parts write: its proxies and controller take it from the start, replicas from the application."""


class Interrupted(Exception):
    """The start was given up because somebody asked for it."""


class LocalService:
    """The service on this machine. Use it in a `with`; `url` is where it serves, `redis_url` where its jobs are,
    `dashboard_url` where Ray shows it.

    It starts, lives and stops in a thread of its own: in the main one Ray would put its own SIGTERM handler in place,
    which ends the process with half of it still running. The thread lives as long as the service does, because what
    Ray starts dies with the thread that started it. `interrupted`, once set, makes the start give up.
    """

    def __init__(self, settings: Settings, interrupted: threading.Event | None = None) -> None:
        self._settings = settings
        self._interrupted = interrupted or threading.Event()
        self._exit = ExitStack()
        self._life = threading.Thread(target=self._live, name="service", daemon=True)
        self._begun = threading.Event()
        self._leave = threading.Event()
        self._error: BaseException | None = None
        self._valkey: Valkey | None = None
        self._patience_s = LOOK_S
        self._look_again = 0.0
        self.redis_url = settings.redis_url
        self.dashboard_url: str | None = None

    @property
    def url(self) -> str:
        """Where it serves."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"http://{host}:{self._settings.port}"

    def __enter__(self) -> LocalService:
        """Start. StartError, with nothing left running, when that cannot be; Interrupted when it was given up."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._life.start()
        try:
            while not self._begun.wait(0.1):
                _reinstall(handlers)
            _reinstall(handlers)
        except BaseException:
            self._interrupted.set()
            self.__exit__()
            raise
        if self._error:
            self.__exit__()
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what was started, in the opposite order."""
        self._leave.set()
        self._life.join()

    def _live(self) -> None:
        try:
            self._start()
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits for the start
            self._error = error
            self._leave.set()
        self._begun.set()
        while not self._leave.wait(LOOK_S):
            self._look_after_valkey()
        self._exit.close()

    def _look_after_valkey(self) -> None:
        """Start the embedded server again if it has died: what it accepted is on disk, and every part reconnects."""
        if self._valkey is None or time.monotonic() < self._look_again:
            return
        try:
            if self._valkey.revive():
                log.warning("the embedded Valkey had died: it was started again")
            self._patience_s = LOOK_S
        except ValkeyFailed as error:
            self._patience_s = min(2 * self._patience_s, LONGEST_S)
            self._look_again = time.monotonic() + self._patience_s
            log.error("the embedded Valkey has died, and is tried again in %g s: %s", self._patience_s, error)

    def _start(self) -> None:
        settings = self._settings
        check_host(settings.host, keyed=settings.keyed, open_to_all=settings.allow_anonymous)
        check_port(settings.host, settings.port)
        self._exit.enter_context(locked(settings.data_dir))
        turn_over(settings.data_dir)
        try:
            find_ffmpeg()
        except NoFfmpeg as error:
            raise StartError(str(error)) from None
        # Ray's settings are read when it is imported, which the modules of the graph do.
        os.environ.update({name: value for name, value in RAY_ENVIRONMENT.items() if name not in os.environ})
        from deployments.transcription.engines.faster_whisper import choose_device
        from serve_app.dialects import dialect_settings
        from serve_app.main import build, find_models

        vendor = dialect_settings()
        try:
            if not settings.ray_address and settings.engine != "fake":
                choose_device(settings.device)
            models = find_models(settings)
        except ModelUnavailable as error:
            raise StartError(error.message) from None
        self._check_interrupted()
        run_dir = Path(self._exit.enter_context(temporary_directory()))
        self.redis_url = settings.redis_url or self._start_valkey(run_dir)
        check_redis(self.redis_url)
        self._check_interrupted()
        self._start_ray(run_dir)
        self._check_interrupted()
        self._deploy(build(settings.model_copy(update={"redis_url": self.redis_url}), models, vendor))

    def _check_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise Interrupted

    def _start_valkey(self, run_dir: Path) -> str:
        valkey = Valkey(self._settings.data_dir, run_dir)
        try:
            valkey.start()
        except ValkeyFailed as error:
            raise StartError(str(error)) from None
        self._valkey = valkey
        self._exit.callback(valkey.stop)
        return valkey.url

    def _start_ray(self, run_dir: Path) -> None:
        address = self._settings.ray_address
        if address:
            check_ray(address)
            self._join_ray(f"the Ray cluster at {address} cannot be joined", address=address)
        else:
            with in_turn(self._interrupted), batch_scheduled():
                self._check_interrupted()
                self._join_ray(
                    "Ray did not start",
                    address="local",
                    include_dashboard=self._settings.dashboard,
                    dashboard_host="127.0.0.1",
                    dashboard_port=free_port(self._settings.dashboard_port),
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(run_dir / "ray"),
                )

    def _join_ray(self, otherwise: str, **where: Any) -> None:
        import ray

        self._exit.callback(self._end_ray)
        try:
            context = ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # noqa: BLE001 - Ray raises nothing narrower when a part of it does not come up
            raise StartError(f"{otherwise}: {_last_line(error)}") from None
        self.dashboard_url = f"http://{context.dashboard_url}" if context.dashboard_url else None
        if self._settings.ray_address and not self._settings.redis_url and sum(node["Alive"] for node in ray.nodes()) > 1:
            raise StartError("a cluster of several machines needs a --redis-url and a MURMUR_STORAGE_URI that all reach")

    def _deploy(self, application: Any) -> None:
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

        settings = self._settings
        told = LOGGING | {"encoding": settings.log_format.upper()}
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": settings.host, "port": settings.port, "request_timeout_s": None},
                logging_config=told,
            )
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            self._exit.callback(self._undeploy)
            target = serve.RunTarget(application, APPLICATION, "/", told)
            serve.run_many([target], wait_for_applications_running=False)
            self._wait_until_running()
            with build_opener(ProxyHandler({})).open(f"{self.url}/readyz", timeout=30) as answer:
                answer.read()
        except (RayServeException, RuntimeError, OSError, ray.exceptions.RayError) as error:
            raise StartError(f"the application did not start: {_last_line(error)}") from error

    def _wait_until_running(self) -> None:
        from ray import serve
        from ray.serve.schema import ApplicationStatus

        while True:
            found = serve.status().applications[APPLICATION]
            if found.status == ApplicationStatus.RUNNING:
                return
            if found.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise RuntimeError(found.message)
            self._check_interrupted()
            time.sleep(0.1)

    def _undeploy(self) -> None:
        """Let the replicas give back what they work on; a cluster that is broken must not keep us from leaving."""
        import ray
        from ray import serve

        leaving = serve.shutdown if not self._settings.ray_address else partial(serve.delete, APPLICATION)
        if ray.is_initialized():
            thread = threading.Thread(target=leaving, daemon=True)
            thread.start()
            thread.join(UNDEPLOY_S)

    def _end_ray(self) -> None:
        """Leave the cluster; one that we started ends with it, to its last helper."""
        import ray

        started = [] if self._settings.ray_address else _descendants(self._valkey.pid if self._valkey else None)
        ray.shutdown(wait_for_processes=True)
        _, alive = psutil.wait_procs(started, timeout=LAST_WORDS_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=1.0)


def _descendants(spared: int | None) -> list[psutil.Process]:
    """Every process below this one, and below those, save the one that is stopped in its own way."""
    return [process for process in psutil.Process().children(recursive=True) if process.pid != spared]


def _reinstall(handlers: dict[signal.Signals, Any]) -> None:
    """Ray's core puts handlers of its own below Python's while it starts; these end the process."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

"""Supervisor of a one-machine service: starts Valkey and Ray, deploys, and stops what it started."""

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
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import psutil

from deployments.errors import ModelUnavailable
from deployments.transcoding.ffmpeg import NoFfmpeg, find_ffmpeg
from serve_app.local.exposure import check_loopback
from serve_app.local.preflight import (
    StartError,
    check_host,
    check_port,
    check_ray,
    check_redis,
    free_port,
    lock_data_dir,
    start_lock,
    temporary_directory,
)
from serve_app.local.tls import check_tls, unverified
from serve_app.local.valkey import Valkey, ValkeyFailed
from serve_app.logs import rotate_log
from serve_app.ray_serve.environment import RAY_ENVIRONMENT, UnsupportedRay, batch_scheduled
from serve_app.settings import Settings

log = logging.getLogger(__name__)

APPLICATION = "murmuration"
OBJECT_STORE_BYTES = 150 << 20  # shared memory for indices and text; audio never passes through it
VALKEY_CHECK_S = 0.5
VALKEY_MAX_BACKOFF_S = 30.0
UNDEPLOY_S = 7.0
RAY_GRACE_S = 3.0  # before leftover Ray processes are killed
# Serve's proxies and controller get this at the start, replicas with the application.
LOGGING = {"enable_access_log": False, "log_level": "WARNING"}


class Interrupted(Exception):
    """The start was aborted by a signal."""


class LocalService:
    """Context manager that runs the service on this machine; setting `interrupted` aborts the start."""

    # All of it runs in one thread. In the main thread Ray would install a SIGTERM handler that ends the process and leaves
    # children behind; and the thread has to live as long as the service, because Ray's processes die with their parent
    # thread.

    def __init__(self, settings: Settings, interrupted: threading.Event | None = None) -> None:
        self._settings = settings
        self._interrupted = interrupted or threading.Event()
        self._exit = ExitStack()
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)
        self._start_ended = threading.Event()
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._valkey: Valkey | None = None
        self._backoff_s = VALKEY_CHECK_S
        self._next_check = 0.0
        self._tls: dict[str, str] = {}
        self.redis_url = settings.redis_url
        self.dashboard_url: str | None = None

    @property
    def url(self) -> str:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{'https' if self._settings.tls_cert else 'http'}://{host}:{self._settings.port}"

    def __enter__(self) -> LocalService:
        """Start the service. Raises StartError or Interrupted, with nothing left running."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._thread.start()
        try:
            while not self._start_ended.wait(0.1):
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
        """Stop everything that was started, in reverse order."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._start()
        except BaseException as error:  # noqa: BLE001 - raised again in __enter__
            self._error = error
            self._stopping.set()
        self._start_ended.set()
        while not self._stopping.wait(VALKEY_CHECK_S):
            self._restart_dead_valkey()
        self._exit.close()

    def _restart_dead_valkey(self) -> None:
        if self._valkey is None or time.monotonic() < self._next_check:
            return
        try:
            if self._valkey.restart_if_dead():
                log.warning("embedded Valkey died, restarted")
            self._backoff_s = VALKEY_CHECK_S
        except ValkeyFailed as error:
            self._backoff_s = min(2 * self._backoff_s, VALKEY_MAX_BACKOFF_S)
            self._next_check = time.monotonic() + self._backoff_s
            log.error("embedded Valkey died, restart failed, retrying in %g s: %s", self._backoff_s, error)

    def _start(self) -> None:
        settings = self._settings
        check_host(settings.host, keyed=settings.keyed, allow_anonymous=settings.allow_anonymous)
        check_port(settings.host, settings.port)
        self._tls = check_tls(settings)
        self._exit.enter_context(lock_data_dir(settings.data_dir))
        rotate_log(settings.data_dir)
        try:
            find_ffmpeg()
        except NoFfmpeg as error:
            raise StartError(str(error)) from None
        build, find_models = _import_graph()
        from deployments.transcription.engines.faster_whisper import choose_device

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
        self._deploy(build(settings.model_copy(update={"redis_url": self.redis_url}), models))

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
            with start_lock(self._interrupted), batch_scheduled():
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

    def _join_ray(self, failure: str, **options: Any) -> None:
        import ray

        self._exit.callback(self._end_ray)
        try:
            context = ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # noqa: BLE001 - Ray raises nothing narrower
            raise StartError(f"{failure}: {_last_line(error)}") from None
        self.dashboard_url = f"http://{context.dashboard_url}" if context.dashboard_url else None
        if self._settings.ray_address and not self._settings.redis_url and sum(node["Alive"] for node in ray.nodes()) > 1:
            raise StartError("a cluster of several machines needs a --redis-url and a MURMUR_STORAGE_URI that all reach")

    def _deploy(self, application: Any) -> None:
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

        settings = self._settings
        logging_config = LOGGING | {"encoding": settings.log_format.upper()}
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": settings.host, "port": settings.port, "request_timeout_s": None, **self._tls},
                logging_config=logging_config,
            )
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            self._exit.callback(self._undeploy)
            target = serve.RunTarget(application, APPLICATION, "/", logging_config)
            serve.run_many([target], wait_for_applications_running=False)
            self._wait_until_running()
            with build_opener(ProxyHandler({}), HTTPSHandler(context=unverified())).open(
                f"{self.url}/readyz", timeout=30
            ) as response:
                response.read()
        except (RayServeException, RuntimeError, OSError, ray.exceptions.RayError) as error:
            raise StartError(f"the application did not start: {_last_line(error)}") from error
        if not settings.ray_address:
            check_loopback([psutil.Process(), *_descendants(None)], settings.port)

    def _wait_until_running(self) -> None:
        from ray import serve
        from ray.serve.schema import ApplicationStatus

        while True:
            application = serve.status().applications[APPLICATION]
            if application.status == ApplicationStatus.RUNNING:
                return
            if application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise RuntimeError(application.message)
            self._check_interrupted()
            time.sleep(0.1)

    def _undeploy(self) -> None:
        """Remove the application, so that Runners return their jobs; bounded, in case the cluster is broken."""
        import ray
        from ray import serve

        remove = serve.shutdown if not self._settings.ray_address else partial(serve.delete, APPLICATION)
        if ray.is_initialized():
            thread = threading.Thread(target=remove, daemon=True)
            thread.start()
            thread.join(UNDEPLOY_S)

    def _end_ray(self) -> None:
        """Disconnect from Ray, and kill what is left of a cluster that we started."""
        import ray

        started = [] if self._settings.ray_address else _descendants(self._valkey.pid if self._valkey else None)
        ray.shutdown(wait_for_processes=True)
        _, alive = psutil.wait_procs(started, timeout=RAY_GRACE_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=1.0)


def _import_graph() -> tuple[Any, Any]:
    """Import the graph after setting Ray's environment, which Ray reads at import."""
    os.environ.update({name: value for name, value in RAY_ENVIRONMENT.items() if name not in os.environ})
    try:
        from serve_app.main import build, find_models
        from serve_app.ray_serve.patches import check_patches

        check_patches()
    except UnsupportedRay as error:
        raise StartError(str(error)) from None
    return build, find_models


def _descendants(excluded: int | None) -> list[psutil.Process]:
    """Child processes, recursively, without the one of this id."""
    return [process for process in psutil.Process().children(recursive=True) if process.pid != excluded]


def _reinstall(handlers: dict[signal.Signals, Any]) -> None:
    """Restore signal handlers: Ray's core installs its own while it starts, which end the process."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

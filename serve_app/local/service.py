"""Supervisor of a one-machine service: starts Valkey and Ray, deploys, and stops what it started."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from deployments.errors import ModelUnavailable
from deployments.transcoding.ffmpeg import NoFfmpeg, find_ffmpeg
from serve_app.local.deployment import Deployment, last_line
from serve_app.local.exposure import check_loopback
from serve_app.local.installation import check_installation
from serve_app.local.preflight import (
    StartError,
    check_host,
    check_port,
    check_ray,
    check_shared,
    free_port,
    lock_data_dir,
    start_lock,
    temporary_directory,
    unreachable_host,
)
from serve_app.local.ray_token import protect_token
from serve_app.local.redis_checks import check_own_redis
from serve_app.local.tls import check_tls
from serve_app.local.valkey import Valkey
from serve_app.local.valkey_supervisor import CHECK_S, ValkeySupervisor
from serve_app.logs import rotate_log
from serve_app.ray_serve.environment import RAY_ENVIRONMENT, UnsupportedRay, batch_scheduled
from serve_app.settings import Settings

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 150 << 20  # shared memory for indices and text; audio never passes through it
RAY_GRACE_S = 3.0  # before leftover Ray processes are killed


class Interrupted(Exception):
    """The start was aborted by a signal."""


class LocalService:
    """Context manager that runs the service on this machine; setting `interrupted` aborts the start."""

    # All of it runs in one thread. In the main thread Ray would install a SIGTERM handler that ends the process and leaves
    # children behind; and the thread has to live as long as the service, because Ray's processes die with their parent
    # thread.

    def __init__(
        self, settings: Settings, interrupted: threading.Event | None = None, *, adopt_storage: bool = False
    ) -> None:
        self._settings = settings
        self._adopt_storage = adopt_storage
        self._interrupted = interrupted or threading.Event()
        self._exit = ExitStack()
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)
        self._start_ended = threading.Event()
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._valkey: ValkeySupervisor | None = None
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
        while not self._stopping.wait(CHECK_S):
            if self._valkey:
                self._valkey.check()
        self._exit.close()

    def _start(self) -> None:
        settings = self._settings
        check_host(settings.host, keyed=settings.keyed, allow_anonymous=settings.allow_anonymous)
        if reason := unreachable_host(settings.host, settings.allowed_hosts, keyed=settings.keyed):
            log.warning("listening %s", reason)
        check_port(settings.host, settings.port)
        check_tls(settings)
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
        self._check_redis()
        self._check_interrupted()
        self._start_ray(run_dir)
        self._check_interrupted()
        deployment = Deployment(settings, self.url, self._check_interrupted)
        self._exit.callback(deployment.remove)
        deployment.run(build(settings.model_copy(update={"redis_url": self.redis_url}), models))
        if not settings.ray_address:
            check_loopback([psutil.Process(), *_descendants(None)], settings.port)

    def _check_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise Interrupted

    def _start_valkey(self, run_dir: Path) -> str:
        data_dir = self._settings.data_dir
        valkey = Valkey(data_dir, run_dir)
        supervisor = ValkeySupervisor(valkey, data_dir, self._settings.min_free_bytes, self._abandoned)
        self._exit.callback(valkey.stop)
        supervisor.start()
        self._valkey = supervisor
        return valkey.url

    def _abandoned(self) -> bool:
        return self._interrupted.is_set() or self._stopping.is_set()

    def _check_redis(self) -> None:
        settings = self._settings
        if settings.redis_url:
            check_own_redis(self.redis_url, settings.redis_replicas, self._interrupted.wait)
        self._check_interrupted()
        check_installation(self.redis_url, settings.storage, adopt=self._adopt_storage)

    def _start_ray(self, run_dir: Path) -> None:
        address = self._settings.ray_address
        if address:
            check_ray(address)
            check_shared(self._settings)
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
        if not self._settings.ray_address:
            protect_token()
        try:
            context = ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # noqa: BLE001 - Ray raises nothing narrower
            raise StartError(f"{failure}: {last_line(error)}") from None
        self.dashboard_url = f"http://{context.dashboard_url}" if context.dashboard_url else None

    def _end_ray(self) -> None:
        """Disconnect from Ray, and kill what is left of a cluster that we started."""
        import ray

        started = [] if self._settings.ray_address else _descendants(self._valkey.valkey.pid if self._valkey else None)
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

"""One machine: start what is missing of Valkey and Ray, deploy, and in the end stop all that was started, no more."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from redis import Redis
from redis.exceptions import RedisError

from deployments.errors import ModelUnavailable
from deployments.ffmpeg import NoFfmpeg, find_ffmpeg
from serve_app.settings import Settings
from serve_app.valkey import Valkey, ValkeyFailed

APPLICATION = "murmuration"
OBJECT_STORE_BYTES = 150 << 20
"""Ray's shared memory: indices and text pass through it, never audio."""
UNDEPLOY_S = 8.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")

RAY_ENVIRONMENT = {
    # A node that takes itself for a lone one is known as 127.0.0.1, and every server of Ray then listens there only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_output_error_log_if_still_retry": "0",
}


class StartError(Exception):
    """The service cannot start; one line that says why and what to do about it."""


class Interrupted(Exception):
    """The start was given up because somebody asked for it."""


class LocalService:
    """The service on this machine. Use it in a `with`; `url` is where it serves, `dashboard_url` where Ray shows it.

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
        self._deploying = False
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
        while not self._begun.wait(0.1):
            _reinstall(handlers)
            if self._interrupted.is_set() and self._deploying:
                self._deploying = False
                self._end_ray()
        _reinstall(handlers)
        if self._interrupted.is_set():
            self.__exit__()
            raise Interrupted
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
        self._leave.wait()
        self._exit.close()

    def _start(self) -> None:
        settings = self._settings
        _check_host(settings.host)
        _check_port(settings.host, settings.port)
        self._exit.enter_context(_locked(settings.data_dir))
        try:
            find_ffmpeg()
        except NoFfmpeg as error:
            raise StartError(str(error)) from None
        # Ray's settings are read when it is imported, which the modules of the graph do.
        os.environ.update({name: value for name, value in RAY_ENVIRONMENT.items() if name not in os.environ})
        from deployments.engines.faster_whisper import choose_device
        from serve_app.main import build, find_models

        try:
            if not settings.ray_address and settings.engine != "fake":
                choose_device(settings.device)
            models = find_models(settings)
        except ModelUnavailable as error:
            raise StartError(error.message) from None
        self._check_interrupted()
        run_dir = Path(self._exit.enter_context(_temporary_directory()))
        redis_url = settings.redis_url or self._start_valkey(run_dir)
        _check_redis(redis_url)
        self._check_interrupted()
        self._start_ray(run_dir)
        self._check_interrupted()
        self._deploy(build(settings.model_copy(update={"redis_url": redis_url}), models))

    def _check_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise Interrupted

    def _start_valkey(self, run_dir: Path) -> str:
        valkey = Valkey(self._settings.data_dir, run_dir)
        try:
            valkey.start()
        except ValkeyFailed as error:
            raise StartError(str(error)) from None
        self._exit.callback(valkey.stop)
        return valkey.url

    def _start_ray(self, run_dir: Path) -> None:
        import ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        address = self._settings.ray_address
        if address:
            _check_ray(address)
            try:
                context = ray.init(address=address, **quiet)
            except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
                raise StartError(f"the Ray cluster at {address} cannot be joined: {_last_line(error)}") from None
        else:
            context = ray.init(
                address="local",
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                dashboard_port=_free_port(self._settings.dashboard_port),
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(run_dir / "ray"),
                **quiet,
            )
        self._exit.callback(self._end_ray)
        self.dashboard_url = f"http://{context.dashboard_url}" if context.dashboard_url else None
        if address and not self._settings.redis_url and sum(node["Alive"] for node in ray.nodes()) > 1:
            raise StartError("a cluster of several machines needs a --redis-url and a MURMUR_STORAGE_URI that all reach")

    def _deploy(self, application: Any) -> None:
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

        settings = self._settings
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        self._deploying = True
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": settings.host, "port": settings.port, "request_timeout_s": None},
                logging_config={"enable_access_log": False, "log_level": "WARNING"},
            )
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            self._exit.callback(self._undeploy)
            serve.run(application, name=APPLICATION, route_prefix="/", blocking=False)
            with urlopen(f"{self.url}/readyz", timeout=30) as answer:  # noqa: S310 - our own address
                answer.read()
        except (RayServeException, RuntimeError, URLError, ray.exceptions.RayError) as error:
            raise StartError(f"the application did not start: {_last_line(error)}") from error
        finally:
            self._deploying = False

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
        """Leave the cluster; one that we started ends with it."""
        import ray

        ray.shutdown(wait_for_processes=True)


def _reinstall(handlers: dict[signal.Signals, Any]) -> None:
    """Ray's core puts handlers of its own below Python's while it starts; these end the process."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _temporary_directory() -> Iterator[str]:
    """A folder for sockets, whose paths hold 107 bytes, and for what Ray keeps below it and writes to until its end."""
    short = "/tmp" if len(tempfile.gettempdir()) > 30 and Path("/tmp").is_dir() else None  # noqa: S108 - mkdtemp
    directory = tempfile.mkdtemp(prefix="murmur-", dir=short)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _check_host(host: str) -> None:
    if host not in LOOPBACK:
        raise StartError(f"refused to listen on {host}: this version knows no keys, so it serves loopback only")


def _check_port(host: str, port: int) -> None:
    """Ray's proxy shares its port with whoever asks for sharing: so look, before it does, whether somebody has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise StartError(f"port {port} on {host} cannot be had ({error.strerror}): choose another by --port") from None


def _free_port(wanted: int) -> int:
    for port in range(wanted, wanted + 50):
        try:
            _check_port("127.0.0.1", port)
        except StartError:
            continue
        return port
    raise StartError(f"no port from {wanted} on is free for the dashboard: set MURMUR_DASHBOARD_PORT")


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: two services in one would overwrite each other's jobs."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("w")
    except OSError as error:
        raise StartError(f"the data directory {data_dir} cannot be used ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"another murmur uses {data_dir}: stop it, or choose another by --data-dir") from None
        yield


def _check_redis(url: str) -> None:
    try:
        client = Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
        client.ping()
        client.close()
    except (RedisError, ValueError) as error:
        raise StartError(f"no Redis answers at {url.rpartition('@')[2]}: {error}") from None


def _check_ray(address: str) -> None:
    """Ray itself would try a dead address for a minute."""
    host, _, port = address.rpartition(":")
    if address == "auto" or not port.isdecimal():
        return
    try:
        socket.create_connection((host.removeprefix("ray://") or "127.0.0.1", int(port)), 5).close()
    except OSError as error:
        raise StartError(f"no Ray cluster answers at {address} ({error.strerror or error})") from None


def free_space(path: Path) -> int:
    """Bytes free where `path` lies, or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free

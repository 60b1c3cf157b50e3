"""`murmur doctor`: checks of the installation and the settings."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deployments.errors import ModelUnavailable, WorkError
from deployments.transcoding.cage import enforcement
from deployments.transcoding.ffmpeg import NoFfmpeg, find_ffmpeg
from serve_app.errors import StoreUnavailable
from serve_app.local.deployment import last_line
from serve_app.local.installation import check_installation, open_storage
from serve_app.local.preflight import (
    StartError,
    check_data_dir,
    check_host,
    check_port,
    check_ray,
    check_shared,
    check_writable,
    free_space,
    unreachable_host,
    without_password,
)
from serve_app.local.redis_checks import examine_redis
from serve_app.local.valkey import ValkeyFailed, data_of, find_valkey, url_file
from serve_app.ray_serve.environment import UnsupportedRay
from serve_app.settings import Settings
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect

PACKAGES = ("murmuration", "ray", "faster-whisper", "ctranslate2", "torch", "fastapi", "redis", "pyarrow")
LOW_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of a check; the detail includes the remedy."""

    name: str
    ok: bool
    detail: str


def examine_installation() -> list[Finding]:
    """Check Python and the packages, before any import of these."""
    return [_python(), _packages()]


def examine(settings: Settings) -> Iterator[Finding]:
    """Check all else that `murmur up` needs; starts nothing, creates nothing but unpacked weights."""
    yield _check("ray", _ray_patches, f"{version('ray')}, patches work")
    yield _ffmpeg()
    yield _sandbox()
    if settings.engine != "fake":
        if not settings.ray_address:
            yield _device(settings)
        for model in settings.models:
            yield _weights(settings, model)
    yield _check("host", partial(_check_host, settings), settings.host)
    yield _check("port", partial(check_port, settings.host, settings.port), f"{settings.port} is free")
    yield _check("data directory", partial(check_data_dir, settings.data_dir), str(settings.data_dir))
    yield _redis(settings)
    if settings.api_keys_required and not settings.jwt_issuer:
        yield _keys(settings)
    if settings.ray_address:
        yield _check("ray cluster", partial(check_ray, settings.ray_address), settings.ray_address)
        yield _check("shared by the cluster", partial(check_shared, settings), "Redis and storage")
    yield _storage(settings)
    yield _disk(settings)


def _check_host(settings: Settings) -> None:
    check_host(settings.host, keyed=settings.keyed, allow_anonymous=settings.allow_anonymous)
    if reason := unreachable_host(settings.host, settings.allowed_hosts, keyed=settings.keyed):
        raise StartError(reason)


def _check(name: str, check: Callable[[], None], detail: str) -> Finding:
    try:
        check()
    except (StartError, UnsupportedRay, ImportError) as error:
        return Finding(name, False, str(error))
    return Finding(name, True, detail)


def _python() -> Finding:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    detail = f"{platform.python_version()} on {platform.platform()}"
    return Finding("python", supported, detail if supported else f"{detail}: install Python 3.11, 3.12 or 3.13")


def _packages() -> Finding:
    installed, missing = [], []
    for name in PACKAGES:
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", False, f"missing {', '.join(missing)}: run make setup")
    return Finding("packages", True, ", ".join(installed))


def _ray_patches() -> None:
    from serve_app.ray_serve.patches import check_patches

    check_patches()


def _ffmpeg() -> Finding:
    try:
        program = find_ffmpeg()
    except NoFfmpeg as error:
        return Finding("ffmpeg", False, str(error))
    return Finding("ffmpeg", True, f"{program.version} at {program.path}")


def _sandbox() -> Finding:
    enforced = enforcement()
    if enforced.missing:
        gap = f"this system does not keep a decoder that was taken over from this: {enforced.missing}"
        return Finding("sandbox of ffmpeg", True, f"rlimits, but {gap}")
    return Finding("sandbox of ffmpeg", True, f"rlimits, Landlock {enforced.landlock}, seccomp")


def _device(settings: Settings) -> Finding:
    try:
        import ctranslate2

        from deployments.transcription.engines.faster_whisper import choose_compute_type, choose_device

        device = choose_device(settings.device)
    except (ModelUnavailable, ImportError) as error:
        return Finding("device", False, str(error))
    cards = ctranslate2.get_cuda_device_count()
    return Finding("device", True, f"{device}, {choose_compute_type(settings.compute_type, device)}, {cards} GPUs seen")


def _weights(settings: Settings, model: str) -> Finding:
    try:
        from deployments.transcription.weights import languages, locate

        directory = locate(model, str(settings.cache_dir))
        languages(directory)  # reads what a download that broke off lacks
    except (ModelUnavailable, ImportError, OSError, ValueError) as error:
        return Finding(f"weights of {model}", False, str(error))
    return Finding(f"weights of {model}", True, str(directory))


def _redis(settings: Settings) -> Finding:
    if not settings.redis_url:
        try:
            return Finding("valkey", True, f"embedded, {find_valkey()}")
        except ValkeyFailed as error:
            return Finding("valkey", False, str(error))
    try:
        report = examine_redis(settings.redis_url, settings.redis_replicas)
    except StartError as error:
        return Finding("redis", False, f"{error}: start it, or leave MURMUR_REDIS_URL empty for an embedded Valkey")
    if report is None:
        return Finding("redis", False, f"{without_password(settings.redis_url)} is loading its data: wait")
    faults = "; ".join([*report.refusals, *report.warnings])
    if not faults:
        faults = _pairing(settings)
    detail = f"{report.shown}, version {report.version}"
    return Finding("redis", not faults, f"{detail}: {faults}" if faults else detail)


def _pairing(settings: Settings) -> str:
    """Reason why Redis and storage do not belong together; empty if they do."""
    try:
        check_installation(settings.redis_url, settings.storage, pair=False)
    except StartError as error:
        return str(error)
    return ""


def _keys(settings: Settings) -> Finding:
    """Checks that a key exists, unless the embedded Valkey is not running."""
    none = Finding("keys", False, "MURMUR_API_KEYS_REQUIRED is set but no key exists: make one with `murmur keys create`")
    url = settings.redis_url
    if not url:
        if not data_of(settings.data_dir).is_dir():
            return none
        try:
            check_data_dir(settings.data_dir)
        except StartError:  # a service is running on it
            url = url_file(settings.data_dir).read_text() if url_file(settings.data_dir).is_file() else ""
    if not url:
        return Finding("keys", True, "not checked, as the embedded Valkey is not running: see `murmur keys list`")
    try:
        count = asyncio.run(_count_keys(url))
    except StoreUnavailable as error:
        return Finding("keys", False, f"{error}: start Redis")
    return Finding("keys", True, f"{count} exist") if count else none


async def _count_keys(url: str) -> int:
    redis = connect(url)
    try:
        return len(await ApiKeys(redis).list())
    finally:
        await redis.aclose()


def _storage(settings: Settings) -> Finding:
    """Checks permissions of a local directory, or writes a test object into a bucket."""
    if settings.storage.startswith("file://"):
        folder = Path(unquote(urlsplit(settings.storage).path))
        return _check("storage", partial(check_writable, folder, "MURMUR_STORAGE_URI"), str(folder))
    shown = without_password(settings.storage)
    try:
        artifacts = open_storage(settings.storage)
        artifacts.put("doctor/probe", b"ok")
        artifacts.delete("doctor")
    except StartError as error:
        return Finding("storage", False, str(error))
    except (WorkError, OSError, ValueError) as error:
        return Finding("storage", False, f"{shown} cannot be written ({last_line(error)}): set MURMUR_STORAGE_URI")
    return Finding("storage", True, shown)


def _disk(settings: Settings) -> Finding:
    free = free_space(settings.data_dir)
    detail = f"{free / (1 << 30):.1f} GiB free at {settings.data_dir}"
    low = free < max(LOW_BYTES, settings.min_free_bytes)
    return Finding("disk", not low, f"{detail}: an hour of audio takes 115 MB, make room" if low else detail)

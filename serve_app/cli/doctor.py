"""What this installation has, what is wrong with it, and how to mend that."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import ctranslate2
from redis import Redis
from redis.exceptions import RedisError

from deployments.errors import ModelUnavailable
from deployments.storage.artifacts import Artifacts
from deployments.transcoding.ffmpeg import NoFfmpeg, find_ffmpeg
from deployments.transcription.engines.faster_whisper import choose_compute_type, choose_device
from deployments.transcription.weights import locate
from serve_app.local.preflight import free_space
from serve_app.local.valkey import ValkeyFailed, find_valkey
from serve_app.settings import Settings

PACKAGES = ("murmuration", "ray", "faster-whisper", "ctranslate2", "torch", "fastapi", "redis", "pyarrow")
LOW_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. What is not `ok` is told together with its remedy."""

    name: str
    ok: bool
    told: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything that a start needs, without starting anything."""
    yield _python()
    yield _packages()
    yield _ffmpeg()
    yield _device(settings)
    for model in settings.models:
        yield _weights(settings, model)
    yield _redis(settings)
    yield _storage(settings)
    yield _disk(settings)


def _python() -> Finding:
    known = (3, 11) <= sys.version_info[:2] <= (3, 13)
    told = f"{platform.python_version()} on {platform.platform()}"
    return Finding("python", known, told if known else f"{told}: install Python 3.11, 3.12 or 3.13")


def _packages() -> Finding:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    return Finding("packages", not missing, f"missing {missing}: run make setup" if missing else ", ".join(found))


def _ffmpeg() -> Finding:
    try:
        program = find_ffmpeg()
    except NoFfmpeg as error:
        return Finding("ffmpeg", False, str(error))
    return Finding("ffmpeg", True, f"{program.version} at {program.path}")


def _device(settings: Settings) -> Finding:
    try:
        device = choose_device(settings.device)
    except ModelUnavailable as error:
        return Finding("device", False, error.message)
    cards = ctranslate2.get_cuda_device_count()
    return Finding("device", True, f"{device}, {choose_compute_type(settings.compute_type, device)}, {cards} GPUs seen")


def _weights(settings: Settings, model: str) -> Finding:
    try:
        directory = locate(model, str(settings.cache_dir))
    except ModelUnavailable as error:
        return Finding(f"weights of {model}", False, error.message)
    return Finding(f"weights of {model}", True, str(directory))


def _redis(settings: Settings) -> Finding:
    if not settings.redis_url:
        try:
            return Finding("valkey", True, f"embedded, {find_valkey()}")
        except ValkeyFailed as error:
            return Finding("valkey", False, str(error))
    try:
        client = Redis.from_url(settings.redis_url, socket_timeout=5, socket_connect_timeout=5)
        durable = client.config_get("appendfsync").get("appendfsync")
        appending = client.config_get("appendonly").get("appendonly")
    except (RedisError, ValueError) as error:
        return Finding("redis", False, f"{error}: start it, or leave MURMUR_REDIS_URL empty for an embedded Valkey")
    told = f"answers; appendonly {appending}, appendfsync {durable}"
    if (appending, durable) == ("yes", "always"):
        return Finding("redis", True, told)
    return Finding("redis", False, f"{told}: set both to yes and always, or a power cut loses jobs that were accepted")


def _storage(settings: Settings) -> Finding:
    try:
        artifacts = Artifacts(settings.storage)
        artifacts.put("doctor/probe", b"ok")
        artifacts.delete("doctor")
    except (OSError, ValueError) as error:
        return Finding("storage", False, f"{settings.storage} cannot be written ({error}): set MURMUR_STORAGE_URI")
    return Finding("storage", True, settings.storage)


def _disk(settings: Settings) -> Finding:
    free = free_space(settings.data_dir)
    told = f"{free / (1 << 30):.1f} GiB free at {settings.data_dir}"
    low = free < LOW_BYTES
    return Finding("disk", not low, f"{told}: an hour of audio takes 115 MB, make room" if low else told)

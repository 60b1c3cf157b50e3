"""Registry of engines. Factories are lazy: loading one engine imports no other."""

from __future__ import annotations

from collections.abc import Callable

from deployments.transcription.engines.base import Engine, EngineConfig


def _faster_whisper(config: EngineConfig) -> Engine:
    from deployments.transcription.engines.faster_whisper import FasterWhisper

    return FasterWhisper(config)


def _fake(config: EngineConfig) -> Engine:
    from deployments.transcription.engines.fake import FakeEngine

    return FakeEngine(config)


ENGINES: dict[str, Callable[[EngineConfig], Engine]] = {"faster_whisper": _faster_whisper, "fake": _fake}


def load(config: EngineConfig) -> Engine:
    """Load an engine. Raises ModelUnavailable."""
    return ENGINES[config.engine](config)

"""Settings → configuration of the objects in a replica."""

from __future__ import annotations

from deployments.transcription.engines.base import EngineConfig
from serve_app.http.jwt_tokens import TokenRules
from serve_app.settings import Settings


def token_rules(settings: Settings) -> TokenRules:
    """Rules for JSON Web Tokens from the settings."""
    names = ("issuer", "audience", "jwks_url", "tenant_claim", "tenant_required", "max_stale_s")
    values = {name: getattr(settings, f"jwt_{name}") for name in names}
    return TokenRules(secret=settings.jwt_secret.get_secret_value(), **values)


def engine_config(settings: Settings, model: str) -> EngineConfig:
    """Engine configuration of a Transcriber replica."""
    return EngineConfig(
        engine=settings.engine,
        model=model,
        cache_dir=str(settings.cache_dir),
        device=settings.device,
        compute_type=settings.compute_type,
        workers=settings.engine_workers,
        batch=settings.batch_size,
        beam_below=settings.beam_below,
    )

"""MURMUR_ variables, but for those of single dialects. Read once, at the start; main.py passes them to the replicas, and
ray_serve/replicas.py hands each object what it needs."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from deployments.ingestion.allow_list import check_entries
from serve_app.models.web_address import is_origin, is_private_channel

Words = Annotated[tuple[str, ...], NoDecode]
Weights = Annotated[dict[str, Annotated[float, Field(gt=0, le=1000)]], NoDecode]


def _home(variable: str, fallback: str) -> Path:
    """Directory by the XDG base directory specification."""
    return Path(os.environ.get(variable) or Path.home() / fallback) / "murmur"


# Schedule suggested by the Standard Webhooks specification: 75.5 hours in all.
RETRIES_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
PREFIX = "MURMUR_"
MIN_SECRET_BYTES = 32  # as long as the hash of HS256 (RFC 7518, 3.2)
OTHER_VARIABLES = (
    "MURMUR_SERVER",
    "MURMUR_API_KEY",
    "MURMUR_RECORDINGS",
    "MURMUR_GOLDEN",
)  # read by the client and the tests


class UnknownVariable(ValueError):
    """A MURMUR_ variable that nothing reads."""


class Settings(BaseSettings):
    """Settings of the service; the variable of each is MURMUR_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=1, le=65535, description="Port to listen on.")
    dashboard: bool = Field(True, description="Start the Ray dashboard (ten processes).")
    dashboard_port: int = Field(8265, ge=1, le=65535, description="Port of the Ray dashboard; the next free one if taken.")
    data_dir: Path = Field(
        default_factory=lambda: _home("XDG_DATA_HOME", ".local/share"),
        description="Directory for the embedded Valkey's data, artifacts and logs.",
    )
    cache_dir: Path = Field(
        default_factory=lambda: _home("XDG_CACHE_HOME", ".cache"),
        description="Directory for unpacked and downloaded model weights.",
    )
    redis_url: str = Field("", description="Redis or Valkey server for jobs; empty starts an embedded Valkey.")
    ray_address: str = Field("", description="Ray cluster to join; empty starts Ray on this machine.")
    storage_uri: str = Field("", description="Storage for artifacts: file://, s3:// or gs://; empty for the data directory.")

    redis_replicas: int = Field(
        0, ge=0, description="Replicas of Redis that must have a job and its end before they are acknowledged (WAIT)."
    )
    min_free_bytes: int = Field(
        512 << 20, ge=0, description="Free disk space below which uploads are refused and no job is started, in bytes."
    )

    log_format: Literal["text", "json"] = Field("text", description="Format of the log file.")
    models: Words = Field(("base",), description="Models to offer, separated by commas; the first is the default.")
    model_aliases: Annotated[dict[str, str], NoDecode] = Field(
        {"whisper-1": "", "qwen3-asr": ""},
        description="Aliases of models, e.g. `a=base,b=`; an empty value stands for the default model.",
    )
    engine: Literal["faster_whisper", "fake"] = Field("faster_whisper", description="Engine; `fake` is for tests.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device to run the models on.")
    compute_type: str = Field(
        "auto",
        description="CTranslate2 compute type; auto is float16 on a GPU, int8 on a CPU, int8_bfloat16 on a CPU with AMX.",
    )
    beam_below: float | None = Field(
        None,
        le=0,
        description="Log-probability below which beam search decodes again; 0 for all text, unset to suit the language.",
    )
    engine_workers: int = Field(
        0, ge=0, description="Batches that a replica decodes at once; 0 for one on a GPU, else one per CPU core."
    )
    batch_size: int = Field(
        0,
        ge=0,
        le=256,
        description="Maximum windows per batch; 0 for 8 on a CPU, and on a GPU for as many as its memory holds.",
    )

    fetch_allow: Words = Field(
        (),
        description="Private hosts, host:port pairs and CIDRs for sources and webhooks; buckets as s3://BUCKET/{tenant}/.",
    )
    fetch_min_rate: int = Field(
        16_384, ge=0, description="Lowest rate of a download over a minute, in bytes per second; slower ones are ended."
    )
    tenant_downloads: int = Field(
        8, ge=0, description="Maximum concurrent downloads per tenant and Runner replica; 0 for no limit."
    )
    public_url: str = Field(
        "", description="Base URL for links in responses; empty for the request's host if `allowed_hosts` has it, else none."
    )
    summary_base_url: str = Field(
        "", description="Base URL of an OpenAI-compatible API that writes summaries; empty disables them."
    )
    summary_model: str = Field("", description="Model that writes summaries.")
    summary_key: SecretStr = Field(SecretStr(""), description="API key for the model that writes summaries.")
    summary_prompts: Annotated[dict[str, str], NoDecode] = Field(
        {}, description="Prompts by id, as a JSON object; `{transcript}` in them is replaced by the transcript."
    )
    api_keys_required: bool = Field(False, description="Require an API key for every request (see `murmur keys`).")
    jwt_issuer: str = Field("", description="Issuer whose JSON Web Tokens are accepted beside API keys; empty for none.")
    jwt_audience: str = Field("", description="Audience that a token must name.")
    jwt_secret: SecretStr = Field(
        SecretStr(""), description="Shared secret of tokens signed with HS256, HS384 or HS512; 32 bytes at least."
    )
    jwt_jwks_url: str = Field("", description="URL of the issuer's JWK set, for tokens signed with asymmetric keys.")
    jwt_tenant_claim: str = Field(
        "tenant", description="Claim that names the tenant; a token without it belongs to `default`."
    )
    jwt_tenant_required: bool = Field(False, description="Refuse tokens without the claim that names the tenant.")
    jwt_max_stale_s: float = Field(
        86_400.0, gt=0, description="Seconds to accept known signing keys while the issuer cannot be reached."
    )
    cors_origins: Words = Field(
        (), description="Origins of web pages that may call the API, e.g. https://app.example; * for any."
    )
    tls_cert: Path | None = Field(None, description="PEM file with the TLS certificate chain; unset for plain HTTP.")
    tls_key: Path | None = Field(None, description="PEM file with the TLS private key.")
    metrics_key_required: bool = Field(False, description="Require a key for /metrics.")
    audit_log: bool = Field(False, description="Log who made, read and deleted jobs, and failed keys, to logs/audit.jsonl.")
    allow_anonymous: bool = Field(False, description="Allow listening beyond loopback without API keys.")
    allowed_hosts: Words = Field(
        ("localhost", "127.0.0.1", "::1"),
        description="Names in Host and Origin; others are refused where no key is required, and unused in links; * for any.",
    )
    max_audio_s: float = Field(86_400.0, gt=0, description="Maximum length of a recording, in seconds of decoded audio.")
    max_upload_bytes: int = Field(2 << 30, gt=0, description="Maximum size of an upload or a fetched source, in bytes.")
    body_idle_s: float = Field(30.0, gt=0, description="Seconds without a byte after which a request body is cut off.")
    webhook_retries_s: Annotated[tuple[NonNegativeFloat, ...], NoDecode] = Field(
        RETRIES_S, description="Delay before each retry of a webhook, in seconds; after the last retry it is a dead letter."
    )
    result_ttl_s: float = Field(604_800.0, gt=0, description="Seconds to keep a job and its results after its end.")
    max_result_ttl_s: float = Field(31_536_000.0, gt=0, description="Maximum seconds that a request may have results kept.")
    audio_ttl_s: float = Field(
        0.0, ge=0, description="Seconds to keep sources and decoded audio after the end; 0 for as long as the results."
    )
    stream_grace_s: float = Field(600.0, gt=0, description="Seconds to keep a job's events in Redis after its end.")
    sse_max_age_s: float = Field(
        600.0, gt=0, description="Maximum age of an event stream, in seconds; clients then reconnect and resume."
    )

    lease_s: float = Field(30.0, gt=0, description="Seconds without a heartbeat after which a worker's jobs are reassigned.")
    runner_jobs: int = Field(32, ge=1, description="Maximum concurrent jobs per Runner replica.")
    windows_in_flight: int = Field(16, ge=1, description="Maximum windows in flight per job.")
    tenant_queued_jobs: int = Field(10_000, ge=0, description="Maximum queued jobs per tenant; 0 for no limit.")
    tenant_running_jobs: int = Field(0, ge=0, description="Maximum running jobs per tenant; 0 for no limit.")

    tenant_kept_jobs: int = Field(0, ge=0, description="Maximum jobs kept per tenant, ended ones included; 0 for no limit.")
    tenant_streams: int = Field(
        1000, ge=0, description="Maximum open event streams, and uploads, per tenant and Ingress replica; 0 for no limit."
    )
    tenant_requests_per_minute: int = Field(
        0, ge=0, description="Rate limit per tenant, in requests per minute; 0 for no limit."
    )
    tenant_minutes_per_month: float = Field(
        0.0, ge=0, description="Minutes of audio transcribed per tenant and calendar month (UTC); 0 for no limit."
    )
    tenant_weights: Weights = Field({}, description="Scheduling weight per tenant, e.g. `acme=3,lab=0.5` (default 1).")

    ingress_min_replicas: int = Field(1, ge=1, description="Minimum Ingress replicas.")
    ingress_max_replicas: int = Field(2, ge=1, description="Maximum Ingress replicas.")
    runner_min_replicas: int = Field(1, ge=1, description="Minimum Runner replicas.")
    runner_max_replicas: int = Field(2, ge=1, description="Maximum Runner replicas.")
    ingestion_min_replicas: int = Field(1, ge=1, description="Minimum Ingestion replicas.")
    ingestion_max_replicas: int = Field(2, ge=1, description="Maximum Ingestion replicas.")
    transcoder_min_replicas: int = Field(1, ge=1, description="Minimum Transcoder replicas.")
    transcoder_max_replicas: int = Field(
        0, ge=0, description="Maximum Transcoder replicas; 0 for half the CPU cores of the machine that deploys."
    )
    transcriber_min_replicas: int = Field(1, ge=1, description="Minimum Transcriber replicas per model.")
    transcriber_max_replicas: int = Field(1, ge=1, description="Maximum Transcriber replicas per model.")
    transcriber_gpus: float = Field(0.0, ge=0, description="GPUs, or the fraction of one, per Transcriber replica.")

    @field_validator("models", "fetch_allow", "allowed_hosts", "cors_origins", "webhook_retries_s", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(word.strip() for word in value.split(",") if word.strip())
        return value

    @field_validator("tls_cert", "tls_key", mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return value or None

    @field_validator("tenant_weights", "model_aliases", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if isinstance(value, str):
            pairs = (pair.strip().partition("=") for pair in value.split(",") if pair.strip())
            return {name: weight for name, _, weight in pairs}
        return value

    @field_validator("summary_prompts", mode="before")
    @classmethod
    def _parse_json(cls, value: object) -> object:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError as error:
            raise ValueError(f"write a JSON object of prompts by id ({error})") from None

    @field_validator("models")
    @classmethod
    def _some_model(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one model")
        return tuple(dict.fromkeys(value))

    @field_validator("fetch_allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_entries(value)
        return value

    @model_validator(mode="after")
    def _tokens(self) -> Settings:
        signed = bool(self.jwt_secret.get_secret_value()) + bool(self.jwt_jwks_url)
        if (self.jwt_issuer or signed) and not (self.jwt_issuer and self.jwt_audience and signed == 1):
            raise ValueError("tokens need jwt_issuer, jwt_audience and one of jwt_secret and jwt_jwks_url")
        if self.jwt_jwks_url and not is_private_channel(self.jwt_jwks_url):
            raise ValueError("jwt_jwks_url must begin with https://, or on loopback with http://")
        if 0 < len(self.jwt_secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"jwt_secret must have at least {MIN_SECRET_BYTES} bytes")
        return self

    @model_validator(mode="after")
    def _edge(self) -> Settings:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("TLS needs both tls_cert and tls_key")
        for origin in self.cors_origins:
            if origin != "*" and not is_origin(origin):
                raise ValueError(f"cors_origins: {origin!r} is no origin: write https://HOST or https://HOST:PORT, or *")
        return self

    @model_validator(mode="after")
    def _replicas(self) -> Settings:
        for name in (field.removesuffix("_min_replicas") for field in type(self).model_fields if "_min_replicas" in field):
            least, most = getattr(self, f"{name}_min_replicas"), getattr(self, f"{name}_max_replicas")
            if least > most > 0:  # 0: derived from the machine
                raise ValueError(f"{name}_min_replicas ({least}) must not exceed {name}_max_replicas ({most})")
        return self

    @model_validator(mode="after")
    def _summaries(self) -> Settings:
        if self.summary_base_url and not (self.summary_model and self.summary_prompts):
            raise ValueError("summaries need summary_model and summary_prompts")
        if any("{transcript}" not in prompt for prompt in self.summary_prompts.values()):
            raise ValueError("each of summary_prompts must say {transcript}")
        return self

    @property
    def keyed(self) -> bool:
        """Whether every request needs a key or a token."""
        return self.api_keys_required or bool(self.jwt_issuer)

    @property
    def storage(self) -> str:
        """URI of the artifact storage."""
        return self.storage_uri or (self.data_dir.absolute() / "artifacts").as_uri()


def check_variables(names: Iterable[str], vendor_variables: Collection[str] = ()) -> None:
    """Refuse MURMUR_ variables that nothing reads. UnknownVariable names the nearest setting."""
    known = {name.upper() for name in Settings.model_fields}
    known |= {name.removeprefix(PREFIX) for name in (*OTHER_VARIABLES, *vendor_variables)}
    for name in sorted(names):
        prefix, setting = name[: len(PREFIX)].upper(), name[len(PREFIX) :].upper()
        if prefix == PREFIX and setting not in known:
            nearest = get_close_matches(setting, known, 1)
            advice = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "docs/settings.md lists all settings"
            raise UnknownVariable(f"{name}: there is no such setting, {advice}")

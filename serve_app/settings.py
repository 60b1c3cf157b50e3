"""Every MURMUR_ variable, once. They are read at the root; what a part needs of them it is handed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from deployments.ingestion.allow_list import check_networks

Words = Annotated[tuple[str, ...], NoDecode]
Weights = Annotated[dict[str, Annotated[float, Field(gt=0, le=1000)]], NoDecode]


def _home(variable: str, fallback: str) -> Path:
    """Where the desktop's conventions (XDG base directories) want files of a kind."""
    return Path(os.environ.get(variable) or Path.home() / fallback) / "murmur"


PLACES = r"s3://[a-z0-9.-]+|gs://[a-z0-9._-]+|file://|https?://[^/{}?#\s]+"
DRIVE = re.compile(rf"({PLACES})/([^{{}}?#\s]|\{{(session_id|file_id|tenant|owner)\}})+")
RETRIES_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""The waits that the specification suggests: 75 hours and a half in all."""


class Settings(BaseSettings):
    """Settings of the service. Each can be set in the environment as MURMUR_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="MURMUR_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to serve on.")
    port: int = Field(8080, ge=1, le=65535, description="Port to serve on.")
    dashboard: bool = Field(True, description="Whether the Ray dashboard is served; it is ten processes.")
    dashboard_port: int = Field(8265, ge=1, le=65535, description="Port of the Ray dashboard; the next free one if taken.")
    data_dir: Path = Field(
        default_factory=lambda: _home("XDG_DATA_HOME", ".local/share"),
        description="Directory for the embedded Valkey's data, artifacts and logs.",
    )
    cache_dir: Path = Field(
        default_factory=lambda: _home("XDG_CACHE_HOME", ".cache"), description="Directory for unpacked model weights."
    )
    redis_url: str = Field("", description="Redis or Valkey to keep jobs in; empty starts an embedded Valkey.")
    ray_address: str = Field("", description="Ray cluster to join; empty starts Ray on this machine.")
    storage_uri: str = Field("", description="Where artifacts go: file://, s3:// or gs://; empty for the data directory.")

    log_format: Literal["text", "json"] = Field("text", description="How the log under the data directory is written.")
    models: Words = Field(("base",), description="Models on offer, separated by commas; the first is the default.")
    model_aliases: Annotated[dict[str, str], NoDecode] = Field(
        {"whisper-1": "", "qwen3-asr": ""},
        description="Names that stand for a model, as in `a=base,b=`; the default for none.",
    )
    engine: Literal["faster_whisper", "fake"] = Field("faster_whisper", description="Engine; `fake` is for tests.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device the models run on.")
    compute_type: str = Field(
        "auto",
        description="CTranslate2's; auto is float16 on a GPU, int8 on a CPU, int8_bfloat16 on one with AMX.",
    )
    beam_below: float | None = Field(
        None,
        le=0,
        description="A beam searches texts of a lower mean log-probability; 0 for all, unset for what suits the language.",
    )
    engine_workers: int = Field(0, ge=0, description="Batches a replica decodes at once; 0 for one a CPU core.")
    batch_size: int = Field(
        0, ge=0, le=256, description="Windows in a batch, at most; 0 for 8 on a CPU, and on a GPU for what its memory holds."
    )

    fetch_allow: Words = Field(
        (),
        description="Hosts, host:port pairs, CIDRs that may be reached although they are private; s3://BUCKET to read from.",
    )
    public_url: str = Field("", description="URL that clients reach the service by, for links; empty for the request's own.")
    stage_drive_uri: str = Field(
        "",
        description="Where files of Shift's drives lie: `s3://bucket/{tenant}/{session_id}/{file_id}`, say; or nowhere.",
    )
    shift_transcription_runner_mode: str = Field(
        "deployment",
        validation_alias="SHIFT_TRANSCRIPTION_RUNNER_MODE",
        description="Shift's own variable, without the prefix: `deployment` is how jobs run here; `k8s-job` is refused.",
    )
    summary_base_url: str = Field(
        "", description="Base URL of an OpenAI-compatible API that writes summaries; empty for none."
    )
    summary_model: str = Field("", description="Its model.")
    summary_key: SecretStr = Field(SecretStr(""), description="Its key.")
    summary_prompts: dict[str, str] = Field(
        {}, description="Prompts by id, as JSON; `{transcript}` in them stands for what was said."
    )
    api_keys_required: bool = Field(False, description="Answer only requests with an API key (see `murmur keys`).")
    jwt_issuer: str = Field("", description="Issuer whose JSON Web Tokens are taken as well as keys; empty for none.")
    jwt_audience: str = Field("", description="Audience that a token must name.")
    jwt_secret: SecretStr = Field(SecretStr(""), description="Shared secret of tokens signed with HS256, HS384 or HS512.")
    jwt_jwks_url: str = Field("", description="Where the issuer's public keys (JWK set) are, for tokens signed with those.")
    jwt_tenant_claim: str = Field("tenant", description="Claim of a token that names the tenant; `default` without it.")
    allow_anonymous: bool = Field(False, description="Serve beyond loopback without API keys.")
    allowed_hosts: Words = Field(
        ("localhost", "127.0.0.1", "::1"),
        description="Names in Host and Origin that requests are answered for, against web pages that aim here; * for any.",
    )
    max_audio_s: float = Field(86_400.0, gt=0, description="Longest audio accepted, in seconds, by what was decoded.")
    max_upload_bytes: int = Field(2 << 30, gt=0, description="Largest upload or fetched source, in bytes.")
    webhook_retries_s: Annotated[tuple[float, ...], NoDecode] = Field(
        RETRIES_S, description="Seconds to wait before each further try of a webhook; after the last it is given up."
    )
    result_ttl_s: float = Field(604_800.0, gt=0, description="Seconds that a job and its results are kept after its end.")
    stream_grace_s: float = Field(600.0, gt=0, description="Seconds that Redis keeps a job's events after its end.")
    sse_max_age_s: float = Field(600.0, gt=0, description="Age in seconds at which an event stream ends, to be resumed.")

    lease_s: float = Field(30.0, gt=0, description="Seconds after which a silent worker's jobs go to another.")
    runner_jobs: int = Field(32, ge=1, description="Jobs that one Runner replica works on at once.")
    windows_in_flight: int = Field(16, ge=1, description="Windows of one job that are in flight at once.")
    tenant_queued_jobs: int = Field(10_000, ge=0, description="Jobs of one tenant that wait at once; 0 for no limit.")
    tenant_running_jobs: int = Field(0, ge=0, description="Jobs of one tenant that run at once; 0 for no cap.")

    tenant_requests_per_minute: int = Field(0, ge=0, description="Requests of one tenant a minute; 0 for no limit.")
    tenant_minutes_per_month: float = Field(
        0.0, ge=0, description="Minutes of audio heard for one tenant a calendar month (UTC); 0 for no limit."
    )
    tenant_weights: Weights = Field(
        {}, description="Turns that tenants have for one of the others', as in `acme=3,lab=0.5`; 1 for the rest."
    )

    ingress_min_replicas: int = Field(1, ge=1, description="Ingress replicas, at least.")
    ingress_max_replicas: int = Field(2, ge=1, description="Ingress replicas, at most.")
    runner_min_replicas: int = Field(1, ge=1, description="Runner replicas, at least.")
    runner_max_replicas: int = Field(2, ge=1, description="Runner replicas, at most.")
    ingestion_min_replicas: int = Field(1, ge=1, description="Ingestion replicas, at least.")
    ingestion_max_replicas: int = Field(2, ge=1, description="Ingestion replicas, at most.")
    transcoder_min_replicas: int = Field(1, ge=1, description="Transcoder replicas, at least.")
    transcoder_max_replicas: int = Field(
        0, ge=0, description="Transcoder replicas, at most; 0 for one for every two cores of the machine that deploys."
    )
    transcriber_min_replicas: int = Field(1, ge=1, description="Transcriber replicas a model, at least.")
    transcriber_max_replicas: int = Field(1, ge=1, description="Transcriber replicas a model, at most.")
    transcriber_gpus: float = Field(0.0, ge=0, description="GPUs, or the share of one, that a Transcriber replica takes.")

    @field_validator("models", "fetch_allow", "allowed_hosts", "webhook_retries_s", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(word.strip() for word in value.split(",") if word.strip())
        return value

    @field_validator("tenant_weights", "model_aliases", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if isinstance(value, str):
            pairs = (pair.strip().partition("=") for pair in value.split(",") if pair.strip())
            return {name: weight for name, _, weight in pairs}
        return value

    @field_validator("models")
    @classmethod
    def _some_model(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one model")
        return tuple(dict.fromkeys(value))

    @field_validator("stage_drive_uri")
    @classmethod
    def _drive(cls, value: str) -> str:
        if value and not (DRIVE.fullmatch(value) and "{session_id}" in value and "{file_id}" in value):
            raise ValueError("write it as s3://, gs://, file:/// or https:// with {session_id} and {file_id} in its path")
        return value

    @field_validator("shift_transcription_runner_mode")
    @classmethod
    def _mode(cls, value: str) -> str:
        if value == "k8s-job":
            raise ValueError("k8s-job is not there yet: jobs run as a deployment")
        if value != "deployment":
            raise ValueError("use deployment")
        return value

    @field_validator("fetch_allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_networks(value)
        return value

    @model_validator(mode="after")
    def _tokens(self) -> Settings:
        signed = bool(self.jwt_secret.get_secret_value()) + bool(self.jwt_jwks_url)
        if (self.jwt_issuer or signed) and not (self.jwt_issuer and self.jwt_audience and signed == 1):
            raise ValueError("tokens need jwt_issuer, jwt_audience and one of jwt_secret and jwt_jwks_url")
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
        """Whether nobody is answered without a key or a token."""
        return self.api_keys_required or bool(self.jwt_issuer)

    @property
    def storage(self) -> str:
        """The URI of the artifacts' storage."""
        return self.storage_uri or (self.data_dir.absolute() / "artifacts").as_uri()

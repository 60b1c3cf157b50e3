"""Replicas of the Serve deployments: each builds its plain objects from the settings."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from uuid import uuid4

from fastapi import FastAPI
from ray.exceptions import RayError
from ray.serve.context import _get_serve_request_context
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import Buckets
from deployments.ingestion.safe_http import SafeHttp
from deployments.ingestion.stage import Ingestion
from deployments.messages import EngineInfo
from deployments.storage.artifacts import Artifacts
from deployments.transcoding.ffmpeg import find_ffmpeg
from deployments.transcoding.stage import Transcoder
from deployments.transcription.engines import load
from deployments.transcription.engines.base import EngineConfig
from deployments.transcription.stage import Transcriber
from serve_app.dialects import DIALECTS
from serve_app.dialects.base import ApiContext
from serve_app.http.auth import Auth
from serve_app.http.jwt_tokens import JwtVerifier, TokenRules
from serve_app.ingress import create_api
from serve_app.jobs.deliveries import Deliveries
from serve_app.jobs.event_stream import EventStreams
from serve_app.jobs.model_catalog import Model
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.jobs.results import Results
from serve_app.jobs.service import Jobs
from serve_app.logs import OURS, log_to_file
from serve_app.models.lease import LeaseRules
from serve_app.ray_serve.autoscaling import LOAD
from serve_app.ray_serve.patches import _loopback_only, pace_replica
from serve_app.ray_serve.stages import ServeStages
from serve_app.runner.runner import Runner, RunnerLimits
from serve_app.runner.summaries import Summaries, SummaryModel
from serve_app.runner.sweeper import Sweeper
from serve_app.runner.webhook_sender import WebhookSender
from serve_app.settings import Settings
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.webhook_outbox import Outbox

VERSION = version("murmuration")


THREADS = 64


NICENESS = 10
"""What a Transcoder adds to its workers' niceness."""


def prepare_replica(settings: Settings) -> None:
    """What every replica does first: log where Serve logs, and on one machine to a file that outlives Ray's; listen where
    the service listens."""
    for package in OURS:
        logger = logging.getLogger(package)
        for handler in logging.getLogger("ray.serve").handlers:
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    if not settings.ray_address:
        log_to_file(settings.data_dir, settings.log_format)
    _loopback_only(settings)


def _request_id() -> str:
    """What Serve knows a request by; its proxy tells it in the answer."""
    return str(_get_serve_request_context().request_id)


class IngressReplica:
    """Serves the API."""

    def __init__(
        self,
        settings: Settings,
        models: tuple[Model, ...],
        transcribers: dict[str, DeploymentHandle],
        _runner: DeploymentHandle,
    ) -> None:
        prepare_replica(settings)
        # Serve's loop and ours share one interpreter, and many readers keep both busy: at Python's 5 ms each waits long for
        # its turn, and requests for Redis.
        sys.setswitchinterval(0.0005)
        pace_replica()
        # Bound so that it is part of the graph; work reaches it through Redis, never through a call.
        redis = connect(settings.redis_url, "ingress")
        artifacts, store = Artifacts(settings.storage), Store(redis)
        self._store = store
        self._events = EventStreams(store, artifacts)
        limits = Quotas(store, TenantLimits(settings.tenant_requests_per_minute, settings.tenant_minutes_per_month))
        jobs = Jobs(
            store,
            self._events,
            artifacts,
            models,
            limits=limits,
            allowed=AllowList.parse(settings.fetch_allow),
            aliases=settings.model_aliases,
            result_ttl_s=settings.result_ttl_s,
            queue_limit=settings.tenant_queued_jobs,
            prompts=tuple(settings.summary_prompts) if settings.summary_base_url else (),
        )
        tokens = JwtVerifier(token_rules(settings)) if settings.jwt_issuer else None
        self._auth = Auth(ApiKeys(redis), limits, tokens, required=settings.keyed, hosts=settings.allowed_hosts)
        self._devices: dict[str, str] = {}
        self._asking = [asyncio.get_running_loop().create_task(self._ask(*each)) for each in transcribers.items()]
        self._context = ApiContext(
            jobs,
            Deliveries(Outbox(redis)),
            artifacts,
            settings.max_upload_bytes,
            settings.sse_max_age_s,
            settings.public_url,
            settings.stage_drive_uri,
            self._devices,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(
            self._context,
            self._auth,
            self._store,
            self._events,
            version=VERSION,
            devices=self._devices,
            request_id=_request_id,
        )

    async def _ask(self, model: str, transcriber: DeploymentHandle) -> None:
        """Learn once what a model runs on; a replica that is not there yet is asked again."""
        while model not in self._devices:
            try:
                info: EngineInfo = await transcriber.info.remote()
                self._devices[model] = f"{info.device} {info.compute_type}"
            except (RayError, RayServeException):
                await asyncio.sleep(1.0)


class RunnerReplica:
    """Pulls jobs from the moment it starts; gives them back when it is told to go."""

    def __init__(
        self,
        settings: Settings,
        ingestion: DeploymentHandle,
        transcoder: DeploymentHandle,
        transcribers: dict[str, DeploymentHandle],
    ) -> None:
        prepare_replica(settings)
        # Names that webhooks lead to are looked up in these threads too, and some servers of names never answer.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "runner"))
        self._limits = RunnerLimits(
            jobs=settings.runner_jobs,
            windows=settings.windows_in_flight,
            tenant_jobs=settings.tenant_running_jobs,
            weights=settings.tenant_weights,
            max_audio_s=settings.max_audio_s,
            max_source_bytes=settings.max_upload_bytes,
        )
        artifacts = Artifacts(settings.storage)
        redis = connect(settings.redis_url, "runner")
        store = Store(redis, LeaseRules(settings.lease_s))
        sweeper = Sweeper(store, artifacts, period_s=settings.lease_s / 6, stream_grace_s=settings.stream_grace_s)
        stages = ServeStages(ingestion, transcoder, transcribers)
        self._runner = Runner(f"runner-{uuid4().hex[:8]}", store, stages, artifacts, sweeper, self._limits)
        http = SafeHttp(AllowList.parse(settings.fetch_allow))
        renders = {dialect.name: dialect.render for dialect in DIALECTS if dialect.render}
        webhooks = WebhookSender(Outbox(redis), store, Results(artifacts), http, renders, settings.webhook_retries_s)
        self._starting = asyncio.get_running_loop().create_task(self._runner.start())
        self._telling = [asyncio.get_running_loop().create_task(webhooks.run())]
        if settings.summary_base_url:
            key = settings.summary_key.get_secret_value()
            writer = SummaryModel(settings.summary_base_url, settings.summary_model, key, settings.summary_prompts)
            summaries = Summaries(store, artifacts, writer)
            self._telling.append(asyncio.get_running_loop().create_task(summaries.run()))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Its load, for serve_app.scaling."""
        return {LOAD: self._runner.jobs / self._limits.jobs}

    def check_health(self) -> None:
        """Asked by Serve; a replica that looks for work no more is replaced."""
        if any(task.done() for task in self._telling) or (self._starting.done() and not self._runner.well):
            raise RuntimeError("the runner has stopped looking for work")

    async def drain(self) -> None:
        """Claim no more, and give back at once what is not finished."""
        for task in self._telling:
            task.cancel()
        await self._starting
        await self._runner.stop()

    async def __del__(self) -> None:
        await self.drain()


class IngestionReplica(Ingestion):
    """Fetches sources."""

    def __init__(self, settings: Settings) -> None:
        prepare_replica(settings)
        allowed = AllowList.parse(settings.fetch_allow)
        super().__init__(Artifacts(settings.storage), SafeHttp(allowed), Buckets(allowed))


class TranscoderReplica(Transcoder):
    """Decodes sources."""

    def __init__(self, settings: Settings) -> None:
        prepare_replica(settings)
        # Whoever waits for words comes before whoever's file is merely being unpacked; ffmpeg inherits this.
        os.nice(NICENESS)
        super().__init__(Artifacts(settings.storage), find_ffmpeg().path)


class TranscriberReplica(Transcriber):
    """Holds a loaded model."""

    def __init__(self, settings: Settings, model: str) -> None:
        prepare_replica(settings)
        super().__init__(Artifacts(settings.storage), load(engine_config(settings, model)))


def token_rules(settings: Settings) -> TokenRules:
    """Whose JSON Web Tokens are accepted."""
    secret = settings.jwt_secret.get_secret_value()
    return TokenRules(settings.jwt_issuer, settings.jwt_audience, secret, settings.jwt_jwks_url, settings.jwt_tenant_claim)


def engine_config(settings: Settings, model: str) -> EngineConfig:
    """How a replica loads a model."""
    return EngineConfig(
        engine=settings.engine,
        model=model,
        cache_dir=str(settings.cache_dir),
        device=settings.device,
        compute_type=settings.compute_type,
        workers=settings.engine_workers or usable_cores(),
        batch=settings.batch_size,
        beam_below=settings.beam_below,
    )


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1

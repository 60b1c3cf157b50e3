"""Replicas of the Serve deployments: each builds its plain objects from the settings."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from uuid import uuid4

from fastapi import FastAPI
from pydantic_settings import BaseSettings
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import Buckets
from deployments.ingestion.safe_http import SafeHttp
from deployments.ingestion.stage import Ingestion
from deployments.messages import EngineInfo
from deployments.storage.artifacts import Artifacts
from deployments.transcoding.cage import enforcement
from deployments.transcoding.ffmpeg import find_ffmpeg
from deployments.transcoding.stage import Transcoder
from deployments.transcription.engines import load
from deployments.transcription.stage import Transcriber
from serve_app.dialects import key_headers, renderers
from serve_app.dialects.base import ApiContext
from serve_app.errors import StoreUnavailable
from serve_app.http.auth import Auth
from serve_app.http.jwt_tokens import JwtVerifier
from serve_app.ingress import create_api
from serve_app.jobs.audit_log import AuditLog
from serve_app.jobs.deliveries import Deliveries
from serve_app.jobs.event_stream import EventStreams
from serve_app.jobs.model_catalog import Model, ModelCatalog
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.jobs.results import Results
from serve_app.jobs.service import Jobs
from serve_app.logs import LOGGED_PACKAGES, log_to_file
from serve_app.models.lease import LeaseRules
from serve_app.ray_serve.autoscaling import LOAD
from serve_app.ray_serve.configuration import engine_config, token_rules
from serve_app.ray_serve.patches import bind_to_loopback, pace_replica, serve_request_id
from serve_app.ray_serve.stages import ServeStages
from serve_app.runner.deadlines import DeadlineRules
from serve_app.runner.limits import RunnerLimits
from serve_app.runner.loops import every
from serve_app.runner.runner import Runner
from serve_app.runner.summaries import Summaries, SummaryModel
from serve_app.runner.sweeper import Sweeper
from serve_app.runner.webhook_sender import WebhookSender
from serve_app.settings import Settings
from serve_app.store.connection import connect
from serve_app.store.heartbeats import BEAT_S
from serve_app.store.redis_store import Store
from serve_app.store.webhook_outbox import Outbox

log = logging.getLogger(__name__)

VERSION = version("murmuration")
RUNNER_THREADS = 64
TRANSCODER_NICENESS = 10  # added to the worker's own
SWITCH_INTERVAL_S = 0.0005
DEVICE_QUERY_S, DEVICE_REPLY_S = 10.0, 30.0


def prepare_replica(settings: Settings) -> None:
    """Set up logging in a replica's process and, on one machine, bind its gRPC server to loopback."""
    for package in LOGGED_PACKAGES:
        logger = logging.getLogger(package)
        for handler in logging.getLogger("ray.serve").handlers:
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    if not settings.ray_address:
        log_to_file(settings.data_dir, settings.log_format)
        bind_to_loopback()


class IngressReplica:
    """Serves the API."""

    def __init__(
        self,
        settings: Settings,
        models: tuple[Model, ...],
        transcribers: dict[str, DeploymentHandle],
        _runner: DeploymentHandle,  # makes it part of the graph; jobs reach it through Redis
        dialect_settings: Mapping[str, BaseSettings],  # dialect -> its settings
    ) -> None:
        prepare_replica(settings)
        # Serve's event loop and ours are two threads, and many event streams keep both busy: at Python's default of 5 ms
        # each waits long for the GIL, and so do requests.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        pace_replica()  # back-pressure on request bodies
        redis = connect(settings.redis_url, "ingress")
        artifacts = Artifacts(settings.storage, settings.min_free_bytes)
        store = Store(redis, replicas=settings.redis_replicas)
        self._settings = settings
        self._store = store
        self._events = EventStreams(store, artifacts)
        limits = Quotas(store, TenantLimits(settings.tenant_requests_per_minute, settings.tenant_minutes_per_month))
        jobs = _jobs(settings, models, store, self._events, artifacts, limits)
        tokens = JwtVerifier(token_rules(settings)) if settings.jwt_issuer else None
        self._auth = Auth(
            store.keys,
            limits,
            tokens,
            required=settings.keyed,
            hosts=settings.allowed_hosts,
            origins=settings.cors_origins,
            key_headers=key_headers(),
        )
        self._min_free_bytes = settings.min_free_bytes
        self._devices: dict[str, str] = {}
        loop = asyncio.get_running_loop()
        self._device_queries = [loop.create_task(self._query_device(*item)) for item in transcribers.items()]
        self._context = ApiContext(
            jobs,
            Deliveries(Outbox(redis)),
            artifacts,
            settings.max_upload_bytes,
            settings.sse_max_age_s,
            settings.public_url,
            self._devices,
            dialect_settings,
            settings.body_idle_s,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(
            self._context,
            self._auth,
            self._store,
            self._events,
            version=VERSION,
            devices=self._devices,
            min_free_bytes=self._min_free_bytes,
            request_id=serve_request_id,
            cors_origins=self._settings.cors_origins,
            metrics_key_required=self._settings.metrics_key_required,
            audit_log=AuditLog.under(self._settings.data_dir) if self._settings.audit_log else None,
        )

    async def check_health(self) -> None:
        """Fail Serve's health check once the listener of events has ended; the event loop answers it, or not."""
        if not self._events.healthy:
            raise RuntimeError("a background task of the event streams has ended")

    async def _query_device(self, model: str, transcriber: DeploymentHandle) -> None:
        """Ask a Transcriber for its device, again and again: one that does not answer is not ready."""
        while True:
            try:
                async with asyncio.timeout(DEVICE_REPLY_S):
                    info: EngineInfo = await transcriber.info.remote()
                self._devices[model] = f"{info.device} {info.compute_type}"
            except (RayError, RayServeException, TimeoutError):
                self._devices.pop(model, None)
            await asyncio.sleep(DEVICE_QUERY_S if model in self._devices else 1.0)


def _jobs(
    settings: Settings,
    models: tuple[Model, ...],
    store: Store,
    events: EventStreams,
    artifacts: Artifacts,
    quotas: Quotas,
) -> Jobs:
    return Jobs(
        store,
        events,
        artifacts,
        ModelCatalog(models, settings.model_aliases),
        quotas=quotas,
        allowed=AllowList.parse(settings.fetch_allow, settings.storage),
        result_ttl_s=settings.result_ttl_s,
        max_result_ttl_s=settings.max_result_ttl_s,
        queue_limit=settings.tenant_queued_jobs,
        kept_limit=settings.tenant_kept_jobs,
        open_limit=settings.tenant_streams,
        prompts=tuple(settings.summary_prompts) if settings.summary_base_url else (),
    )


class RunnerReplica:
    """Pulls jobs while it runs; returns unfinished ones to the queue when it stops."""

    def __init__(
        self,
        settings: Settings,
        ingestion: DeploymentHandle,
        transcoder: DeploymentHandle,
        transcribers: dict[str, DeploymentHandle],
    ) -> None:
        prepare_replica(settings)
        # The default pool is small, and a slow storage holds a thread of it for each call.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(RUNNER_THREADS, "runner"))
        self._limits = RunnerLimits(
            jobs=settings.runner_jobs,
            tenant_downloads=settings.tenant_downloads,
            windows=settings.windows_in_flight,
            tenant_jobs=settings.tenant_running_jobs,
            weights=settings.tenant_weights,
            max_audio_s=settings.max_audio_s,
            max_source_bytes=settings.max_upload_bytes,
        )
        artifacts = Artifacts(settings.storage, settings.min_free_bytes)
        redis = connect(settings.redis_url, "runner")
        store = Store(redis, LeaseRules(settings.lease_s), settings.redis_replicas)
        sweeper = Sweeper(
            store,
            artifacts,
            period_s=settings.lease_s / 6,
            stream_grace_s=settings.stream_grace_s,
            audio_ttl_s=settings.audio_ttl_s,
        )
        stages = ServeStages(ingestion, transcoder, transcribers)
        self._name, self._heartbeats = f"runner-{uuid4().hex[:8]}", store.heartbeats
        deadlines = DeadlineRules.for_downloads(settings.max_upload_bytes, settings.fetch_min_rate)
        self._runner = Runner(self._name, store, stages, artifacts, sweeper, self._limits, deadlines)
        http = SafeHttp(AllowList.parse(settings.fetch_allow))
        webhooks = WebhookSender(Outbox(redis), store, Results(artifacts), http, renderers(), settings.webhook_retries_s)
        self._starting = asyncio.get_running_loop().create_task(self._runner.start())
        beating = every(BEAT_S, lambda: self._heartbeats.beat(self._name), "heartbeat of the runner")
        self._background = [asyncio.get_running_loop().create_task(loop) for loop in (webhooks.run(), beating)]
        if settings.summary_base_url:
            key = settings.summary_key.get_secret_value()
            writer = SummaryModel(settings.summary_base_url, settings.summary_model, key, settings.summary_prompts)
            summaries = Summaries(store, artifacts, writer)
            self._background.append(asyncio.get_running_loop().create_task(summaries.run()))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Load, for the policy in autoscaling.py."""
        return {LOAD: self._runner.jobs / self._limits.jobs}

    def check_health(self) -> None:
        """Fail Serve's health check once a background task has ended, so that the replica is replaced."""
        if any(task.done() for task in self._background) or (self._starting.done() and not self._runner.healthy):
            raise RuntimeError("a background task of the runner has ended")

    async def drain(self) -> None:
        """Stop claiming jobs and return the unfinished ones to the queue at once."""
        for task in self._background:
            task.cancel()
        with suppress(StoreUnavailable):
            await self._heartbeats.leave(self._name)
        await self._starting
        await self._runner.stop()

    async def __del__(self) -> None:  # Serve awaits it when the replica stops
        await self.drain()


class IngestionReplica(Ingestion):
    """Fetches sources."""

    def __init__(self, settings: Settings) -> None:
        prepare_replica(settings)
        allowed = AllowList.parse(settings.fetch_allow, settings.storage)
        http = SafeHttp(allowed, min_rate=settings.fetch_min_rate)
        super().__init__(Artifacts(settings.storage, settings.min_free_bytes), http, Buckets(allowed))


class TranscoderReplica(Transcoder):
    """Decodes sources."""

    def __init__(self, settings: Settings) -> None:
        prepare_replica(settings)
        # Transcription has priority over decoding; ffmpeg inherits this.
        os.nice(TRANSCODER_NICENESS)
        program = find_ffmpeg()
        if missing := enforcement().missing:
            log.warning("this system does not enforce the whole sandbox of ffmpeg, a decoder could still: %s", missing)
        super().__init__(Artifacts(settings.storage, settings.min_free_bytes), program.path, program.version)


class TranscriberReplica(Transcriber):
    """Holds a loaded model."""

    def __init__(self, settings: Settings, model: str) -> None:
        prepare_replica(settings)
        super().__init__(
            Artifacts(settings.storage, settings.min_free_bytes),
            load(engine_config(settings, model)),
            settings.tenant_weights,
        )

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Load, for the policy in autoscaling.py."""
        return {LOAD: self.load}

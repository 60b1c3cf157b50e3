"""The Serve graph in Ray's local testing mode: real handles and streams, no cluster."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import serve

from deployments.errors import WorkError
from deployments.ingestion.allow_list import AllowList
from deployments.messages import FetchRequest, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from serve_app.jobs.event_stream import EventStreams
from serve_app.jobs.model_catalog import ModelCatalog
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.jobs.service import Jobs
from serve_app.local.valkey import Valkey
from serve_app.logs import LOGGED_PACKAGES
from serve_app.main import build, find_models
from serve_app.models.job import JobSpec, Phase
from serve_app.ray_serve.stages import ServeStages
from serve_app.runner.limits import RunnerLimits
from serve_app.settings import Settings
from serve_app.store.redis_store import Store
from tests.lib.app import ME


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """Remove the log handlers that replicas add, which would stay in this process."""
    loggers = [logging.getLogger(name) for name in (*LOGGED_PACKAGES, "ray.serve")]
    before = [list(logger.handlers) for logger in loggers]
    yield
    for logger, handlers in zip(loggers, before, strict=True):
        for handler in {*logger.handlers} - {*handlers}:
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture
def settings(valkey: Valkey, tmp_path: Path) -> Settings:
    values = {"engine": "fake", "models": "fake,second", "storage_uri": (tmp_path / "artifacts").as_uri()}
    values["data_dir"] = str(tmp_path / "data")
    return Settings.model_validate(values | {"redis_url": valkey.url})


def visit(node: Any, deployments: dict[str, Any]) -> None:
    """Collect every deployment of a graph, by name."""
    if isinstance(node, dict):
        for part in node.values():
            visit(part, deployments)
    elif hasattr(node, "_bound_deployment"):
        deployments[node._bound_deployment.name] = node
        for part in (*node._bound_deployment.init_args, *node._bound_deployment.init_kwargs.values()):
            visit(part, deployments)


def bound(settings: Settings) -> dict[str, Any]:
    deployments: dict[str, Any] = {}
    visit(build(settings), deployments)
    return {name: node._bound_deployment for name, node in deployments.items()}


def test_all_deployments_fit_on_two_cores_and_scale_between_bounds(settings: Settings) -> None:
    one = settings.model_copy(update={"models": ("fake",), "transcriber_max_replicas": 3, "transcoder_max_replicas": 4})
    graph = bound(one)
    assert set(graph) == {"Ingress", "Runner", "Ingestion", "Transcoder", "Transcriber"}
    assert sum(deployment.ray_actor_options["num_cpus"] for deployment in graph.values()) <= 2
    for name, deployment in graph.items():
        scale = deployment._deployment_config.autoscaling_config
        assert scale.min_replicas == getattr(one, f"{name.lower()}_min_replicas")
        assert scale.max_replicas == getattr(one, f"{name.lower()}_max_replicas")
    cores = bound(settings)["Transcoder"]._deployment_config.autoscaling_config.max_replicas
    assert 1 <= cores <= max(1, (os.cpu_count() or 1) // 2)


def test_no_call_of_a_runner_waits_before_a_transcoder_or_an_ingestion(settings: Settings) -> None:
    graph = bound(settings.model_copy(update={"runner_jobs": 40, "runner_max_replicas": 5}))
    assert graph["Transcoder"]._deployment_config.max_ongoing_requests == 200
    assert graph["Ingestion"]._deployment_config.max_ongoing_requests == 5 * RunnerLimits().downloads
    few = bound(settings.model_copy(update={"runner_jobs": 1, "runner_max_replicas": 1}))
    assert few["Transcoder"]._deployment_config.max_ongoing_requests == 64


def test_every_model_has_its_own_transcriber(settings: Settings) -> None:
    assert {"Transcriber-fake", "Transcriber-second"} <= set(bound(settings))


async def test_jobs_run_through_the_graph(settings: Settings, store: Store, artifacts: Artifacts, sample: Path) -> None:
    runner = served(settings, "Runner")
    events = EventStreams(store, artifacts)
    await events.start()
    limits = Quotas(store, TenantLimits())
    jobs = Jobs(
        store, events, artifacts, ModelCatalog(find_models(settings)), quotas=limits, allowed=AllowList(), result_ttl_s=3600
    )
    for model in ("fake", "second"):
        async with jobs.draft(ME) as draft:
            artifacts.put(draft.source, sample.read_bytes())
            job_id = (await draft.submit(JobSpec(model))).id
        seen = [event async for event in await jobs.follow(ME, job_id, "0")]
        assert len(seen) > 4
        assert (await jobs.get(ME, job_id)).phase is Phase.COMPLETED
    await events.stop()
    await runner.drain.remote()


def served(settings: Settings, name: str) -> Any:
    """Handle of one deployment of the graph, with its dependencies."""
    deployments: dict[str, Any] = {}
    visit(build(settings), deployments)
    return serve.run(deployments[name], name=name, route_prefix=None, _local_testing_mode=True)


def stages(settings: Settings) -> ServeStages:
    return ServeStages(
        served(settings, "Ingestion"),
        served(settings, "Transcoder"),
        {"fake": served(settings, "Transcriber-fake")},
    )


async def test_a_stages_exception_passes_through_its_handle(settings: Settings, artifacts: Artifacts) -> None:
    graph = stages(settings)
    artifacts.put("jobs/x/source", b"no audio")
    with pytest.raises(WorkError) as failed:
        async for _ in graph.windows(TranscodeRequest("jobs/x/source", "jobs/x/pcm", 28.0, 3600.0)):
            pass
    assert failed.value.code == "unsupported_media"
    with pytest.raises(WorkError) as failed:
        await graph.fetch(FetchRequest("http://127.0.0.1:1/", "jobs/x/other", 100))
    assert failed.value.code == "source_forbidden"


async def test_closing_a_stream_ends_it(settings: Settings, artifacts: Artifacts, sample: Path) -> None:
    graph = stages(settings)
    artifacts.put("jobs/x/source", sample.read_bytes())
    plans = graph.windows(TranscodeRequest("jobs/x/source", "jobs/x/pcm", 6.0, 3600.0))
    assert not (await anext(plans)).finished
    await asyncio.wait_for(plans.aclose(), 30)

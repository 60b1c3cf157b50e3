"""What is forgotten of a private job: the URL once it was fetched, source and audio once the job has ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from deployments.artifacts import Artifacts
from serve_app.jobs.models import Claim, Job
from serve_app.jobs.places import pcm_prefix
from serve_app.jobs.store import Store


async def forget_url(store: Store, job: Job, claim: Claim | None = None) -> bool:
    """Of a job that is worked on under `claim`, or has ended. False where the lease is lost."""
    return job.spec.url is None or await store.respec(job.id, replace(job.spec, url=None), claim)


async def forget(store: Store, artifacts: Artifacts, job: Job | None) -> None:
    """All of it, if the job is private and has ended; what was heard stays for its time."""
    if job is None or not job.spec.private or not job.phase.final:
        return
    await forget_url(store, job)
    for key in (job.source, pcm_prefix(job.id), job.listening):
        await asyncio.to_thread(artifacts.delete, key)

"""What is forgotten of a private job: the URL once it was fetched, source and audio once the job has ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError
from serve_app.models.job import Job
from serve_app.models.lease import Claim
from serve_app.models.storage_paths import file_folder, job_folder, pcm_prefix
from serve_app.store.redis_store import Store


async def delete_url(store: Store, job: Job, claim: Claim | None = None) -> bool:
    """Of a job that is worked on under `claim`, or has ended. False where the lease is lost."""
    return job.spec.url is None or await store.jobs.replace_spec(job.id, replace(job.spec, url=None), claim)


async def delete_audio(store: Store, artifacts: Artifacts, job: Job | None) -> None:
    """All of it, if the job is private and has ended; what was heard stays for its time."""
    if job is None or not job.spec.private or not job.phase.final:
        return
    await delete_url(store, job)
    for key in (job.source, pcm_prefix(job.id), job.listening):
        await asyncio.to_thread(artifacts.delete, key)


async def delete_job(store: Store, artifacts: Artifacts, job_id: str) -> None:
    """Remove an ended job: the record first, so that nobody finds a job whose files are going."""
    gone = await store.jobs.delete(job_id)
    if gone is None:
        return
    if not gone:
        raise RequestError("conflict", "The job has not ended: cancel it first.")
    await _remove(artifacts, job_id, gone)


async def purge_results(store: Store, artifacts: Artifacts, job: Job, *, deleted: bool = False) -> bool:
    """The same of its results alone. False where it may not be."""
    gone = await store.jobs.purge_results(job.id, keep_s=job.spec.record_ttl_s or 0, deleted=deleted)
    if gone:
        await _remove(artifacts, job.id, gone)
    return bool(gone)


async def _remove(artifacts: Artifacts, job_id: str, gone: str | bool) -> None:
    await asyncio.to_thread(artifacts.delete, job_folder(job_id))
    if isinstance(gone, str):
        await asyncio.to_thread(artifacts.delete, file_folder(gone))

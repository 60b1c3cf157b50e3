"""Deletion of jobs, of results, and of URL and audio of private jobs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError
from serve_app.models.job import Job
from serve_app.models.lease import Claim
from serve_app.models.storage_paths import file_folder, job_folder, pcm_prefix
from serve_app.store.job_store import FileId
from serve_app.store.redis_store import Store


async def delete_url(store: Store, job: Job, claim: Claim | None = None) -> bool:
    """Delete the URL of a running job under its `claim`, or of an ended one. False if the lease is lost."""
    return job.spec.url is None or await store.jobs.replace_spec(job.id, replace(job.spec, url=None), claim)


async def delete_audio(store: Store, artifacts: Artifacts, job: Job | None) -> None:
    """Delete URL, source and audio of an ended private job."""
    if job is None or not job.spec.private or not job.phase.final:
        return
    await delete_url(store, job)
    for key in (job.source, pcm_prefix(job.id), job.listening):
        await asyncio.to_thread(artifacts.delete, key)


async def delete_job(store: Store, artifacts: Artifacts, job_id: str) -> None:
    """Delete an ended job, if it exists. Raises RequestError `conflict`."""
    # The record goes first: nobody finds a job whose files are incomplete.
    removed = await store.jobs.delete(job_id)
    if removed is None:
        return
    if not removed:
        raise RequestError("conflict", "The job has not ended: cancel it first.")
    await _delete_folders(artifacts, job_id, removed)


async def purge_results(store: Store, artifacts: Artifacts, job: Job, *, deleted: bool = False) -> bool:
    """Delete the results of an ended job. False if refused."""
    removed = await store.jobs.purge_results(job.id, keep_s=job.spec.record_ttl_s or 0, deleted=deleted)
    if removed:
        await _delete_folders(artifacts, job.id, removed)
    return bool(removed)


async def _delete_folders(artifacts: Artifacts, job_id: str, removed: FileId | bool) -> None:
    await asyncio.to_thread(artifacts.delete, job_folder(job_id))
    if isinstance(removed, str):
        await asyncio.to_thread(artifacts.delete, file_folder(removed))

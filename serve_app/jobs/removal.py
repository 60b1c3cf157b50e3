"""Deletion of jobs, of results, and of URL and audio of private jobs."""

# The script that deletes a record also lists its files for removal. The caller deletes them at once; what it cannot delete
# is left to the sweeper, which tries until it succeeds.

from __future__ import annotations

import logging
from dataclasses import replace

from deployments.errors import StorageUnavailable
from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError
from serve_app.models.job import Job
from serve_app.models.lease import Claim
from serve_app.models.storage_paths import file_folder, job_folder, pcm_prefix
from serve_app.store.job_store import FileId
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)


async def delete_url(store: Store, job: Job, claim: Claim | None = None) -> bool:
    """Delete the URL of a running job under its `claim`, or of an ended one. False if the lease is lost."""
    return job.spec.url is None or await store.jobs.replace_spec(job.id, replace(job.spec, url=None), claim)


async def delete_audio(store: Store, artifacts: Artifacts, job: Job | None) -> None:
    """Delete URL, source and audio of an ended private job."""
    if job is None or not job.spec.private or not job.phase.final:
        return
    await delete_url(store, job)
    for key in (job.source, pcm_prefix(job.id), job.listening):
        await artifacts.threads.run(artifacts.delete, key)


async def check_audio(store: Store, job: Job) -> None:
    """Raises RequestError `conflict` for a job whose recording is deleted and cannot be fetched again."""
    if not job.audio_gone:
        return
    if job.spec.url is None or job.spec.file is not None:
        raise RequestError("conflict", "The job cannot be tried again: its recording was deleted, send it again.")
    if await store.upkeep.being_removed(job.source):
        raise RequestError("conflict", "The job's old recording is being deleted: try again in a minute.")


async def delete_job(store: Store, artifacts: Artifacts, job_id: str) -> None:
    """Delete an ended job, if it exists. Raises RequestError `conflict`."""
    removed = await store.jobs.delete(job_id)
    if removed is None:
        return
    if not removed:
        raise RequestError("conflict", "The job has not ended: cancel it first.")
    await _delete_folders(store, artifacts, job_id, removed)


async def purge_results(store: Store, artifacts: Artifacts, job: Job, *, deleted: bool = False) -> bool:
    """Delete the results of an ended job. False if refused."""
    removed = await store.jobs.purge_results(job.id, keep_s=job.spec.record_ttl_s or 0, deleted=deleted)
    if removed:
        await _delete_folders(store, artifacts, job.id, removed)
    return bool(removed)


async def _delete_folders(store: Store, artifacts: Artifacts, job_id: str, removed: FileId | bool) -> None:
    folders = [job_folder(job_id), *([file_folder(removed)] if isinstance(removed, str) else [])]
    try:
        for folder in folders:
            await artifacts.threads.run(artifacts.delete, folder)
    except (OSError, StorageUnavailable) as error:
        log.warning("job_id=%s files not deleted, the sweeper will retry: %s", job_id, error)
    else:
        await store.upkeep.removed(*folders)

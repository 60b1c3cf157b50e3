"""class Summaries: summaries by a language model behind OpenAI's chat completions API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
import orjson

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.jobs.results import Results
from serve_app.models.job import Job, SummaryState
from serve_app.models.storage_paths import summary_key
from serve_app.runner.loops import every
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

IN_FLIGHT = 4
HOLD_S = 900.0  # visibility timeout of a claimed summary
REPLY_S = 600.0
IDLE_S = 1.0
RETRIES_S = (2.0, 15.0, 60.0)


@dataclass(frozen=True, slots=True)
class SummaryModel:
    """A model of the operator's own."""

    base_url: str
    model: str
    key: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)  # by id; `{transcript}` stands for the text


class SummaryFailed(Exception):
    pass


class Summaries:
    """Writer of due summaries. Several run side by side."""

    def __init__(
        self, store: Store, artifacts: Artifacts, model: SummaryModel, retries_s: tuple[float, ...] = RETRIES_S
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._results = Results(artifacts)
        self._model = model
        self._retries_s = retries_s  # delay before each retry
        self._in_flight: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()  # a summary has ended, and another may begin

    async def run(self) -> None:
        """Write summaries until cancelled. One that is cut off is due again when its hold expires."""
        headers = {"Authorization": f"Bearer {self._model.key}"} if self._model.key else {}
        async with httpx.AsyncClient(timeout=REPLY_S, headers=headers, trust_env=False) as http:
            try:
                await every(IDLE_S, lambda: self._take(http), "summary queue", self._wake)
            finally:
                tasks = list(self._in_flight)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, http: httpx.AsyncClient) -> None:
        for job_id in await self._store.summaries.take(IN_FLIGHT - len(self._in_flight), HOLD_S):
            task = asyncio.create_task(self._summarise(http, job_id))
            self._in_flight.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._wake.set()

    async def _summarise(self, http: httpx.AsyncClient, job_id: str) -> None:
        try:
            job = await self._store.jobs.get(job_id)
            if job is None or job.transcript is None or job.spec.summary is None:
                await self._store.summaries.note(job_id, SummaryState.FAILED, "There is nothing to summarise.")
                return
            state, message, wait_s = await self._attempt(http, job, job.spec.summary)
            if not await self._store.summaries.note(job_id, state, message, wait_s):  # purged meanwhile
                await self._artifacts.threads.run(self._artifacts.delete, summary_key(job_id))
            log.info("job_id=%s summary %s %s", job_id, state, message)
        except StoreUnavailable as outage:
            log.warning("job_id=%s Redis unavailable, summary will be retried when its hold expires: %s", job_id, outage)
        except Exception:
            log.exception("job_id=%s summary failed, retrying when its hold expires", job_id)

    async def _attempt(self, http: httpx.AsyncClient, job: Job, prompt_id: str) -> tuple[SummaryState, str, float]:
        """State, error and delay of the next attempt."""
        try:
            async with asyncio.timeout(REPLY_S):
                text = await self._complete(http, job, prompt_id)
            await self._artifacts.threads.run(self._artifacts.put, summary_key(job.id), text.encode())
        except StoreUnavailable:
            raise
        except Exception as error:  # counts as an attempt: one that is not noted would be repeated for ever
            if not isinstance(error, SummaryFailed | RequestError | TimeoutError):
                log.exception("job_id=%s summary failed", job.id)
            retry = job.summary_tries < len(self._retries_s)
            message = str(error) if isinstance(error, SummaryFailed | RequestError) else "The service could not make it."
            if retry:
                return SummaryState.PENDING, message, self._retries_s[job.summary_tries]
            return SummaryState.FAILED, message, 0.0
        return SummaryState.COMPLETED, "", 0.0

    async def _complete(self, http: httpx.AsyncClient, job: Job, prompt_id: str) -> str:
        prompt = self._model.prompts.get(prompt_id)
        if prompt is None:
            raise SummaryFailed("Its prompt template is no longer there.")
        transcript = await self._results.transcript(job)
        content = prompt.replace("{transcript}", transcript.text)
        body = {"model": self._model.model, "messages": [{"role": "user", "content": content}]}
        try:
            response = await http.post(f"{self._model.base_url.rstrip('/')}/chat/completions", json=body)
            response.raise_for_status()
            text = orjson.loads(response.content)["choices"][0]["message"]["content"]
        except httpx.HTTPStatusError as error:
            raise SummaryFailed(f"The model's server answered {error.response.status_code}.") from error
        except httpx.HTTPError as error:
            raise SummaryFailed("The model's server cannot be reached.") from error
        except (ValueError, LookupError, TypeError) as error:
            raise SummaryFailed("The model's server gave no chat completion.") from error
        if not isinstance(text, str) or not text.strip():
            raise SummaryFailed("The model said nothing.")
        return text.strip()

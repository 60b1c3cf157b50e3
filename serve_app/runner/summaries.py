"""Summaries of what was said, by a language model of the operator's own: any server that speaks OpenAI's chat completions.

They are made after their job has ended, whatever becomes of them: a transcript waits for no summary.
"""

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
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

AT_ONCE, HOLD_S, ANSWER_S, IDLE_S = 4, 900.0, 600.0, 1.0
RETRIES_S = (2.0, 15.0, 60.0)
"""The waits before each further try."""


@dataclass(frozen=True, slots=True)
class SummaryModel:
    """Where summaries are written: the API's base URL, the model there, its key; prompts by id, in which `{transcript}`
    stands for what was said."""

    base_url: str
    model: str
    key: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)


class SummaryFailed(Exception):
    """The model gave none; one sentence."""


class Summaries:
    """Makes what is due, as long as it runs. Several run side by side."""

    def __init__(
        self, store: Store, artifacts: Artifacts, writer: SummaryModel, retries_s: tuple[float, ...] = RETRIES_S
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._results = Results(artifacts)
        self._writer = writer
        self._retries_s = retries_s

    async def run(self) -> None:
        """Make summaries until cancelled. One that is cut off is due again when its hold is over."""
        making: set[asyncio.Task[None]] = set()
        headers = {"Authorization": f"Bearer {self._writer.key}"} if self._writer.key else {}
        async with httpx.AsyncClient(timeout=ANSWER_S, headers=headers, trust_env=False) as http:
            try:
                while True:
                    try:
                        for job_id in await self._store.summaries.take(AT_ONCE - len(making), HOLD_S):
                            task = asyncio.create_task(self._make(http, job_id))
                            making.add(task)
                            task.add_done_callback(making.discard)
                    except StoreUnavailable as outage:
                        log.warning("no summaries taken: %s", outage)
                    except Exception:  # a loop that ends would leave all that follow unmade
                        log.exception("no summaries taken")
                    await asyncio.sleep(IDLE_S)
            finally:
                for task in making:
                    task.cancel()
                await asyncio.gather(*making, return_exceptions=True)

    async def _make(self, http: httpx.AsyncClient, job_id: str) -> None:
        try:
            job = await self._store.jobs.get(job_id)
            if job is None or job.transcript is None or job.spec.summary is None:
                await self._store.summaries.note(job_id, SummaryState.FAILED, "There is nothing to summarise.")
                return
            state, why, wait_s = SummaryState.COMPLETED, "", 0.0
            try:
                async with asyncio.timeout(ANSWER_S):
                    text = await self._written(http, job, job.spec.summary)
                await asyncio.to_thread(self._artifacts.put, summary_key(job_id), text.encode())
            except StoreUnavailable:
                raise
            except Exception as error:  # each counts as a try: one that does not would be made for ever
                if not isinstance(error, SummaryFailed | RequestError | TimeoutError):
                    log.exception("job_id=%s has no summary", job_id)
                again = job.summary_tries < len(self._retries_s)
                state = SummaryState.PENDING if again else SummaryState.FAILED
                why = str(error) if isinstance(error, SummaryFailed | RequestError) else "The service could not make it."
                wait_s = self._retries_s[job.summary_tries] if again else 0.0
            if not await self._store.summaries.note(job_id, state, why, wait_s):  # purged meanwhile
                await asyncio.to_thread(self._artifacts.delete, summary_key(job_id))
            log.info("job_id=%s summary %s %s", job_id, state, why)
        except StoreUnavailable as outage:
            log.warning("job_id=%s summary left to its hold: %s", job_id, outage)

    async def _written(self, http: httpx.AsyncClient, job: Job, prompt_id: str) -> str:
        prompt = self._writer.prompts.get(prompt_id)
        if prompt is None:
            raise SummaryFailed("Its prompt template is no longer there.")
        transcript = await self._results.transcript(job)
        said = prompt.replace("{transcript}", transcript.text)
        body = {"model": self._writer.model, "messages": [{"role": "user", "content": said}]}
        try:
            answer = await http.post(f"{self._writer.base_url.rstrip('/')}/chat/completions", json=body)
            answer.raise_for_status()
            text = orjson.loads(answer.content)["choices"][0]["message"]["content"]
        except httpx.HTTPStatusError as error:
            raise SummaryFailed(f"The model's server answered {error.response.status_code}.") from error
        except httpx.HTTPError as error:
            raise SummaryFailed("The model's server cannot be reached.") from error
        except (ValueError, LookupError, TypeError) as error:
            raise SummaryFailed("The model's server gave no chat completion.") from error
        if not isinstance(text, str) or not text.strip():
            raise SummaryFailed("The model said nothing.")
        return text.strip()

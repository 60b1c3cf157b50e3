"""OpenAI's API, used by OpenAI's own package with only its base URL and key changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.audio import TranscriptionVerbose, TranslationVerbose

from serve_app.local.valkey import Valkey
from serve_app.models.event import EventKind
from serve_app.models.job import Phase
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from tests.lib.app import ME
from tests.service.conftest import MAX_UPLOAD_BYTES, Served


@pytest.fixture
async def key(valkey: Valkey, served: Served) -> AsyncIterator[str]:
    """An API key of the app's owner."""
    keys = ApiKeys(redis := connect(valkey.url))
    yield await keys.create(ME.owner, ME.tenant, ["speech:transcriptions:read", "speech:transcriptions:write"])
    await redis.aclose()


@pytest.fixture
async def client(served: Served, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def text_of(served: Served) -> str:
    """Text of the newest job's transcript."""
    jobs, _ = await served.app.jobs.page(ME, limit=1, cursor=None)
    return (await served.app.jobs.transcript(ME, jobs[0].id)).text


async def test_a_file_becomes_text(client: openai.AsyncOpenAI, served: Served, sample: Path) -> None:
    transcript = await client.audio.transcriptions.create(model="whisper-1", file=sample)
    assert transcript.text.split() == (await text_of(served)).split()
    assert transcript.usage
    assert (transcript.usage.type, getattr(transcript.usage, "seconds", 0)) == ("duration", 58)


async def test_the_synchronous_client_in_a_thread(served: Served, key: str, sample: Path) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as client:
        transcript = await asyncio.to_thread(lambda: client.audio.transcriptions.create(model="fake", file=sample))
    assert transcript.text.split() == (await text_of(served)).split()


@pytest.mark.parametrize("format", ["text", "srt", "vtt"])
async def test_formats_are_text(client: openai.AsyncOpenAI, served: Served, sample: Path, format: Any) -> None:
    transcript: Any = await client.audio.transcriptions.create(model="fake", file=sample, response_format=format)
    assert isinstance(transcript, str)
    first = (await text_of(served)).split()[0]
    assert first in transcript
    assert transcript.startswith({"text": first, "srt": "1\n00:00:00", "vtt": "WEBVTT"}[format])


async def test_verbose_json_has_segments_and_words(client: openai.AsyncOpenAI, sample: Path) -> None:
    transcript = await client.audio.transcriptions.create(
        model="fake",
        file=sample,
        response_format="verbose_json",
        language="de",
        temperature=0.2,
        timestamp_granularities=["word", "segment"],
    )
    assert isinstance(transcript, TranscriptionVerbose)
    assert (transcript.language, round(transcript.duration)) == ("german", 57)
    assert transcript.segments
    assert transcript.words
    assert [s.id for s in transcript.segments] == list(range(len(transcript.segments)))
    assert {s.temperature for s in transcript.segments} == {0.2}
    assert all(s.start < s.end for s in transcript.segments)
    assert " ".join(word.word for word in transcript.words) == transcript.text


@pytest.mark.parametrize(
    ("granularities", "segments", "words"), [([], True, False), (["segment"], True, False), (["word"], False, True)]
)
async def test_granularities_are_those_requested(
    client: openai.AsyncOpenAI, sample: Path, granularities: Any, segments: bool, words: bool
) -> None:
    options = {"timestamp_granularities": granularities} if granularities else {}
    transcript = await client.audio.transcriptions.create(
        model="fake", file=sample, response_format="verbose_json", **options
    )
    assert (transcript.segments is not None, transcript.words is not None) == (segments, words)


async def test_deltas_add_up_to_the_whole_text(client: openai.AsyncOpenAI, served: Served, sample: Path) -> None:
    stream = await client.audio.transcriptions.create(model="fake", file=sample, stream=True)
    events = [event async for event in stream]
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(getattr(event, "delta", "") for event in deltas) == done.text
    assert done.text.split() == (await text_of(served)).split()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_translations(client: openai.AsyncOpenAI, served: Served, sample: Path) -> None:
    transcript = await client.audio.translations.create(model="whisper-1", file=sample, response_format="verbose_json")
    assert isinstance(transcript, TranslationVerbose)
    assert transcript.segments
    jobs, _ = await served.app.jobs.page(ME, limit=1, cursor=None)
    assert jobs[0].spec.task == "translate"


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in await client.models.list()] == ["fake", "second"]
    assert (await client.models.retrieve("whisper-1")).id == "fake"
    assert (await client.models.retrieve("other")).id == "second"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")


async def test_an_alias_selects_its_model(client: openai.AsyncOpenAI, served: Served, sample: Path) -> None:
    await client.audio.transcriptions.create(model="other", file=sample)
    jobs, _ = await served.app.jobs.page(ME, limit=1, cursor=None)
    assert jobs[0].spec.model == "second"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.audio.transcriptions.create(model="broken", file=sample)
    assert (caught.value.code, caught.value.type) == ("model_not_found", "not_found_error")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"language": "xx"}, None),
        ({"temperature": 2}, "temperature"),
        ({"response_format": "pdf"}, "response_format"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"include": ["logprobs"]}, "include"),
        ({"stream": True, "response_format": "srt"}, "response_format"),
        ({"extra_body": {"nonsense": "1"}}, "nonsense"),
    ],
)
async def test_an_unsupported_request_is_a_400_that_names_the_parameter(
    client: openai.AsyncOpenAI, served: Served, sample: Path, options: Any, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.transcriptions.create(model="fake", file=sample, **options)
    assert caught.value.param == param
    assert caught.value.body
    assert served.app.artifacts.keys("jobs") == []


async def test_a_file_that_is_not_audio_is_a_400(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.transcriptions.create(model="fake", file=("x.mp3", b"this is no sound"))
    assert caught.value.code == "unsupported_media"


async def test_a_failure_in_a_stream_is_an_error_event(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIError, match="format that can be read"):
        async for _ in await client.audio.transcriptions.create(model="fake", file=("x.mp3", b"no sound"), stream=True):
            pass


async def test_a_wrong_key_and_a_missing_scope_are_refused(served: Served, valkey: Valkey, sample: Path) -> None:
    reader = await ApiKeys(redis := connect(valkey.url)).create("r", "t", ["speech:transcriptions:read"])
    for key, kind in (("wrong", openai.AuthenticationError), (reader, openai.PermissionDeniedError)):
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(kind):
                await client.audio.transcriptions.create(model="fake", file=sample)
    await redis.aclose()


async def test_a_file_that_is_too_large_is_a_413(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.audio.transcriptions.create(model="fake", file=("x", bytes(MAX_UPLOAD_BYTES + 1)))
    assert caught.value.status_code == 413


async def disconnected(served: Served, calling: asyncio.Task[httpx.Response]) -> str:
    """Disconnect `calling` while its job is transcribed, and return the job's id."""
    async with asyncio.timeout(20):
        while not (jobs := (await served.app.jobs.page(ME, limit=1, cursor=None))[0]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await served.app.until_phase(jobs[0].id, Phase.TRANSCRIBING)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    return jobs[0].id


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_disconnects_cancels_the_job(served: Served, key: str, sample: Path, stream: bool) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=30) as http:
        data = {"model": "fake", "stream": str(stream).lower()}
        calling = asyncio.create_task(http.post("/v1/audio/transcriptions", data=data, files={"file": sample.read_bytes()}))
        job_id = await disconnected(served, calling)
    events = await served.app.follow(job_id)
    assert events[-1].kind is EventKind.DONE
    assert (await served.app.jobs.get(ME, job_id)).phase is Phase.CANCELLED


async def test_its_jobs_are_in_the_native_api_too(
    client: openai.AsyncOpenAI, served: Served, key: str, sample: Path
) -> None:
    raw = await client.audio.transcriptions.with_raw_response.create(model="fake", file=sample)
    answer = await served.http.get(f"/v1/jobs/{raw.headers['x-job-id']}", headers={"Authorization": f"Bearer {key}"})
    assert answer.json()["phase"] == "completed"


async def test_a_client_with_an_idempotency_key_can_disconnect_and_come_back(served: Served, key: str, sample: Path) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "one"}
    data, files = {"model": "fake"}, {"file": sample.read_bytes()}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=30) as http:
        calling = asyncio.create_task(http.post("/v1/audio/transcriptions", data=data, files=files))
        job_id = await disconnected(served, calling)
        again = asyncio.create_task(http.post("/v1/audio/transcriptions", data=data, files=files))
        for _ in range(100):
            served.app.stages.gate.release()
        answer = await again
    assert (answer.status_code, answer.headers["x-job-id"]) == (200, job_id)

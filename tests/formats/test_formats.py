"""Transcripts in every format, and stored transcripts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from batching.types import Segment, Transcript, Word
from deployments.storage.artifacts import Artifacts
from serve_app.formats import FORMATS, clock
from serve_app.jobs.transcript_file import StoredTranscript, read_transcript, replay, write_transcript
from serve_app.models.event import Event, EventKind, dump_segment

WORDS = (Word("Hello", 0.0, 0.42, 0.98), Word("there.", 0.5, 1.2, 0.91))
TRANSCRIPT = Transcript(
    (
        Segment(0, 0.0, 1.2, "Hello there.", 0.9, "en", WORDS),
        Segment(1, 59.9996, 3600.25, "a <b> & c\n-->  d\te", 0.5, "en", flags=("repeated",)),
    ),
    "en",
    3601.5,
)
EMPTY = Transcript((), None, 2.0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("text", "Hello there.\na <b> & c --> d e\n"),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:01,200\nHello there.\n\n2\n00:01:00,000 --> 01:00:00,250\na <b> & c --> d e\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.200\nHello there.\n\n"
            "00:01:00.000 --> 01:00:00.250\na &lt;b&gt; &amp; c --&gt; d e\n",
        ),
        ("tsv", "start\tend\ttext\n0\t1200\tHello there.\n60000\t3600250\ta <b> & c --> d e\n"),
    ],
)
def test_a_transcript_is_written_exactly(name: str, text: str) -> None:
    assert FORMATS[name].render(TRANSCRIPT) == text


@pytest.mark.parametrize(("name", "text"), [("text", ""), ("srt", ""), ("vtt", "WEBVTT\n"), ("tsv", "start\tend\ttext\n")])
def test_an_empty_transcript_is_still_a_file(name: str, text: str) -> None:
    assert FORMATS[name].render(EMPTY) == text


def test_json_holds_every_field() -> None:
    assert json.loads(FORMATS["json"].render(TRANSCRIPT)) == {
        "language": "en",
        "duration_s": 3601.5,
        "text": TRANSCRIPT.text,
        "segments": [
            {
                "id": 0,
                "start": 0.0,
                "end": 1.2,
                "text": "Hello there.",
                "confidence": 0.9,
                "language": "en",
                "words": [
                    {"text": "Hello", "start": 0.0, "end": 0.42, "confidence": 0.98},
                    {"text": "there.", "start": 0.5, "end": 1.2, "confidence": 0.91},
                ],
                "flags": [],
            },
            {
                "id": 1,
                "start": 59.9996,
                "end": 3600.25,
                "text": "a <b> & c\n-->  d\te",
                "confidence": 0.5,
                "language": "en",
                "flags": ["repeated"],
            },
        ],
    }


def test_json_of_an_empty_transcript_has_no_segments() -> None:
    assert FORMATS["json"].render(EMPTY) == '{"language":null,"duration_s":2.0,"text":"","segments":[]}'


@pytest.mark.parametrize("name", list(FORMATS))
def test_non_ascii_text_is_not_escaped(name: str) -> None:
    transcript = Transcript((Segment(0, 0, 1, "Schöne Grüße 你好", 1.0),), "de", 1.0)
    assert "Schöne Grüße 你好" in FORMATS[name].render(transcript)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "00:00:00.000"),
        (0.0004, "00:00:00.000"),
        (0.9996, "00:00:01.000"),
        (59.9994, "00:00:59.999"),
        (59.9996, "00:01:00.000"),
        (3599.9996, "01:00:00.000"),
        (86_399.999, "23:59:59.999"),
        (360_000.0, "100:00:00.000"),
    ],
)
def test_clock_carries_when_it_rounds_up(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def segment_event(event_id: str, segment: Segment) -> Event:
    return Event(event_id, EventKind.SEGMENT, dump_segment(segment))


async def stream(*events: Event) -> AsyncIterator[Event]:
    for event in events:
        yield event


async def test_a_stored_transcript_is_read_back_as_it_was(artifacts: Artifacts) -> None:
    events = [
        segment_event("5-0", TRANSCRIPT.segments[0]),
        Event("5-1", EventKind.PROGRESS, "{}"),
        segment_event("6-0", TRANSCRIPT.segments[1]),
    ]
    stored = await write_transcript(artifacts, "j1", stream(*events), TRANSCRIPT.duration_s)
    assert stored == StoredTranscript(2, "en")
    assert read_transcript(artifacts, "j1") == TRANSCRIPT


async def test_a_transcript_of_silence_is_read_back_as_it_was(artifacts: Artifacts) -> None:
    assert await write_transcript(artifacts, "j1", stream(), 2.0) == StoredTranscript(0, None)
    assert read_transcript(artifacts, "j1") == EMPTY


async def test_a_transcript_longer_than_a_chunk_is_read_whole(artifacts: Artifacts) -> None:
    segments = tuple(Segment(n, n, n + 1, "long " * 200 + str(n), 1.0, "en") for n in range(2500))
    await write_transcript(artifacts, "j1", stream(*(segment_event(f"{s.id}-0", s) for s in segments)), 2500.0)
    assert read_transcript(artifacts, "j1").segments == segments


async def test_the_language_is_the_one_with_the_most_speech(artifacts: Artifacts) -> None:
    segments = [Segment(0, 0, 1, "a", 1, "en"), Segment(1, 1, 2, "b", 1, "en"), Segment(2, 2, 9, "c", 1, "de")]
    stored = await write_transcript(artifacts, "j1", stream(*(segment_event(f"{s.id}-0", s) for s in segments)), 9.0)
    assert stored.language == "de"
    assert read_transcript(artifacts, "j1").language == "de"


async def test_an_interrupted_transcript_is_not_stored(artifacts: Artifacts) -> None:
    async def broken() -> AsyncIterator[Event]:
        yield segment_event("1-0", TRANSCRIPT.segments[0])
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await write_transcript(artifacts, "j1", broken(), 1.0)
    assert artifacts.keys("jobs") == []
    with pytest.raises(FileNotFoundError):
        read_transcript(artifacts, "j1")


@pytest.mark.parametrize(
    ("after", "ids"),
    [("0", ["9-0", "9-2", "10-0"]), ("9-0", ["9-2", "10-0"]), ("9-1", ["9-2", "10-0"]), ("9-10", ["10-0"]), ("10-0", [])],
)
async def test_a_stored_transcript_is_replayed_after_any_event(artifacts: Artifacts, after: str, ids: list[str]) -> None:
    events = [
        segment_event(event_id, Segment(n, n, n + 1, "a\nb", 1.0)) for n, event_id in enumerate(("9-0", "9-2", "10-0"))
    ]
    await write_transcript(artifacts, "j1", stream(*events), 3.0)
    assert [e.id for e in replay(artifacts, "j1", after)] == ids
    expected = {e.id: json.loads(e.data) for e in events}
    assert all(json.loads(e.data) == expected[e.id] for e in replay(artifacts, "j1", after))


async def test_segments_of_channels_are_sorted_by_time_and_their_cues_count_up(artifacts: Artifacts) -> None:
    segments = [
        Segment(0, 0.0, 2.0, "left", 1.0, channel=0),
        Segment(1, 3.0, 4.0, "left again", 1.0, channel=0),
        Segment(2, 0.5, 1.0, "right", 1.0, channel=1),
        Segment(3, 3.0, 5.0, "both at once", 1.0, channel=1),
    ]
    await write_transcript(artifacts, "j1", stream(*(segment_event(f"{s.id + 1}-0", s) for s in segments)), 5.0)
    transcript = read_transcript(artifacts, "j1")
    assert [segment.id for segment in transcript.segments] == [0, 2, 1, 3]
    assert transcript.text == "left right left again both at once"
    srt = FORMATS["srt"].render(transcript)
    assert [cue.split("\n")[0] for cue in srt.split("\n\n")] == ["1", "2", "3", "4"]
    assert [s["channel"] for s in json.loads(FORMATS["json"].render(transcript))["segments"]] == [0, 1, 0, 1]
    assert [event.id for event in replay(artifacts, "j1", "0")] == ["1-0", "2-0", "3-0", "4-0"]

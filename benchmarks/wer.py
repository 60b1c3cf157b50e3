"""How right, on everything? Ours against faster-whisper's most careful way, by set and language.

    python -m benchmarks.wer [--sets short,lang,long,stereo,nonspeech] [--compute-type int8]

Both hear every recording of a set, with the language left to them; the other way is sequential decoding with a beam of
5, for long recordings and those without speech with its filter for silence. Words wrong (letters, in languages that put no
spaces), and for recordings in which nobody speaks the words that were invented. Exit status 1 where ours are more than a
point worse in a language, or where words are invented.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.lib.corpus import Recording, error_rate, recordings
from benchmarks.lib.faster_whisper_baseline import Heard, ask
from benchmarks.lib.harness import say, table

FILTERED = ("long", "stereo", "nonspeech")
MOST_POINTS = 1.0


@dataclass(frozen=True, slots=True)
class Group:
    """The recordings of a set in one language, and what two heard in them."""

    name: str
    recordings: Sequence[Recording]
    ours: Sequence[str]
    theirs: Sequence[str]

    @property
    def silent(self) -> bool:
        """Whether nobody speaks in them."""
        return not any(recording.text for recording in self.recordings)

    @property
    def figures(self) -> tuple[float, float]:
        """Ours and theirs: per cent wrong, or words invented."""
        if self.silent:
            return float(len(" ".join(self.ours).split())), float(len(" ".join(self.theirs).split()))
        return 100 * error_rate(self.recordings, self.ours), 100 * error_rate(self.recordings, self.theirs)

    @property
    def missed(self) -> bool:
        """Whether ours are not as right as they should be."""
        ours, theirs = self.figures
        return ours > 0 if self.silent else ours - theirs > MOST_POINTS

    def row(self) -> tuple[str, ...]:
        """Of the table."""
        ours, theirs = self.figures
        seconds = sum(recording.duration_s for recording in self.recordings)
        unit = " words" if self.silent else " %"
        shown = [f"{figure:.0f}{unit}" if self.silent else f"{figure:.2f}{unit}" for figure in (ours, theirs)]
        return self.name, str(len(self.recordings)), f"{seconds:.0f} s", *shown, "missed" if self.missed else ""


def groups(kind: str, compute_type: str) -> Iterator[Group]:
    """A set, language by language."""
    found = [r for r in recordings(kind) if r.text is not None]
    if not found:
        say(f"{kind}: no recordings here")
        return
    paths = [recording.path for recording in found]
    ours = ask("ours", paths, "--at-once", "--compute-type", compute_type)
    theirs = ask("beam", paths, *(("--vad",) if kind in FILTERED else ()))
    for language in sorted({recording.language or "" for recording in found}):
        rows = [i for i, recording in enumerate(found) if (recording.language or "") == language]
        yield Group(f"{kind} {language}".strip(), *_rows(rows, found, ours, theirs))


def _rows(
    rows: Sequence[int], found: Sequence[Recording], ours: Heard, theirs: Heard
) -> tuple[list[Recording], list[str], list[str]]:
    return [found[i] for i in rows], [ours.texts[i] for i in rows], [theirs.texts[i] for i in rows]


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="short,lang,long,stereo,nonspeech")
    parser.add_argument("--compute-type", default="auto", help="ours; theirs is int8")
    arguments = parser.parse_args()
    measured: list[Group] = []
    for kind in arguments.sets.split(","):
        for group in groups(kind, arguments.compute_type):
            say(" ".join(group.row()))
            measured.append(group)
    head = ("recordings", "files", "audio", "ours", "sequential, beam 5", "")
    table("Words wrong, by set and language (base; theirs int8)", head, [group.row() for group in measured])
    return int(any(group.missed for group in measured))


if __name__ == "__main__":
    sys.exit(main())

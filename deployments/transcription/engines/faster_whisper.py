"""Whisper on CTranslate2, with faster-whisper's tokenizer and word alignment."""

# Unlike faster-whisper's batched pipeline it decodes with timestamps and returns where the text stops (`Decode.ends_at`),
# so that the rest of a clip can be decoded too, and it encodes no more silence than the decoder needs.

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens, merge_punctuations

from batching.language_vote import CERTAIN
from batching.quality import BEAM_SIZE, Strategy, needs_beam_search
from batching.sentence_split import may_split, split
from batching.types import SAMPLE_RATE, Segment
from deployments.errors import ModelUnavailable
from deployments.messages import EngineInfo
from deployments.transcription.engines.base import Clip, Decode, EngineConfig
from deployments.transcription.engines.batch_memory import clips_that_fit, concurrent_batches, keep_memory
from deployments.transcription.engines.bf16_encoder import Encoder, has_amx
from deployments.transcription.engines.ct2_weights import read_weights
from deployments.transcription.engines.encoder_context import context_frames
from deployments.transcription.engines.mel import FRAMES, FRAMES_PER_S, features
from deployments.transcription.engines.token_timestamps import TIME_STEP, split_at_timestamps, with_words
from deployments.transcription.weights import locate

# Token limit of a text: a clip that loops must not cost its batch the decoder's full length.
TOKENS_PER_S, TOKENS_SPARE = 8, 24
CLIP_S = 30.0
DETECTION_STRIDE = 3  # language detection on every third encoder position: neighbours are much alike
# Compute type of a CPU that CTranslate2 does not have: our own encoder in bfloat16, CTranslate2's decoder in int8.
INT8_BFLOAT16 = "int8_bfloat16"
PREPENDED, APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"


def choose_device(device: str) -> str:
    """Resolve `auto` to cuda where there is a usable GPU. Raises ModelUnavailable for cuda without one."""
    gpus = ctranslate2.get_cuda_device_count()
    if device == "cuda" and not gpus:
        raise ModelUnavailable("The device cuda was asked for, but no usable NVIDIA GPU was found: set MURMUR_DEVICE=cpu.")
    if device == "auto":
        return "cuda" if gpus else "cpu"
    return device


def choose_compute_type(compute_type: str, device: str) -> str:
    """Resolve `auto` to the fastest compute type."""
    if compute_type != "auto":
        return compute_type
    return "float16" if device == "cuda" else INT8_BFLOAT16 if has_amx() else "int8"


class FasterWhisper:
    """Loaded Whisper model."""

    # On a CPU each worker is one thread: several are faster than one worker with as many threads.

    def __init__(self, config: EngineConfig) -> None:
        device = choose_device(config.device)
        compute_type = choose_compute_type(config.compute_type, device)
        directory = locate(config.model, config.cache_dir)
        keep_memory()
        self.workers = concurrent_batches(device, config.workers)
        own_encoder = (device, compute_type) == ("cpu", INT8_BFLOAT16)
        self._encoder = _bf16_encoder(config.model, directory) if own_encoder else None
        # `Any`: faster-whisper's annotations fail under mypy --strict.
        self._model: Any = WhisperModel(
            str(directory),
            device=device,
            compute_type="int8" if self._encoder else compute_type,
            cpu_threads=1,
            num_workers=self.workers,
        )
        self.info = EngineInfo(config.model, device, compute_type, tuple(self._model.supported_languages))
        self._multilingual = bool(self._model.model.is_multilingual)
        self._features = features(self._model.feature_extractor, device)
        self._beam_below = config.beam_below
        weights_bytes = (directory / "model.bin").stat().st_size
        self.batch = config.batch or clips_that_fit(device, weights_bytes, self.workers)
        # On a CPU a batch holds half as many full 30 s clips, which bounds the wait for the next batch.
        self.batch_s = self.batch * CLIP_S * (1.0 if device == "cuda" else 0.5)
        if device == "cuda":
            self._smoke_test(config.model)

    def _smoke_test(self, model: str) -> None:
        # A missing driver or library shows only in the first run: it must fail the start, not a job.
        try:
            self._encode(self._features([np.zeros(SAMPLE_RATE, np.float32)], FRAMES))
        except RuntimeError as error:
            raise ModelUnavailable(f"The model {model} does not run on this GPU: {error}. Set MURMUR_DEVICE=cpu.") from error

    def decode(self, clips: Sequence[Clip]) -> list[Decode]:
        """Decode clips of at most 30 s."""
        frames = max(self._frames(clip) for clip in clips)
        encoded = self._encode(self._features([clip.audio for clip in clips], frames))
        languages = self._languages(clips, encoded)
        tokenizers = [self._tokenizer(clip.options.task, code) for clip, (code, _) in zip(clips, languages, strict=True)]
        limit = self._token_limit(clips)
        results = self._generate(clips, encoded, tokenizers, limit)
        self._beam_search(clips, encoded, tokenizers, results, limit)
        decodes = [
            self._to_decode(clip, tokenizer, result, probability, limit, frames)
            for clip, tokenizer, result, (_, probability) in zip(clips, tokenizers, results, languages, strict=True)
        ]
        rows = [
            i
            for i, (clip, decode) in enumerate(zip(clips, decodes, strict=True))
            if clip.options.word_timestamps or any(map(may_split, decode.segments))
        ]
        if rows:
            self._align(rows, clips, encoded, tokenizers, decodes, results)
        return decodes

    def _encode(self, batch: Any) -> Any:
        if self.info.device == "cuda":
            # Not WhisperModel.encode, which takes numpy arrays only: these features are on the GPU already.
            return self._model.model.encode(batch)
        # One clip at a time on a CPU: a batch takes as long, and more memory than the caches hold.
        encode = self._encoder or self._model.encode
        return ctranslate2.StorageView.from_array(np.concatenate([np.asarray(encode(clip[None])) for clip in batch]))

    def kind(self, clip: Clip) -> Hashable:
        """Encoder cost and kind of strategy."""
        # Retries are batched with retries, so first attempts never wait for beam search.
        strategy = clip.strategy
        return self._frames(clip), strategy if strategy.full_context else strategy.beam_size

    @staticmethod
    def _frames(clip: Clip) -> int:
        if clip.strategy.full_context:
            return FRAMES
        return context_frames(len(clip.audio) / SAMPLE_RATE, clip.options.language)

    def _select(self, encoded: Any, index: Any) -> Any:
        """Index (clips, positions, width), on its device."""
        if self.info.device != "cuda":
            return ctranslate2.StorageView.from_array(np.ascontiguousarray(np.asarray(encoded)[index]))
        import torch

        torch.cuda.synchronize()  # CTranslate2 wrote it on a CUDA stream of its own
        return ctranslate2.StorageView.from_array(torch.as_tensor(encoded, device="cuda")[index].contiguous())

    def _tokenizer(self, task: str, language: str) -> Any:
        return Tokenizer(self._model.hf_tokenizer, self._multilingual, task=task, language=language)

    def _languages(self, clips: Sequence[Clip], encoded: Any) -> list[tuple[str, float]]:
        """(language, probability) per clip."""
        if not self._multilingual:
            return [("en", 1.0)] * len(clips)
        if all(clip.options.language for clip in clips):
            return [(clip.options.language or "en", 1.0) for clip in clips]
        candidates = self._model.model.detect_language(self._select(encoded, np.s_[:, ::DETECTION_STRIDE]))
        best = [languages[0] for languages in candidates]
        return [_language(clip, token.strip("<|>"), p) for clip, (token, p) in zip(clips, best, strict=True)]

    def _token_limit(self, clips: Sequence[Clip]) -> int:
        longest = max(len(clip.audio) for clip in clips) / SAMPLE_RATE
        return min(int(longest * TOKENS_PER_S) + TOKENS_SPARE, int(self._model.max_length) // 2)

    def _generate(self, clips: Sequence[Clip], encoded: Any, tokenizers: Sequence[Any], limit: int) -> list[Any]:
        # CTranslate2 decodes clips of one strategy and one prompt length in one call.
        prompts = [self._prompt(clip, tokenizer) for clip, tokenizer in zip(clips, tokenizers, strict=True)]
        groups: dict[tuple[Strategy, int], list[int]] = {}
        for i, (clip, prompt) in enumerate(zip(clips, prompts, strict=True)):
            groups.setdefault((clip.strategy, len(prompt)), []).append(i)
        results: dict[int, Any] = {}
        for (strategy, length), rows in groups.items():
            generated = self._model.model.generate(
                encoded if len(rows) == len(clips) else self._select(encoded, rows),
                [prompts[i] for i in rows],
                beam_size=strategy.beam_size,
                sampling_temperature=strategy.temperature or 1.0,
                sampling_topk=0 if strategy.temperature else 1,
                # CTranslate2 leaves half of this to the text, or what the prompt does not take.
                max_length=min(self._model.max_length, max(2 * limit, length + limit)),
                suppress_blank=True,
                suppress_tokens=list(get_suppressed_tokens(tokenizers[0], [-1])),
                max_initial_timestamp_index=round(1.0 / TIME_STEP),
                return_scores=True,
                return_no_speech_prob=True,
            )
            results.update(zip(rows, generated, strict=True))
        return [results[i] for i in range(len(clips))]

    def _beam_search(
        self, clips: Sequence[Clip], encoded: Any, tokenizers: Sequence[Any], results: list[Any], limit: int
    ) -> None:
        # Replaces greedy results of low probability.
        rows = []
        for i, (clip, tokenizer, result) in enumerate(zip(clips, tokenizers, results, strict=True)):
            seconds = len(clip.audio) / SAMPLE_RATE
            greedy = clip.strategy in (Strategy(), Strategy(full_context=True))
            quality = _log_probability(result), result.no_speech_prob, tokenizer.language_code
            if greedy and needs_beam_search(*quality, seconds, self._beam_below):
                rows.append(i)
        if not rows:
            return
        unlikely = [replace(clips[i], strategy=Strategy(beam_size=BEAM_SIZE)) for i in rows]
        searched = self._generate(unlikely, self._select(encoded, rows), [tokenizers[i] for i in rows], limit)
        for i, result in zip(rows, searched, strict=True):
            results[i] = result

    def _prompt(self, clip: Clip, tokenizer: Any) -> list[int]:
        # Half of the decoder's length is for hotwords and the prompt: hotwords first, then the end of the prompt.
        prompt, hotwords = clip.options.prompt, clip.options.hotwords
        previous = tokenizer.encode(" " + prompt.strip()) if prompt else []
        room = self._model.max_length // 2 - 1
        room -= min(room, len(tokenizer.encode(" " + hotwords.strip()))) if hotwords else 0
        previous = previous[max(len(previous) - room, 0) :]
        tokens: list[int] = self._model.get_prompt(tokenizer, previous, hotwords=hotwords)
        return tokens

    def _to_decode(
        self, clip: Clip, tokenizer: Any, result: Any, language_probability: float, limit: int, frames: int
    ) -> Decode:
        tokens: list[int] = result.sequences_ids[0]
        seconds = len(clip.audio) / SAMPLE_RATE
        capped = len(tokens) >= limit
        confidence = round(math.exp(min(_log_probability(result), 0.0)), 3)
        sentences, ends_at = split_at_timestamps(tokens, tokenizer.timestamp_begin, seconds, capped)
        language = tokenizer.language_code
        segments = (Segment(0, begin, end, tokenizer.decode(words), confidence, language) for begin, end, words in sentences)
        return Decode(
            segments=tuple(s for s in segments if s.text.strip()),
            language=language,
            language_probability=language_probability,
            log_probability=_log_probability(result),
            no_speech=result.no_speech_prob,
            tokens=sum(token < tokenizer.eot for token in tokens),
            ends_at=ends_at,
            full_context=frames == FRAMES,
            capped=capped,
        )

    def _align(
        self,
        rows: Sequence[int],
        clips: Sequence[Clip],
        encoded: Any,
        tokenizers: Sequence[Any],
        decodes: list[Decode],
        results: Sequence[Any],
    ) -> None:
        """Add word times from the decoder's cross-attention to some clips, and split their sentences."""
        for sequence in {tuple(tokenizers[i].sot_sequence) for i in rows}:
            same = [i for i in rows if tuple(tokenizers[i].sot_sequence) == sequence]
            text = [[token for token in results[i].sequences_ids[0] if token < tokenizers[i].eot] for i in same]
            # Two frames are one encoder position, the least that alignment takes.
            frames = [max(2, min(FRAMES, len(clips[i].audio) * FRAMES_PER_S // SAMPLE_RATE)) for i in same]
            words = self._model.find_alignment(
                tokenizers[same[0]],
                [tokens or [tokenizers[same[0]].eot - 1] for tokens in text],
                self._select(encoded, same),
                frames,
            )
            for i, aligned in zip(same, words, strict=True):
                merge_punctuations(aligned, PREPENDED, APPENDED)
                decode = with_words(decodes[i], aligned)
                decodes[i] = replace(decode, segments=tuple(sentence for s in decode.segments for sentence in split(s)))


def _bf16_encoder(model: str, directory: Path) -> Encoder:
    try:
        return Encoder(read_weights(directory / "model.bin", "encoder/"))
    except (KeyError, ValueError) as error:
        message = f"The weights of {model} are not laid out as our encoder expects ({error}): set MURMUR_COMPUTE_TYPE=int8."
        raise ModelUnavailable(message) from error


def _log_probability(result: Any) -> float:
    # CTranslate2's score is the mean over the tokens; this one counts the end token as well, as OpenAI's code does.
    tokens = len(result.sequences_ids[0])
    return float(result.scores[0]) * tokens / (tokens + 1)


def _language(clip: Clip, detected: str, probability: float) -> tuple[str, float]:
    """Requested language, else the detected one, else (if uncertain) the likely one."""
    if clip.options.language:
        return clip.options.language, 1.0
    if clip.options.likely_language and probability < CERTAIN:
        return clip.options.likely_language, 0.0
    return detected, probability

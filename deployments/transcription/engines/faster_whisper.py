"""Whisper on CTranslate2, with faster-whisper's tokenizer and alignment; the batch is ours.

Unlike faster-whisper's own batched pipeline it decodes with timestamps and says where the text stops (`Decode.ends_at`),
so that what a clip still holds after that can be decoded too; and the encoder hears no more silence than it needs.
"""

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

from batching.language_vote import SURE
from batching.quality import BEAM, Try, worth_a_search
from batching.sentence_split import cut, is_cut
from batching.types import SAMPLE_RATE, Segment
from deployments.errors import ModelUnavailable
from deployments.messages import EngineInfo
from deployments.transcription.engines.base import Clip, Decode, EngineConfig
from deployments.transcription.engines.batch_memory import clips_that_fit, keep_memory
from deployments.transcription.engines.bf16_encoder import Encoder, has_amx
from deployments.transcription.engines.ct2_weights import read_weights
from deployments.transcription.engines.encoder_context import context_frames
from deployments.transcription.engines.mel import FRAMES, FRAMES_PER_S, features
from deployments.transcription.engines.token_timestamps import TIME_STEP, split_at_timestamps, with_words
from deployments.transcription.weights import locate

TOKENS_PER_S, TOKENS_SPARE = 8, 24
"""A clip may take this many tokens: one that loops must not cost its whole batch the decoder's full length."""
CLIP_S = 30.0
THINNED = 3
"""Of so many positions of the encoder one is enough to tell a language by: neighbours say much the same."""
MIXED = "int8_bfloat16"
"""Of a CPU, which CTranslate2 has no such type for: it decodes in int8 what our own encoder makes of the sound."""
PREPENDED, APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"


def choose_device(wanted: str) -> str:
    """`auto` → cuda where there is a usable one. ModelUnavailable where cuda was asked for and is not there."""
    cards = ctranslate2.get_cuda_device_count()
    if wanted == "cuda" and not cards:
        raise ModelUnavailable("The device cuda was asked for, but no usable NVIDIA GPU was found: set MURMUR_DEVICE=cpu.")
    return "cuda" if cards and wanted == "auto" else "cpu" if wanted == "auto" else wanted


def choose_compute_type(wanted: str, device: str) -> str:
    """`auto` → float16 on a GPU; on a CPU int8, with the encoder in bfloat16 where that is faster."""
    if wanted != "auto":
        return wanted
    return "float16" if device == "cuda" else MIXED if has_amx() else "int8"


class FasterWhisper:
    """One loaded model. On a CPU every worker is one thread: several single threads beat one pool of them."""

    def __init__(self, config: EngineConfig) -> None:
        device = choose_device(config.device)
        compute_type = choose_compute_type(config.compute_type, device)
        directory = locate(config.model, config.cache_dir)
        keep_memory()
        self._encoder = _own_encoder(config.model, directory) if (device, compute_type) == ("cpu", MIXED) else None
        # `Any`: faster-whisper ships annotations that do not hold under strict checking.
        self._model: Any = WhisperModel(
            str(directory),
            device=device,
            compute_type="int8" if self._encoder else compute_type,
            cpu_threads=1,
            num_workers=config.workers,
        )
        self.info = EngineInfo(config.model, device, compute_type, tuple(self._model.supported_languages))
        self._multilingual = bool(self._model.model.is_multilingual)
        self._features = features(self._model.feature_extractor, device)
        self._beam_below = config.beam_below
        self.workers = config.workers
        self.batch = config.batch or clips_that_fit(device, (directory / "model.bin").stat().st_size)
        # Half of full clips on a CPU: a batch of long ones is full sooner, and who comes next waits no longer for it.
        self.batch_s = self.batch * CLIP_S * (1.0 if device == "cuda" else 0.5)
        if device == "cuda":
            self._prove(config.model)

    def _prove(self, model: str) -> None:
        """Encode once: a driver or library that is missing shows only then, and must end the start, not a job."""
        try:
            self._encode(self._features([np.zeros(SAMPLE_RATE, np.float32)], FRAMES))
        except RuntimeError as error:
            raise ModelUnavailable(f"The model {model} does not run on this GPU: {error}. Set MURMUR_DEVICE=cpu.") from error

    def decode(self, clips: Sequence[Clip]) -> list[Decode]:
        """Decode clips of at most 30 s, a result each, in order."""
        frames = max(self._frames(clip) for clip in clips)
        encoded = self._encode(self._features([clip.audio for clip in clips], frames))
        heard = self._heard(clips, encoded)
        tokenizers = [self._tokenizer(clip.options.task, code) for clip, (code, _) in zip(clips, heard, strict=True)]
        room = self._room(clips)
        results = self._generate(clips, encoded, tokenizers, room)
        self._search(clips, encoded, tokenizers, results, room)
        decodes = [
            self._read(clip, tokenizer, result, probability, room, frames)
            for clip, tokenizer, result, (_, probability) in zip(clips, tokenizers, results, heard, strict=True)
        ]
        asking = [
            i
            for i, (clip, decode) in enumerate(zip(clips, decodes, strict=True))
            if clip.options.word_timestamps or any(map(is_cut, decode.segments))
        ]
        if asking:
            self._align(asking, clips, encoded, tokenizers, decodes, results)
        return decodes

    def _encode(self, batch: Any) -> Any:
        """A CPU encodes one clip after another: together they take as long, and memory that no cache holds."""
        if self.info.device == "cuda":
            # Not WhisperModel.encode, which takes numpy arrays only: these features are on the card already.
            return self._model.model.encode(batch)
        encode = self._encoder or self._model.encode
        return ctranslate2.StorageView.from_array(np.concatenate([np.asarray(encode(one[None])) for one in batch]))

    def kind(self, clip: Clip) -> Hashable:
        """Clips of a batch cost the encoder the same. What is heard again goes with its like: whoever is heard for the first
        time need not wait for a beam or another temperature."""
        return self._frames(clip), clip.how if clip.how.whole else clip.how.beam

    @staticmethod
    def _frames(clip: Clip) -> int:
        return FRAMES if clip.how.whole else context_frames(len(clip.audio) / SAMPLE_RATE, clip.options.language)

    def _part(self, encoded: Any, which: Any) -> Any:
        """What an index chooses of (clips, positions, values) that were encoded, where it lies."""
        if self.info.device != "cuda":
            return ctranslate2.StorageView.from_array(np.ascontiguousarray(np.asarray(encoded)[which]))
        import torch

        torch.cuda.synchronize()  # CTranslate2 wrote it on a stream of its own
        return ctranslate2.StorageView.from_array(torch.as_tensor(encoded, device="cuda")[which].contiguous())

    def _tokenizer(self, task: str, language: str) -> Any:
        return Tokenizer(self._model.hf_tokenizer, self._multilingual, task=task, language=language)

    def _heard(self, clips: Sequence[Clip], encoded: Any) -> list[tuple[str, float]]:
        """The language of each clip with its probability: the one given, else the one heard, else (in doubt) the likely
        one."""
        if not self._multilingual:
            return [("en", 1.0)] * len(clips)
        if all(clip.options.language for clip in clips):
            return [(clip.options.language or "en", 1.0) for clip in clips]
        found = [each[0] for each in self._model.model.detect_language(self._part(encoded, np.s_[:, ::THINNED]))]
        return [_settled(clip, token.strip("<|>"), p) for clip, (token, p) in zip(clips, found, strict=True)]

    def _room(self, clips: Sequence[Clip]) -> int:
        """Tokens that a text of the batch may have."""
        longest = max(len(clip.audio) for clip in clips) / SAMPLE_RATE
        return min(int(longest * TOKENS_PER_S) + TOKENS_SPARE, int(self._model.max_length) // 2)

    def _generate(self, clips: Sequence[Clip], encoded: Any, tokenizers: Sequence[Any], room: int) -> list[Any]:
        """Texts of a batch. CTranslate2 takes together what begins at the same place of the prompt and is decoded one way;
        the others follow, with what the encoder made of them."""
        prompts = [self._prompt(clip, tokenizer) for clip, tokenizer in zip(clips, tokenizers, strict=True)]
        alike: dict[tuple[Try, int], list[int]] = {}
        for i, (clip, prompt) in enumerate(zip(clips, prompts, strict=True)):
            alike.setdefault((clip.how, len(prompt)), []).append(i)
        results: dict[int, Any] = {}
        for (how, length), rows in alike.items():
            heard = encoded if len(rows) == len(clips) else self._part(encoded, rows)
            found = self._model.model.generate(
                heard,
                [prompts[i] for i in rows],
                beam_size=how.beam,
                sampling_temperature=how.temperature or 1.0,
                sampling_topk=0 if how.temperature else 1,
                # CTranslate2 leaves the text half of this, or what the prompt does not take of it.
                max_length=min(self._model.max_length, max(2 * room, length + room)),
                suppress_blank=True,
                suppress_tokens=list(get_suppressed_tokens(tokenizers[0], [-1])),
                max_initial_timestamp_index=round(1.0 / TIME_STEP),
                return_scores=True,
                return_no_speech_prob=True,
            )
            results.update(zip(rows, found, strict=True))
        return [results[i] for i in range(len(clips))]

    def _search(self, clips: Sequence[Clip], encoded: Any, tokenizers: Sequence[Any], results: list[Any], room: int) -> None:
        """Put in the place of greedy results that are not likely enough what a beam finds."""
        unlikely = []
        for i, (clip, tokenizer, result) in enumerate(zip(clips, tokenizers, results, strict=True)):
            seconds = len(clip.audio) / SAMPLE_RATE
            greedy = clip.how in (Try(), Try(whole=True))
            heard = _likelihood(result), result.no_speech_prob, tokenizer.language_code
            if greedy and worth_a_search(*heard, seconds, self._beam_below):
                unlikely.append(i)
        if not unlikely:
            return
        again = [replace(clips[i], how=Try(beam=BEAM)) for i in unlikely]
        found = self._generate(again, self._part(encoded, unlikely), [tokenizers[i] for i in unlikely], room)
        for i, result in zip(unlikely, found, strict=True):
            results[i] = result

    def _prompt(self, clip: Clip, tokenizer: Any) -> list[int]:
        """Hotwords come first, as many as fit into half of what the decoder holds; the prompt's end gets what they leave."""
        prompt, hotwords = clip.options.prompt, clip.options.hotwords
        before = tokenizer.encode(" " + prompt.strip()) if prompt else []
        room = self._model.max_length // 2 - 1
        room -= min(room, len(tokenizer.encode(" " + hotwords.strip()))) if hotwords else 0
        tokens: list[int] = self._model.get_prompt(tokenizer, before[max(len(before) - room, 0) :], hotwords=hotwords)
        return tokens

    def _read(self, clip: Clip, tokenizer: Any, result: Any, language_probability: float, room: int, frames: int) -> Decode:
        tokens: list[int] = result.sequences_ids[0]
        seconds = len(clip.audio) / SAMPLE_RATE
        capped = len(tokens) >= room
        confidence = round(math.exp(min(_likelihood(result), 0.0)), 3)
        sentences, ends_at = split_at_timestamps(tokens, tokenizer.timestamp_begin, seconds, capped)
        language = tokenizer.language_code
        segments = (Segment(0, begin, end, tokenizer.decode(words), confidence, language) for begin, end, words in sentences)
        return Decode(
            segments=tuple(s for s in segments if s.text.strip()),
            language=language,
            language_probability=language_probability,
            log_probability=_likelihood(result),
            no_speech=result.no_speech_prob,
            tokens=sum(token < tokenizer.eot for token in tokens),
            ends_at=ends_at,
            whole=frames == FRAMES,
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
        """Word times from the decoder's cross-attention for some of the clips, and their sentences cut by them."""
        for sequence in {tuple(tokenizers[i].sot_sequence) for i in rows}:
            same = [i for i in rows if tuple(tokenizers[i].sot_sequence) == sequence]
            text = [[token for token in results[i].sequences_ids[0] if token < tokenizers[i].eot] for i in same]
            # Two frames make one position of the encoder, and the alignment needs one.
            frames = [max(2, min(FRAMES, len(clips[i].audio) * FRAMES_PER_S // SAMPLE_RATE)) for i in same]
            words = self._model.find_alignment(
                tokenizers[same[0]],
                [tokens or [tokenizers[same[0]].eot - 1] for tokens in text],
                self._part(encoded, same),
                frames,
            )
            for i, found in zip(same, words, strict=True):
                merge_punctuations(found, PREPENDED, APPENDED)
                spoken = with_words(decodes[i], found)
                decodes[i] = replace(spoken, segments=tuple(piece for s in spoken.segments for piece in cut(s)))


def _own_encoder(model: str, directory: Path) -> Encoder:
    try:
        return Encoder(read_weights(directory / "model.bin", "encoder/"))
    except (KeyError, ValueError) as error:
        message = f"The weights of {model} are not laid out as our encoder expects ({error}): set MURMUR_COMPUTE_TYPE=int8."
        raise ModelUnavailable(message) from error


def _likelihood(result: Any) -> float:
    """The mean log-probability of a text's tokens and of its end."""
    tokens = len(result.sequences_ids[0])
    return float(result.scores[0]) * tokens / (tokens + 1)


def _settled(clip: Clip, heard: str, probability: float) -> tuple[str, float]:
    if clip.options.language:
        return clip.options.language, 1.0
    if clip.options.likely_language and probability < SURE:
        return clip.options.likely_language, 0.0
    return heard, probability

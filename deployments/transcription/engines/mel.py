"""Whisper's features: log-mel spectrograms of a batch, where the model runs.

The arithmetic is that of Radford et al. 2022 as OpenAI published it: 25 ms Hann windows every 10 ms, mel bands, log10,
the loudest 8 decades of a clip, scaled to about [-1, 1]. As in faster-whisper, what follows a clip's sound is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from faster_whisper.audio import pad_or_trim
from numpy.typing import NDArray

from batching.types import SAMPLE_RATE

FRAMES = 3000
"""What the encoder was trained on: 30 s."""
FRAMES_PER_S = 100
HOP = SAMPLE_RATE // FRAMES_PER_S
WINDOW = 400
TAIL = 160
"""Silent samples that faster-whisper puts after a clip."""

Floats = NDArray[np.float32]
Features = Callable[[Sequence[Floats], int], Any]
"""Clips of 16 kHz samples and a number of frames → (clips, mel bands, frames) of float32."""


def features(extractor: Any, device: str) -> Features:
    """How to compute them on a device: on a CPU with faster-whisper's `extractor`, which costs little there; on a GPU, where
    that would be what all else waits for, with torch and the extractor's mel filters."""
    if device == "cuda":
        return torch_features(extractor.mel_filters, device)
    return lambda clips, frames: np.stack([pad_or_trim(np.asarray(extractor(a), np.float32), frames) for a in clips])


def torch_features(filters: Floats, device: str) -> Features:
    """Features with torch; `filters` are (bands, WINDOW // 2 + 1)."""
    import ctranslate2
    import torch

    hann = torch.hann_window(WINDOW, device=device)
    bands = torch.from_numpy(np.ascontiguousarray(filters)).to(device)

    def batch(clips: Sequence[Floats], frames: int) -> Any:
        lengths = torch.tensor([min(len(audio) // HOP + 1, frames) for audio in clips], device=device)
        sound = np.zeros((len(clips), max(map(len, clips)) + TAIL), np.float32)
        for row, audio in zip(sound, clips, strict=True):
            row[: len(audio)] = audio
        spectrum = torch.stft(torch.from_numpy(sound).to(device), WINDOW, HOP, window=hann, return_complex=True)
        log = (bands @ spectrum.abs()[:, :, :frames].square()).clamp_min(1e-10).log10()
        inside = torch.arange(log.shape[2], device=device) < lengths[:, None]
        loudest = log.masked_fill(~inside[:, None], -torch.inf).amax(dim=(1, 2), keepdim=True)
        scaled = torch.where(inside[:, None], (torch.maximum(log, loudest - 8.0) + 4.0) / 4.0, 0.0)
        padded = torch.nn.functional.pad(scaled, (0, frames - scaled.shape[2])).contiguous()
        if device == "cpu":
            return padded.numpy()
        # CTranslate2 reads them on a stream of its own.
        torch.cuda.current_stream().synchronize()
        return ctranslate2.StorageView.from_array(padded)

    return batch

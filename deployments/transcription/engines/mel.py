"""Whisper's features: log-mel spectrograms of a batch, computed on the model's device."""

# After Radford et al. 2022 and OpenAI's code: 25 ms Hann windows every 10 ms, mel bands, log10, the loudest 8 decades of a
# clip, scaled to about [-1, 1]. As in faster-whisper, frames after a clip's end are 0.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from faster_whisper.audio import pad_or_trim
from numpy.typing import NDArray

from batching.types import SAMPLE_RATE

FRAMES = 3000  # the encoder's full context, 30 s
FRAMES_PER_S = 100
HOP = SAMPLE_RATE // FRAMES_PER_S
WINDOW = 400
TAIL = 160  # silent samples that faster-whisper appends to a clip

Floats = NDArray[np.float32]
Features = Callable[[Sequence[Floats], int], Any]  # (samples of clips, frames) → float32 (clips, mel bands, frames)


def features(extractor: Any, device: str) -> Features:
    """Feature extraction for a device, with the mel filters of faster-whisper's `extractor`."""
    # On a GPU the numpy extractor would be the bottleneck; on a CPU its cost is small.
    if device == "cuda":
        return torch_features(extractor.mel_filters, device)
    return lambda clips, frames: np.stack([pad_or_trim(np.asarray(extractor(a), np.float32), frames) for a in clips])


def torch_features(filters: Floats, device: str) -> Features:
    """Feature extraction with torch; `filters` are (bands, WINDOW // 2 + 1)."""
    import ctranslate2
    import torch

    hann = torch.hann_window(WINDOW, device=device)
    bands = torch.from_numpy(np.ascontiguousarray(filters)).to(device)

    def batch(clips: Sequence[Floats], frames: int) -> Any:
        lengths = torch.tensor([min(len(audio) // HOP + 1, frames) for audio in clips], device=device)
        padded = np.zeros((len(clips), max(map(len, clips)) + TAIL), np.float32)
        for row, audio in zip(padded, clips, strict=True):
            row[: len(audio)] = audio
        spectrum = torch.stft(torch.from_numpy(padded).to(device), WINDOW, HOP, window=hann, return_complex=True)
        log = (bands @ spectrum.abs()[:, :, :frames].square()).clamp_min(1e-10).log10()
        inside = torch.arange(log.shape[2], device=device) < lengths[:, None]
        loudest = log.masked_fill(~inside[:, None], -torch.inf).amax(dim=(1, 2), keepdim=True)
        scaled = torch.where(inside[:, None], (torch.maximum(log, loudest - 8.0) + 4.0) / 4.0, 0.0)
        mel = torch.nn.functional.pad(scaled, (0, frames - scaled.shape[2])).contiguous()
        if device == "cpu":
            return mel.numpy()
        torch.cuda.current_stream().synchronize()  # CTranslate2 reads them on a CUDA stream of its own
        return ctranslate2.StorageView.from_array(mel)

    return batch

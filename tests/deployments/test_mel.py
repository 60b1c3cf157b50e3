"""Log-mel features: torch computes the same as faster-whisper's numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

from batching.types import SAMPLE_RATE
from deployments.storage.pcm import to_float
from deployments.transcription.engines.mel import FRAMES, features, torch_features
from tests.lib.media import decode_at_once


@pytest.mark.parametrize("bands", [80, 128])
def test_torch_computes_the_same_as_numpy(ffmpeg: str, sample: Path, bands: int) -> None:
    speech = to_float(decode_at_once(ffmpeg, sample))
    # A length of whole frames, one that is not, and a clip as long as the encoder's context.
    clips = [speech[: 4 * SAMPLE_RATE], speech[77 : 77 + 33_333], 0.01 * speech[: 30 * SAMPLE_RATE]]
    extractor = FeatureExtractor(feature_size=bands)
    expected = features(extractor, "cpu")(clips, FRAMES)
    actual = torch_features(extractor.mel_filters, "cpu")(clips, FRAMES)
    assert actual.shape == expected.shape == (3, bands, FRAMES)
    for clip, numpy_mel, torch_mel in zip(clips, expected, actual, strict=True):
        # The last frame contains the clip's reflection in numpy, and silence in torch.
        frames = len(clip) * 100 // SAMPLE_RATE - 1
        assert np.abs(numpy_mel[:, :frames] - torch_mel[:, :frames]).max() < 2e-3
        assert not torch_mel[:, frames + 2 :].any()


def test_fewer_frames_are_the_first_ones(ffmpeg: str, sample: Path) -> None:
    clip = to_float(decode_at_once(ffmpeg, sample))[: 5 * SAMPLE_RATE]
    extractor = FeatureExtractor()
    whole, part = (features(extractor, "cpu")([clip], frames) for frames in (FRAMES, 1000))
    assert np.array_equal(whole[:, :, :1000], part)
    assert torch_features(extractor.mel_filters, "cpu")([clip], 1000).shape == (1, 80, 1000)

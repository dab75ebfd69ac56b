"""What only a CUDA device can show; run with ``pytest -m gpu``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from isod.config import SAMPLERS, DetectorConfig, RunConfig, TrainingConfig
from isod.data.store import CropStore
from isod.training.local import run_local
from isod.training.run import Trainer, to_device

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CONFIG = RunConfig(
    sampler=SAMPLERS["UIS"],
    detector=DetectorConfig(width=0.25, blocks=(1, 1, 1, 1)),
    training=TrainingConfig(iterations=30, batch_size=16, validate_every=10, lag=2, flip=True),
)


def test_a_run_on_cuda_learns_and_writes_its_files(tiny_store: str, tmp_path: Path):
    run_local(CONFIG, tiny_store, tmp_path / "run", device=torch.device("cuda"), workers=2, threads=1)
    losses = pd.read_csv(tmp_path / "run" / "metrics.csv")["train/loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert pd.read_parquet(tmp_path / "run" / "examples.parquet")["draw_count"].sum() == 30 * 16


def test_the_forward_pass_is_bfloat16_and_the_scores_are_those_of_the_cpu_to_its_precision(tiny_store: str):
    store = CropStore.open(tiny_store)
    crops = store.split("train").read(np.arange(8))
    cuda, cpu = (Trainer(CONFIG, store.meta, torch.device(name)) for name in ("cuda", "cpu"))
    images, _ = to_device(crops, cuda.device)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert cuda._forward(images)[0].dtype == torch.bfloat16
    np.testing.assert_allclose(cuda.score(crops), cpu.score(crops), rtol=0.05, atol=0.02)

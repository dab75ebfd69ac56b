"""Every detector in the training loop: trained, validated, saved, opened again and triaged by the same code."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from isod.config.settings import DetectorConfig
from isod.detector.model import DETECTORS
from isod.detector.saved import load_model
from isod.sampling.samplers import SAMPLERS
from isod.vocabulary import MODEL
from tests.training.tiny_run import run_here, tiny_run, weights_of

SMALL = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1), pyramid_channels=64, anchor_scale=0.25, proposals=16)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_short_run_leaves_a_model_that_opens(name, tiny_store, tmp_path):
    """Crops of 160×48, drawn by uncertainty: scores of logits and IoU, of the pass that trains."""
    config = tiny_run(iterations=4, batch_size=4, validate_every=4, ema=0.9, warmup=2)
    config = replace(config, detector=replace(SMALL, name=name), sampler=SAMPLERS["UIS-RB"])
    run_here(config, tiny_store, tmp_path)
    losses = pd.read_csv(tmp_path / "metrics.csv").iloc[-1]
    assert losses["train/class_loss"] > 0
    assert losses["train/loss"] > 0
    examples = pd.read_parquet(tmp_path / "examples.parquet")
    drawn = examples["draw_count"] > 0
    assert drawn.sum() == 16  # the first epoch goes through the examples one after the other
    assert (examples["mean_importance"][drawn] > 0).sum() >= 12  # a crop without objects may score 0
    model, description = load_model(tmp_path / MODEL)
    assert description.detector == config.detector
    assert all(torch.equal(value, weights_of(tmp_path)[key]) for key, value in model.state_dict().items())
    with torch.inference_mode():
        (found,) = model.detect(torch.zeros(1, 3, 48, 160, dtype=torch.uint8))
    assert set(found) == {"boxes", "scores", "labels"}

"""Sizes of runs and sweeps, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from isod.config.settings import DetectorConfig, HoldoutConfig, Preset, ResourceConfig, TrainingConfig

# What the thesis's detector trains under in all presets but the thesis's own (docs/detectors.md, "The recipe").
_RECIPE = TrainingConfig(lr=3e-3, warmup=50, ema=0.99, loss_normalisation="balanced")
_DETECTOR = DetectorConfig(quality="iou")
# sizes of the thesis's detector, and of the others where detector.name asks for one
_SMALL_DETECTOR = replace(
    _DETECTOR, width=0.25, blocks=(1, 1, 1, 1), pyramid_channels=64, anchor_scale=0.5, proposals=64
)
_SMALL_HOLDOUT = HoldoutConfig(batch_size=32, detector=replace(_SMALL_DETECTOR, width=0.125, quality="none"))
PRESETS: dict[str, Preset] = {
    # two CPU cores, minutes: demo data at an eighth of the far region's size
    "demo": Preset(
        detector=_SMALL_DETECTOR,
        training=replace(_RECIPE, iterations=300, batch_size=32, validate_every=25, lag=2),
        resources=ResourceConfig(decode_workers=1, cpus_per_worker=0.25, cpus_per_trial=0.75),
        holdout=_SMALL_HOLDOUT,
        seeds=3,
    ),
    # two CPU cores, hours: real images of about 256×144
    "small": Preset(
        detector=_SMALL_DETECTOR,
        training=replace(_RECIPE, iterations=1500, batch_size=32, validate_every=75, lag=2, flip=True),
        resources=ResourceConfig(decode_workers=1, cpus_per_worker=0.25, cpus_per_trial=0.75),
        holdout=replace(_SMALL_HOLDOUT, epochs=30),
        seeds=5,
    ),
    # a GPU, minutes a run: real images of about 512×288, at the thesis's depth and width. One run does not fill a GPU,
    # as it waits for its validations and for its host, so five share one. Nor do its processes fill three cores: the
    # trainer waits for its crops, and they wait for its validations.
    "medium": Preset(
        detector=_DETECTOR,
        training=replace(_RECIPE, iterations=1500, batch_size=64, validate_every=75, flip=True, compiled=True),
        resources=ResourceConfig(decode_workers=2, cpus_per_worker=0.5, cpus_per_trial=0.5, gpus_per_trial=0.2),
        holdout=HoldoutConfig(epochs=30),
        seeds=5,
    ),
    # §4.5 to the letter: 350 epochs of 703 batches, about 246 thousand iterations; a lag that feeds every worker
    "thesis": Preset(
        detector=DetectorConfig(),
        training=TrainingConfig(iterations=350 * 703, validate_every=703, lag=10, compiled=True),
        resources=ResourceConfig(decode_workers=6, cpus_per_trial=1.0, gpus_per_trial=1.0),
        seeds=10,
    ),
}

# Settings of TrainingConfig under which any other detector trains, where the thesis's has others: each has the loss of
# its library, at a learning rate that suits them all.
OTHER_DETECTORS_TRAINING: Mapping[str, Any] = {"lr": 1e-3, "loss_normalisation": "location"}

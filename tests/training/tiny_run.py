"""Runs that take seconds on the tiny store."""

from isod.config.settings import DetectorConfig, RunConfig, TrainingConfig
from isod.sampling.samplers import SAMPLERS

DETECTOR = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1))
UNTIMED = ["time/seconds"]  # what two equal runs need not share


def tiny_run(sampler: str = "UIS", **training) -> RunConfig:
    """Batches of 8 of the 64 crops, so that the sequential first epoch ends with step 7."""
    settings = {"iterations": 40, "batch_size": 8, "validate_every": 15, "lag": 2, "lr": 2e-3} | training
    return RunConfig(sampler=SAMPLERS[sampler], detector=DETECTOR, training=TrainingConfig(**settings))

"""Runs that take seconds on the tiny store."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from isod.config.settings import DetectorConfig, ResourceConfig, RunConfig, TrainingConfig
from isod.data.store.split import CropStore
from isod.sampling.samplers import SAMPLERS
from isod.training.folder import RunFolder
from isod.training.run import Run
from isod.training.trainer import Trainer
from isod.vocabulary import MODEL

CPU = torch.device("cpu")
DETECTOR = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1))
UNTIMED = ["time/seconds", "time/cpu_seconds"]  # what two equal runs need not share


def tiny_run(sampler: str = "UIS", **training) -> RunConfig:
    """Batches of 8 of the 64 crops, so that the sequential first epoch ends with step 7."""
    settings = {"iterations": 40, "batch_size": 8, "validate_every": 15, "lag": 2, "lr": 2e-3} | training
    return RunConfig(sampler=SAMPLERS[sampler], detector=DETECTOR, training=TrainingConfig(**settings))


class Reports:
    """A reporter that keeps the rows, and calls a function with each iteration that it hears of."""

    def __init__(self, listen=lambda iteration: None):
        self.rows, self.replayed, self._listen = [], [], listen

    def report(self, metrics, iteration):
        self.rows.append((iteration, metrics))
        self._listen(iteration)

    def replay(self, rows):
        self.replayed.extend(rows)


def run_here(config, store, out, reporter=None, *, resume=False, workers=1, **settings):
    """Train in this process, on the CPU, on one thread; the folder with the results."""
    run = Run(
        config=config,
        store=CropStore.open(store),
        folder=RunFolder(Path(out)),
        device=CPU,
        resources=ResourceConfig(decode_workers=workers, **settings),
    )
    run.start(reporter or Reports(), resume=resume)
    return out


def weights_of(folder):
    """The state dict that a finished run left."""
    return load_file(Path(folder) / MODEL / "model.safetensors")


def limited(fits):
    """A trainer on a device where a pass raises what CUDA raises unless ``fits(images, training)``."""

    class Limited(Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for name in ("loss", "detect"):
                setattr(self.model, name, self._checked(getattr(self.model, name)))

        def _checked(self, call):
            def checked(images, *rest, **options):
                if not fits(images, self.model.training):
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                return call(images, *rest, **options)

            return checked

    return Limited

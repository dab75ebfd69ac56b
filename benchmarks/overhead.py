"""What a run's own book-keeping costs beside its training: records for the figures, checkpoints, MLflow.

    python -m benchmarks.overhead [--preset demo|small|thesis] [--height 48] [--width 160] [--rounds 20] [--device cpu]

The same steps on the same random crops are timed with and without the numbers that only figures and triage read
(per-example losses, margins, correlations, repeats), in turn, so that a drift of the machine hits both. A checkpoint
and one validation's call to MLflow (60 metrics, a new sqlite store) are timed by themselves and set against the
training time between two validations of the preset. MLflow is written to on the driver's own thread; training does not
wait for it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import torch
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from benchmarks.harness import medians, seconds, take_turns
from isod.config.presets import PRESETS
from isod.config.settings import RunConfig
from isod.data.store.crops import Crops
from isod.data.store.meta import StoreMeta
from isod.objects import Objects
from isod.sampling.samplers import SAMPLERS
from isod.sampling.schedule import DrawSchedule
from isod.sampling.table import Draw, ImportanceTable
from isod.training import trainer as trainer_module
from isod.training.checkpoint import Checkpoints
from isod.training.device import choose_device
from isod.training.statistics import RunStatistics
from isod.training.stream import Batch
from isod.training.trainer import Trainer

EXAMPLES = 89_976  # of the thesis's training split


def random_batch(batch_size: int, height: int, width: int) -> Batch:
    """Noise with three boxes an image."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, [width / 2, height / 2], (batch_size, 3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, [width / 2, height / 2], (batch_size, 3, 2))], axis=2)
    indices = rng.integers(0, EXAMPLES, batch_size)
    crops = Crops(
        indices=indices,
        images=rng.integers(0, 256, (batch_size, height, width, 3), dtype=np.uint8),
        objects=Objects.from_lists(list(boxes), list(rng.integers(1, 5, (batch_size, 3)))),
        unreadable=np.zeros(batch_size, bool),
    )
    ones = np.ones(batch_size)
    return Batch(0, Draw(indices, ones / EXAMPLES, ones, 0, 0), crops)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo", choices=list(PRESETS))
    parser.add_argument("--height", type=int, default=48)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args()
    preset, device = PRESETS[options.preset], choose_device(options.device)
    torch.set_num_threads(preset.resources.threads)
    config = RunConfig(sampler=SAMPLERS["UIS"], detector=preset.detector, training=preset.training)
    meta = StoreMeta(class_names=("a", "b", "c", "d"), crop_size=(options.height, options.width), source="random",
                     demo=True, settings={}, rows={}, lost={}, counts={})  # fmt: skip
    trainer, record = Trainer(config, meta, device), RunStatistics(EXAMPLES)
    batch = random_batch(preset.training.batch_size, options.height, options.width)
    size = preset.training.batch_size
    nothing = torch.zeros(size, device=device)

    def recorded() -> None:
        record.add(batch.draw.indices, trainer.step(batch))

    def bare() -> None:
        with (
            mock.patch.object(trainer_module, "example_losses", return_value=(nothing, nothing)),
            mock.patch.object(trainer_module, "object_margins", return_value=nothing),
        ):
            trainer.step(batch)

    works = {"with": lambda: seconds(recorded, device), "without": lambda: seconds(bare, device)}
    with_record, step = medians(take_turns(works, options.rounds, warm_up=1)).values()

    table = ImportanceTable(EXAMPLES, sampler=config.sampler, seed=0)
    if config.sampler.holdout:
        table.set_offset(np.zeros(EXAMPLES))
    schedule = DrawSchedule(table, batch_size=size, lag=preset.training.lag)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), {"preset": options.preset})

        def save() -> None:
            state = {**trainer.state_dict(), "table": schedule.state_dict(), "record": record.state_dict()}
            checkpoints.save(1, 0.0, state)

        checkpoint = median(seconds(save, device) for _ in range(5))
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        run_id = client.create_run("0").info.run_id

        def log() -> None:
            now = int(time.time() * 1000)
            client.log_batch(run_id, metrics=[Metric(f"metric/{i}", 0.5, now, now % 10**6) for i in range(60)])

        call = median(seconds(log, device) for _ in range(10))

    window = step * preset.training.validate_every
    every = max(window, checkpoint / preset.resources.checkpoint_share)
    print(
        f"Preset {options.preset}, batch {size} of {options.width}×{options.height}, {EXAMPLES} examples, "
        f"{torch.get_num_threads()} torch thread(s); a step takes {step * 1e3:.1f} ms, and there are "
        f"{preset.training.validate_every} between two validations."
    )
    print("\n| book-keeping | ms | share of the training time |\n|---|---|---|")
    print(f"| records for the figures, a step | {(with_record - step) * 1e3:.2f} | {(with_record / step - 1):.2%} |")
    print(f"| a checkpoint, one every {every:.0f} s | {checkpoint * 1e3:.0f} | {checkpoint / every:.2%} |")
    print(f"| MLflow, a validation (beside the training) | {call * 1e3:.0f} | {call / window:.2%} |")


if __name__ == "__main__":
    main()

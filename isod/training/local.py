"""One run in one process, written to a folder: what one debugs with, and what runs on a bare GPU machine."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from isod.config import RunConfig, flatten, require
from isod.data.store import CropSplit, CropStore
from isod.errors import InputError
from isod.sampling.schedule import DrawSchedule
from isod.training.examples import TrainingExamples, check_examples
from isod.training.holdout import training_examples
from isod.training.run import Trainer, ValidationCrops, train
from isod.training.stream import LocalStream


def output_folder(path: Path) -> Path:
    """The folder, made if need be, as an absolute path. Raises InputError if nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write to the folder {path} ({error.strerror}): choose another --out") from None
    return path.resolve()


def local_stream(config: RunConfig, split: CropSplit, examples: TrainingExamples, *, workers: int) -> LocalStream:
    """The run's own table over its examples, and the stream of its draws."""
    table = examples.table(config.sampler, seed=config.training.seed)
    training = config.training
    schedule = DrawSchedule(table, batch_size=training.batch_size, lag=training.lag, steps=training.iterations)
    return LocalStream(split, table, schedule, workers=workers)


def write_examples(path: Path, split: CropSplit, statistics: dict[str, NDArray]) -> None:
    """Per-example statistics as Parquet: index, frame_id, draw_count, mean_importance, last_step."""
    frame = pd.DataFrame({"index": np.arange(len(split)), "frame_id": split.annotations().frame_ids, **statistics})
    frame.to_parquet(path, index=False)


class MetricsTable:
    """metrics.csv: one row per validation, written as it comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] | None = None

    def append(self, metrics: dict[str, float], iteration: int) -> None:
        """Adds the row of one validation; the first row settles the columns."""
        row = {"iteration": iteration, **metrics}
        first = self._columns is None
        self._columns = self._columns or list(row)
        with self._path.open("w" if first else "a", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            if first:
                writer.writeheader()
            writer.writerow(row)


def run_local(
    config: RunConfig,
    store_uri: str,
    out: Path,
    *,
    device: torch.device,
    workers: int,
    threads: int,
    say: Callable[[str], None] = print,
) -> None:
    """Trains one sampler with one seed and writes config.json, metrics.csv, examples.parquet and model.pt to ``out``.

    Args:
        workers: threads that read and decode crops.
        threads: torch's CPU threads; part of what makes two runs equal to the last bit.
    Raises:
        InputError: a store that cannot be used, a batch larger than the data set, a folder that holds another run.
    """
    store = CropStore.open(store_uri)
    require(not (out / "metrics.csv").exists(), "--out must be a folder without an earlier run", str(out))
    split = store.split("train")
    check_examples(config, split)
    out = output_folder(out)
    (out / "config.json").write_text(json.dumps({"store": store_uri, **flatten(config)}, indent=2) + "\n")
    torch.set_num_threads(threads)
    examples = training_examples(config, store, device=device, workers=workers, cache=out / "holdout")
    stream = local_stream(config, split, examples, workers=workers)
    trainer = Trainer(config, store.meta, device)
    table = MetricsTable(out / "metrics.csv")

    def report(metrics: dict[str, float], iteration: int) -> None:
        table.append(metrics, iteration)
        say(
            f"iteration {iteration:>7}/{config.training.iterations}  loss {metrics['train/loss']:.4f}"
            f"  mAP {metrics['mAP']:.4f}  ESS/N {metrics['sampler/ess']:.3f}  {metrics['time/seconds']:.1f} s"
        )

    train(trainer, stream, ValidationCrops(store.split("val"), config.training.batch_size), report)
    write_examples(out / "examples.parquet", split, stream.statistics(config.training.iterations - 1))
    torch.save(trainer.model.state_dict(), out / "model.pt")

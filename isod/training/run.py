"""One run, from its settings to the folder with its results: the same for ``isod train``, a trial and a rank."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from isod.config.record import CONTENTS, changes, flatten
from isod.config.settings import RunConfig
from isod.data.store.split import CropSplit, CropStore
from isod.errors import InputError, require
from isod.files import absolute_uri, atomic_write, output_folder
from isod.training.checkpoint import Checkpoints, save_whole
from isod.training.decode import check_decoder
from isod.training.examples import TrainingExamples, check_examples, epoch_note
from isod.training.folder import Row, RunFolder
from isod.training.holdout import training_examples
from isod.training.loop import FREE, follow, out_of_memory, train
from isod.training.process import check_compiler, settle
from isod.training.ranks import state_of_rank_0
from isod.training.statistics import RunRecord
from isod.training.stream import WHOLE, Part, Stream, local_stream
from isod.training.trainer import Trainer
from isod.training.validation import ValidationCrops
from isod.vocabulary import EXAMPLES, METRICS, MODEL


def run_settings(config: RunConfig, store: CropStore) -> dict[str, str | int | float | bool]:
    """Everything that a run depends on, flat: config.json, and what a checkpoint must agree with."""
    return {"store": store.uri, CONTENTS: store.meta.contents, **flatten(config)}


class MetricsTable:
    """metrics.csv: one row per validation. Written whole each time, so that no interruption leaves half a row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, float]] = []
        if path.exists():
            try:
                self.rows = pd.read_csv(path).to_dict("records")  # type: ignore[assignment]
            except ValueError as error:
                raise InputError(f"{path} is damaged ({error}): start the run anew, in another folder") from None

    def keep(self, iteration: int) -> None:
        """Forget the rows after an iteration: those that the run will write again."""
        self.rows = [row for row in self.rows if row["iteration"] <= iteration]

    def append(self, metrics: dict[str, float], iteration: int) -> None:
        """Adds the row of one validation. Raises OSError if the file cannot be written; the row is then in the next."""
        self.rows.append({"iteration": iteration, **metrics})
        self.write()

    def write(self) -> None:
        """Every row so far. Raises OSError if that cannot be."""
        with atomic_write(self._path) as part:
            pd.DataFrame(self.rows).to_csv(part, index=False)

    def history(self) -> list[Row]:
        """(iteration, metrics) of every row."""
        return [(int(row["iteration"]), {k: v for k, v in row.items() if k != "iteration"}) for row in self.rows]


def write_examples(path: Path, split: CropSplit, statistics: dict[str, NDArray]) -> None:
    """Per-example statistics as Parquet: index, frame_id, draw_count, mean_importance, last_step, margin."""
    frame = pd.DataFrame({"index": np.arange(len(split)), "frame_id": split.annotations().frame_ids, **statistics})
    with atomic_write(path) as part:
        frame.to_parquet(part, index=False)


MakeStream = Callable[[TrainingExamples, "dict[str, Any] | None"], Stream]


def run_in_folder(
    config: RunConfig,
    store: CropStore,
    folder: RunFolder,
    make_stream: MakeStream,
    *,
    device: torch.device,
    workers: int,
    holdout_cache: Path,
    report: Callable[[dict[str, float], int], None],
    replay: Callable[[list[Row]], None] = lambda rows: None,
    checkpoint_share: float = 0.01,
    say: Callable[[str], None] = print,
    part: Part = WHOLE,
) -> None:
    """Train one run to its end, from its last checkpoint if the folder has one.

    Args:
        make_stream: the stream of the run's draws, from the examples and, after a restart, the saved table.
        workers: threads that decode crops for validation, and for a hold-out model.
        holdout_cache: where hold-out scores are kept for the runs that share them.
        report: called with the metrics and the iteration of each validation.
        replay: called once, first, with the validations that an earlier attempt left, if there was one.
        checkpoint_share: of the training time that checkpoints may take.
        part: rank 0's, where several processes share the run; the others ``follow_run``.
    Raises:
        InputError: a checkpoint of other settings, a GPU that does not decode, no compiler for a run that asks for
            one, or a network or batch that does not fit.
        FloatingPointError: the loss is not finite.
    """
    split = store.split("train")
    folder.path.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder.path, run_settings(config, store), share=checkpoint_share, say=say)
    table = MetricsTable(folder.path / METRICS)
    if folder.finished:
        replay(table.history())
        return
    if config.training.decode_on_device:
        check_decoder(device)
    if config.training.compiled and part.ranks == 1:
        check_compiler(device)
    saved = checkpoints.load()
    examples = training_examples(config, store, device=device, workers=workers, cache=holdout_cache)
    trainer = _trainer(config, store, device, part, saved)
    record = RunRecord(len(split), split.wrong_examples(), examples.offset)
    if saved is not None:
        record.load_state_dict(saved["record"])
        say(f"going on after iteration {record.iteration}")
    if part.ranks > 1:
        state_of_rank_0({"iteration": record.iteration, **trainer.state_dict()})
    table.keep(record.reported)
    if table.rows:
        replay(table.history())

    def append(metrics: dict[str, float], iteration: int) -> None:
        try:
            table.append(metrics, iteration)
        except OSError as error:
            reason = error.strerror or error
            say(f"metrics of iteration {iteration} not written ({reason}): they come with the next; the run goes on")
        report(metrics, iteration)

    stream = make_stream(examples, None if saved is None else saved["table"])
    share = config.training.batch_size // part.ranks  # what this device trains on, so that it fits
    validation = ValidationCrops(store.split("val"), share, threads=workers, say=say)
    train(trainer, stream, validation, append, record=record, checkpoints=checkpoints, say=say)
    table.write()  # again, in case the last time failed
    statistics = stream.statistics(config.training.iterations - 1) | record.examples()
    write_examples(folder.path / EXAMPLES, split, statistics)
    save_whole(trainer.model.state_dict(), folder.path / MODEL)
    checkpoints.clear()


def follow_run(
    config: RunConfig,
    store: CropStore,
    make_stream: Callable[[int], Stream],
    *,
    device: torch.device,
    part: Part,
) -> None:
    """A rank's share of the run whose rank 0 is in ``run_in_folder``, to its end.

    Args:
        make_stream: the stream of this rank's part of the batches, from the first step on.
    Raises:
        InputError: the network or a batch does not fit.
        FloatingPointError: the loss is not finite.
    """
    trainer = _trainer(config, store, device, part)
    state = state_of_rank_0()
    trainer.load_state_dict(state)
    start = int(state["iteration"])
    follow(trainer, make_stream(start), start)


def _trainer(
    config: RunConfig, store: CropStore, device: torch.device, part: Part, saved: dict[str, Any] | None = None
) -> Trainer:
    """The trainer, as saved; out of memory becomes a sentence."""
    try:
        trainer = Trainer(config, store.meta, device, part)
        if saved is not None:
            trainer.load_state_dict(saved)
        return trainer
    except torch.OutOfMemoryError as error:
        reason = str(error)
    raise out_of_memory(reason, "with the network alone", FREE)


def run_local(
    config: RunConfig,
    store_uri: str,
    out: Path,
    *,
    device: torch.device,
    workers: int,
    threads: int,
    resume: bool = False,
    checkpoint_share: float = 0.01,
    say: Callable[[str], None] = print,
) -> None:
    """Trains one sampler with one seed and writes config.json and the files of isod.training.files to ``out``.

    Args:
        workers: threads that read and decode crops.
        threads: torch's CPU threads; part of what makes two runs equal to the last bit.
        store_uri: a folder, relative to the present one if it is not absolute, or an address.
        resume: go on with the run that ``out`` holds, from its last checkpoint.
    Raises:
        InputError: a store that cannot be used, a batch larger than the data set, a folder that holds another run, or
            with ``resume`` none.
    """
    store = CropStore.open(absolute_uri(store_uri))
    folder = RunFolder(out)
    settings = run_settings(config, store)
    if resume:
        require((out / "config.json").exists(), "--resume goes on with the run in --out, and there is none", str(out))
        _require_same(settings, out / "config.json")
        if folder.finished:
            say(f"the run in {out} has finished")
            return
    else:
        require(not folder.begun, "--out must be a folder without an earlier run, unless you --resume it", str(out))
    split = store.split("train")
    check_examples(config, split)
    if note := epoch_note(config, split):
        say(note)
    out = output_folder(out)
    if not resume:
        with atomic_write(out / "config.json") as part:
            part.write_text(json.dumps(settings, indent=2) + "\n")
    settle(threads)

    def report(metrics: dict[str, float], iteration: int) -> None:
        ess = "–" if math.isnan(metrics["sampler/ess"]) else f"{metrics['sampler/ess']:.3f}"
        say(
            f"iteration {iteration:>7}/{config.training.iterations}  loss {metrics['train/loss']:.4f}"
            f"  mAP {metrics['mAP']:.4f}  ESS/N {ess}  {metrics['time/seconds']:.1f} s"
        )

    run_in_folder(
        config,
        store,
        RunFolder(out),
        lambda examples, state: local_stream(config, split, examples, workers=workers, state=state),
        device=device,
        workers=workers,
        holdout_cache=out / "holdout",
        report=report,
        checkpoint_share=checkpoint_share,
        say=say,
    )


def _require_same(settings: dict[str, str | int | float | bool], path: Path) -> None:
    try:
        saved = json.loads(path.read_text())
        saved["store"] = absolute_uri(saved["store"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{path} is damaged: start the run anew, in another folder") from None
    if text := changes(saved, settings):
        raise InputError(f"--resume needs the settings that the run began with, see {path}: {text}")

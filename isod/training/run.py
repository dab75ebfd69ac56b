"""One run, from its settings to the folder with its results: the same for ``isod train``, a trial and a rank."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from isod.config.record import CONTENTS, changes, flatten
from isod.config.settings import ResourceConfig, RunConfig
from isod.data.store.split import CropSplit, CropStore
from isod.detector.saved import ModelDescription, save_model
from isod.errors import InputError, require
from isod.files import absolute_uri, atomic_write, folder_lock, output_folder
from isod.training.checkpoint import Checkpoints
from isod.training.decode import check_decoder
from isod.training.examples import TrainingExamples, check_examples, check_names, epoch_note, weights_of_classes
from isod.training.folder import Row, RunFolder
from isod.training.holdout import training_examples
from isod.training.loop import FREE, OnStep, follow, out_of_memory, train
from isod.training.metrics_table import MetricsTable
from isod.training.process import check_compiler, configure_process
from isod.training.ranks import state_of_rank_0
from isod.training.remote_folder import RemoteFolder
from isod.training.statistics import RunStatistics
from isod.training.stream import WHOLE_BATCH, BatchPart, LocalStream, Stream, local_stream
from isod.training.trainer import Trainer
from isod.training.validation import ValidationCrops
from isod.version import source_commit
from isod.vocabulary import EXAMPLES, METRICS, MODEL, OLD_MODEL

log = logging.getLogger(__name__)

CONFIG = "config.json"  # of a run that ``Run.start`` began: its settings, flat

# Makes the stream of a run's draws from its examples and, after a restart, the saved table.
MakeStream = Callable[[TrainingExamples, "dict[str, Any] | None"], Stream]


class Reporter(Protocol):
    """Receives what a run measures."""

    def report(self, metrics: dict[str, float], iteration: int) -> None:
        """Receive the metrics of one validation, after ``iteration`` steps."""
        ...

    def replay(self, rows: list[Row]) -> None:
        """Receive the (iteration, metrics) of an earlier attempt's validations; called at most once, first."""
        ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """One sampler with one seed on one store, and where its results go."""

    config: RunConfig
    store: CropStore
    folder: RunFolder
    device: torch.device
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    part: BatchPart = WHOLE_BATCH  # of every batch that this process trains on, where several share the run
    holdout_cache: Path | None = None  # hold-out scores that runs share; None: in the run's own folder
    remote: RemoteFolder | None = None  # of which the folder is the copy; None: the folder is all that there is

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        """Everything that the run depends on, flat: config.json, and what a checkpoint must agree with."""
        return {"store": self.store.uri, CONTENTS: self.store.meta.contents, **flatten(self.config)}

    def local_stream(self, examples: TrainingExamples, state: dict[str, Any] | None = None) -> LocalStream:
        """Return the stream of the run's draws in this process, read by threads; without Ray."""
        split, workers = self.store.split("train"), self.resources.decode_workers
        return local_stream(self.config, split, examples, workers=workers, state=state, part=self.part)

    def start(self, reporter: Reporter, *, resume: bool = False, on_step: OnStep = lambda iteration: None) -> None:
        """Train in this process alone, from the beginning or, with ``resume``, from the folder's last checkpoint.

        Args:
            on_step: called after each step with the number of iterations done.
        Raises:
            InputError: a batch larger than the data set, a folder that holds another run or that another process
                writes to, or with ``resume`` none; and what ``train`` raises.
        """
        path = self.folder.path
        if resume:
            require((path / CONFIG).exists(), "--resume needs a run in --out, and there is none", str(path))
            self._require_same_settings(path / CONFIG)
            if self.folder.finished:
                log.info("the run in %s has finished", path)
                return
        else:
            require(not self.folder.begun, "--out must be a folder without an earlier run, unless you --resume it",
                    str(path))  # fmt: skip
        split = self.store.split("train")
        check_names(self.config)
        self.store.meta.require_objects(self.store.uri)
        check_examples(self.config, split)
        if note := epoch_note(self.config, split):
            log.info(note)
        with folder_lock(output_folder(path)):
            if not resume:
                require(not self.folder.begun, "--out must be a folder without an earlier run", str(path))
                with atomic_write(path / CONFIG) as file:
                    file.write_text(json.dumps(self.settings, indent=2) + "\n")
            configure_process(self.resources.threads)
            self.train(self.local_stream, reporter, on_step)

    def train(self, make_stream: MakeStream, reporter: Reporter, on_step: OnStep = lambda iteration: None) -> None:
        """Train to the end, from the last checkpoint if the folder has one. With a part of each batch, as rank 0.

        Args:
            on_step: called after each step with the number of iterations done.
        Raises:
            InputError: a checkpoint of other settings, a GPU that does not decode, no compiler for a run that asks for
                one, or a network or batch that does not fit.
            FloatingPointError: the loss is not finite.
        """
        config, path, split = self.config, self.folder.path, self.store.split("train")
        path.mkdir(parents=True, exist_ok=True)
        table = MetricsTable(path / METRICS)
        if self.folder.finished:
            reporter.replay(table.history())
            return
        if (path / OLD_MODEL).exists():
            raise InputError(
                f"{path} holds a run that an isod before 0.2 finished ({OLD_MODEL}): use the isod that trained it, or "
                "another folder"
            )
        store = None if self.remote is None else partial(self.remote.store, path)
        checkpoints = Checkpoints(path, self.settings, share=self.resources.checkpoint_share, store=store)
        if config.training.decode_on_device:
            check_decoder(self.device)
        if config.training.compiled and self.part.ranks == 1:
            check_compiler(self.device)
        saved = checkpoints.load()
        threads = self.resources.decode_workers
        cache = self.holdout_cache or path / "holdout"
        examples = training_examples(config, self.store, device=self.device, workers=threads, cache=cache)
        trainer = self._trainer(saved, examples.offset)
        statistics = RunStatistics(len(split), split.wrong_examples(), examples.offset)
        if saved is not None:
            statistics.load_state_dict(saved["record"])
            log.info("resuming after iteration %s", statistics.iteration)
        if self.part.ranks > 1:
            state_of_rank_0({"iteration": statistics.iteration, **trainer.state_dict()})
        table.keep(statistics.reported)
        if table.rows:
            reporter.replay(table.history())

        def report(metrics: dict[str, float], iteration: int) -> None:
            try:
                table.append(metrics, iteration)
            except OSError as error:
                log.warning(
                    "metrics of iteration %s not written (%s): they come with the next; the run continues",
                    iteration,
                    error.strerror or error,
                )
            reporter.report(metrics, iteration)

        stream = make_stream(examples, None if saved is None else saved["table"])
        batch_size = config.training.batch_size // self.part.ranks  # what this device trains on, so that it fits
        validation = ValidationCrops(self.store.split("val"), batch_size, threads=threads)
        train(trainer, stream, validation, report, record=statistics, checkpoints=checkpoints, on_step=on_step)
        table.write()  # again, in case the last time failed
        of_examples = stream.statistics(config.training.iterations - 1) | statistics.examples()
        write_examples(path / EXAMPLES, split, of_examples)
        threshold = table.history()[-1][1].get("F1_threshold", math.nan)
        description = replace(self.describe_model(), threshold=None if math.isnan(threshold) else threshold)
        save_model(path / MODEL, trainer.evaluated, description)
        checkpoints.clear()

    def follow(self, make_stream: Callable[[int], Stream]) -> None:
        """Train on this rank's part of the batches of a run that rank 0 trains, to its end.

        Args:
            make_stream: the stream of this rank's part of the batches, from the first step on.
        Raises:
            InputError: the network or a batch does not fit.
            FloatingPointError: the loss is not finite.
        """
        trainer = self._trainer()
        state = state_of_rank_0()
        trainer.load_state_dict(state)
        first = int(state["iteration"])
        follow(trainer, make_stream(first), first)

    def describe_model(self) -> ModelDescription:
        """Return what model.json says of the detector that this run trains."""
        meta, training = self.store.meta, self.config.training
        names = ("source", "roi", "tiles", "resize", "min_visible", "exif")
        preparation = {name: meta.settings.get(name) for name in names}
        return ModelDescription(
            detector=replace(self.config.detector, weights=""),  # its own ones lie beside it
            class_names=meta.class_names,
            crop_size=meta.crop_size,
            preparation=preparation,
            demo=meta.demo,
            commit=source_commit(),
            run={"sampler": self.config.sampler.name, "seed": training.seed, "iterations": training.iterations},
        )

    def _trainer(self, saved: dict[str, Any] | None = None, offset: NDArray[np.float64] | None = None) -> Trainer:
        """Return the trainer, as saved; out of memory becomes a sentence."""
        try:
            weights = weights_of_classes(self.config, self.store.split("train"))
            trainer = Trainer(self.config, self.store.meta, self.device, self.part, weights, offset)
            if saved is not None:
                trainer.load_state_dict(saved)
            return trainer
        except torch.OutOfMemoryError as error:
            reason = str(error)
        raise out_of_memory(reason, "with the network alone", FREE)

    def _require_same_settings(self, path: Path) -> None:
        try:
            saved = json.loads(path.read_text())
            saved["store"] = absolute_uri(saved["store"])
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InputError(f"{path} is damaged: start the run anew, in another folder") from None
        if text := changes(saved, self.settings):
            raise InputError(f"--resume needs the settings that the run began with, see {path}: {text}")


def write_examples(path: Path, split: CropSplit, statistics: dict[str, NDArray]) -> None:
    """Write per-example statistics as Parquet: index, frame_id, draw_count, mean_importance, last_step, margin; and
    trained_count, where the sampler chose among candidates."""
    frame = pd.DataFrame({"index": np.arange(len(split)), "frame_id": split.annotations().frame_ids, **statistics})
    with atomic_write(path) as part:
        frame.to_parquet(part, index=False)

"""One run in one process, written to a folder: what one debugs with, and what runs on a bare GPU machine."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isod.config import RunConfig, changes, require
from isod.data.store import CropSplit, CropStore
from isod.errors import InputError
from isod.sampling.schedule import DrawSchedule
from isod.training.examples import TrainingExamples, check_examples, epoch_note
from isod.training.files import RunFolder, absolute, output_folder, whole
from isod.training.folder import run_in_folder, run_settings
from isod.training.process import settle
from isod.training.stream import WHOLE, LocalStream, Part


def local_stream(
    config: RunConfig,
    split: CropSplit,
    examples: TrainingExamples,
    *,
    workers: int,
    state: dict[str, Any] | None = None,
    part: Part = WHOLE,
) -> LocalStream:
    """The run's own table over its examples, and the stream of its draws; from a saved ``state`` if given.

    Where several processes share a run, each has its own, and all are sent the scores of the whole batch.
    """
    training = config.training
    run_length = training.iterations * training.batch_size
    table = examples.table(config.sampler, seed=training.seed, run_length=run_length)
    schedule = DrawSchedule(table, batch_size=training.batch_size, lag=training.lag, steps=training.iterations)
    if state is not None:
        schedule.load_state_dict(state)
    return LocalStream(split, table, schedule, workers=workers, part=part, decode=not training.decode_on_device)


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
    store = CropStore.open(absolute(store_uri))
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
        with whole(out / "config.json") as part:
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
        saved["store"] = absolute(saved["store"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{path} is damaged: start the run anew, in another folder") from None
    if text := changes(saved, settings):
        raise InputError(f"--resume needs the settings that the run began with, see {path}: {text}")

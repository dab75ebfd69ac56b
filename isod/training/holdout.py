"""The hold-out model of RHO: what no model learns from an example is not worth drawing (thesis §4.2.6, Table 4.1)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from isod.config.settings import HoldoutConfig, RunConfig
from isod.data.store.split import CropStore
from isod.files import atomic_write
from isod.sampling.catalogue import weighs_classes
from isod.sampling.samplers import SamplerConfig
from isod.sampling.schedule import DrawSchedule
from isod.sampling.table import ImportanceTable
from isod.training.examples import TrainingExamples, check_examples, labels_of, shares, weights_of_classes
from isod.training.loop import FREE, BatchFeed, out_of_memory
from isod.training.stream import LocalStream
from isod.training.trainer import Trainer, precision_on
from isod.training.validation import in_batches, read_ahead

log = logging.getLogger("isod")


def training_examples(
    config: RunConfig, store: CropStore, *, device: torch.device, workers: int, cache: Path
) -> TrainingExamples:
    """The examples of a run: all that could be read, or for RHO those outside of the hold-out split, with the hold-out
    model's scores; 0 for a crop that does not decode.

    The hold-out model is trained once per store, seed and settings, on its share alone, then scores every remaining
    example once, in evaluation mode. Its scores are kept in ``cache`` for the other runs that need them.

    Raises:
        InputError: a batch larger than the examples there are.
    """
    split = store.split("train")
    check_examples(config, split)
    eligible, held = shares(config, split)
    labels = None if config.sampler.prior is None else labels_of(split, eligible)
    if not config.sampler.holdout:
        return TrainingExamples(len(split), eligible, labels=labels)
    path = cache / f"{holdout_key(config, store, held, eligible, device)}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        offset = holdout_scores(config, store, held, eligible, device=device, workers=workers)
        # two runs that need it at once may both make it: the result is the same
        with atomic_write(path, path.with_suffix(f".{os.getpid()}.part")) as part, part.open("wb") as file:
            np.save(file, offset)
    return TrainingExamples(len(split), eligible, np.load(path, allow_pickle=False), labels)


def holdout_key(
    config: RunConfig, store: CropStore, held: NDArray[np.int64], eligible: NDArray[np.int64], device: torch.device
) -> str:
    """Names everything that the scores of a model that trained on ``held`` depend on."""
    sampler = config.sampler
    training = {**asdict(config.training), "iterations": None, "validate_every": None, "lag": None}
    for later in ("compiled", "decode_on_device"):  # not of the hold-out model, and the names of kept scores lack them
        del training[later]
    holdout = asdict(config.holdout)
    if holdout["detector"]["name"] == "thesis":  # likewise
        del holdout["detector"]["name"]
    facts = {
        "store": [store.uri, asdict(store.meta)],
        "holdout": holdout,
        "training": training,
        "score": [sampler.heuristic, sampler.reduction, sampler.class_weight, sampler.box_weight],
    }
    if (precision := precision_on(device, config.training.precision)) != "float32":
        training["precision"] = precision
    weights = Path(config.holdout.detector.weights)
    if config.holdout.detector.weights and weights.exists():  # by what it holds
        files = sorted(weights.rglob("*")) if weights.is_dir() else [weights]
        digest = hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files if f.is_file()))
        facts["starting weights"] = digest.hexdigest()
    if sampler.subset:  # by what the file names
        facts["examples"] = hashlib.sha256(held.tobytes() + eligible.tobytes()).hexdigest()
    if weighs_classes(sampler.reduction):
        facts["weights"] = [
            sampler.prior_exponent, sampler.prior_threshold, sampler.prior_cap, sampler.empty_weight
        ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def holdout_run(config: RunConfig, holdout: HoldoutConfig, examples: int) -> RunConfig:
    """The hold-out model's own training: sequential, on its share, with the main run's seed and learning rate. It
    trains on all that it draws."""
    training = replace(
        config.training,
        iterations=-(-holdout.epochs * examples // holdout.batch_size),
        batch_size=holdout.batch_size,
        compiled=False,
        decode_on_device=False,
    )
    sampler = replace(config.sampler, candidates=1, scorer="detector")
    return replace(config, sampler=sampler, detector=holdout.detector, training=training)


def holdout_scores(
    config: RunConfig,
    store: CropStore,
    held: NDArray[np.int64],
    eligible: NDArray[np.int64],
    *,
    device: torch.device,
    workers: int,
) -> NDArray[np.float64]:
    """Trains on ``held`` and scores ``eligible``: [N] float64, 0 elsewhere."""
    split = store.split("train")
    run = holdout_run(config, config.holdout, len(held))
    log.info(
        "training the hold-out model first: %d steps on %d examples, which an interruption loses",
        run.training.iterations, len(held),
    )  # fmt: skip
    sampler = SamplerConfig(name="hold-out", strategy="sequential")
    table = ImportanceTable(len(split), sampler=sampler, seed=run.training.seed, eligible=held)
    schedule = DrawSchedule(table, batch_size=run.training.batch_size, lag=run.training.lag)
    stream = LocalStream(split, table, schedule, workers=workers)
    offset = np.zeros(len(split))
    where = "in the training of the hold-out model"
    try:
        trainer = Trainer(run, store.meta, device, class_weights=weights_of_classes(config, split))
        feed = BatchFeed(trainer, stream, 0)
        for batch, loaded in feed:
            stream.send_scores(batch.step, batch.draw.indices, trainer.step(batch, loaded, feed.fetch).scores)
        where = "while the hold-out model scored the training examples"
        for crops in read_ahead(split, in_batches(eligible, run.training.batch_size), threads=workers, quarantine=True):
            offset[crops.indices] = np.where(crops.unreadable, 0.0, trainer.score(crops))
        return offset
    except FloatingPointError as error:
        raise FloatingPointError(f"{where}: {error}") from None
    except torch.OutOfMemoryError as error:
        reason = str(error)  # the failed pass's tensors go with its traceback
    raise out_of_memory(reason, f"{where}, {run.training.batch_size} crops at a time", FREE)

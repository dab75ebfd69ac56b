"""A short baseline run, and what its scores on the training crops say."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from isod.config.presets import PRESETS
from isod.config.settings import RunConfig
from isod.data.store.split import CropStore
from isod.results.probe.ceilings import effective_share, unbiased_ceiling
from isod.sampling import sample_scores
from isod.sampling.catalogue import weighs_classes
from isod.sampling.priors import Labels, class_weights
from isod.sampling.samplers import SAMPLERS, SamplerConfig
from isod.training.examples import TrainingExamples, check_examples
from isod.training.loop import FREE, BatchFeed, out_of_memory
from isod.training.process import configure_process
from isod.training.stream import local_stream
from isod.training.trainer import Trainer
from isod.training.validation import read_ahead

PRESET = "small"
STEPS = 400  # of the run, at most
SAMPLE = 4000  # crops that are scored, at most
TRAINING_SHARE = 0.7  # of the time; the rest is for scoring
GRADIENT = "gradient-norm"  # the sampler whose scores bound the examples' gradient norms
SCORED: tuple[SamplerConfig, ...] = (
    *(SAMPLERS[name] for name in ("LIS", "UIS", "LIS-IR", "UIS-IR")),
    replace(SAMPLERS["LIS"], name="LIS-max", reduction="max"),
    replace(SAMPLERS["UIS"], name="UIS-max", reduction="max"),
    replace(SAMPLERS["bounded-error"], name="bounded-error-max", reduction="max"),
    *(SAMPLERS[name] for name in ("class-max", "EL2N", "margin", GRADIENT)),
)


@dataclass(frozen=True)
class Scores:
    """What the short run left, and the scores of a sample of the training crops."""

    steps: int
    batch_size: int
    first_loss: float  # mean over the first tenth of the steps
    last_loss: float  # likewise, the last tenth
    seconds: float  # of training and scoring
    indices: NDArray[np.int64]  # [n] crops that were scored
    values: dict[str, NDArray[np.float64]]  # sampler → [n] scores


@dataclass(frozen=True)
class ScoreRow:
    """What one sampler's scores say."""

    name: str
    ess: float  # (Σs)²/(N·Σs²) over the sample
    ceiling: float  # 1/ess − 1
    rarity: float  # rank correlation with 1/√f of the rarest class, over crops with objects; NaN without variance
    empty: float  # share of the draws that would go to crops without an object
    top_tenth: float  # share of the draws that would go to the tenth with the highest scores


def most_steps(crops: int) -> int:
    """Return how many steps and batches a run on so many training crops takes at most."""
    return STEPS + -(-min(SAMPLE, crops) // PRESETS[PRESET].training.batch_size)


def run_and_score(
    store: CropStore,
    labels: Labels,
    *,
    seconds: float,
    device: torch.device,
    threads: int,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> Scores:
    """Train the preset ``small`` with the baseline for at most ``STEPS`` steps, then score at most ``SAMPLE`` crops.

    The scores are of the evaluated weights, in evaluation mode, as a sampler's are not: those come from the steps.

    Args:
        seconds: for all of it. What is under way when they are over is finished: one step, one batch.
        advance: called after each step, and each batch of crops scored.
    Raises:
        InputError: nothing to learn or to measure, or a batch that does not fit the device.
        FloatingPointError: the loss is not finite.
    """
    began = time.perf_counter()
    split, preset = store.split("train"), PRESETS[PRESET]
    store.meta.require_objects(store.uri)
    training = replace(
        preset.training, iterations=STEPS, batch_size=min(preset.training.batch_size, len(split.readable)), seed=seed
    )
    config = RunConfig(sampler=SAMPLERS["baseline"], detector=preset.detector, training=training)
    check_examples(config, split)
    configure_process(threads)
    examples = TrainingExamples(len(split), split.readable)
    stream = local_stream(config, split, examples, workers=1)
    where, losses = "in the short run", []
    try:
        trainer = Trainer(config, store.meta, device)
        feed = BatchFeed(trainer, stream, 0)
        for batch, loaded in feed:
            result = trainer.step(batch, loaded, feed.fetch)
            stream.send_scores(batch.step, batch.draw.indices, result.scores)
            losses.append(result.losses["train/loss"])
            advance(1)
            if time.perf_counter() - began > TRAINING_SHARE * seconds:
                break
        where = "while the training crops were scored"
        indices, values = _score(trainer, store, labels, began + seconds, threads, seed, advance)
    except torch.OutOfMemoryError as error:
        reason = str(error)  # the failed pass's tensors go with its traceback
    else:
        tenth = max(1, len(losses) // 10)
        return Scores(
            steps=len(losses),
            batch_size=training.batch_size,
            first_loss=float(np.mean(losses[:tenth])),
            last_loss=float(np.mean(losses[-tenth:])),
            seconds=time.perf_counter() - began,
            indices=indices,
            values=values,
        )
    raise out_of_memory(reason, f"{where}, {training.batch_size} crops at a time", FREE)


@torch.inference_mode()
def _score(
    trainer: Trainer,
    store: CropStore,
    labels: Labels,
    deadline: float,
    threads: int,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Score random crops until the deadline, at least one batch; those that do not decode are left out."""
    split = store.split("train")
    order = np.random.default_rng(seed).permutation(split.readable)[:SAMPLE]
    size = trainer.config.training.batch_size
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    weights = {
        sampler.name: torch.as_tensor(class_weights(labels, sampler), dtype=torch.float32, device=trainer.device)
        for sampler in SCORED
        if weighs_classes(sampler.reduction)
    }
    indices, rows = [], []
    for crops in read_ahead(split, batches, threads=threads, quarantine=True):
        outcome = trainer.outcome(crops)
        scores = torch.stack([sample_scores(outcome, sampler, weights.get(sampler.name)) for sampler in SCORED])
        decoded = ~crops.unreadable
        indices.append(crops.indices[decoded])
        rows.append(scores.cpu().double().numpy()[:, decoded])
        advance(1)
        if time.perf_counter() > deadline:
            break
    of_samplers = np.concatenate(rows, axis=1)
    return np.concatenate(indices), {sampler.name: row for sampler, row in zip(SCORED, of_samplers, strict=True)}


def score_rows(scores: Scores, labels: Labels) -> list[ScoreRow]:
    """Return what each sampler's scores say, in the order of ``SCORED``."""
    empty = labels.empty[scores.indices]
    shares = np.where(labels.image_shares > 0, labels.image_shares, 1.0)
    rarity = labels.largest(shares**-0.5, 0.0)[scores.indices]
    rows = []
    for name, values in scores.values.items():
        ess, total = effective_share(values), max(float(values.sum()), 1e-300)
        highest = np.sort(values)[::-1][: max(1, len(values) // 10)]
        rows.append(
            ScoreRow(
                name=name,
                ess=ess,
                ceiling=unbiased_ceiling(ess),
                rarity=rank_correlation(values[~empty], rarity[~empty]),
                empty=float(values[empty].sum() / total),
                top_tenth=float(highest.sum() / total),
            )
        )
    return rows


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return Spearman's correlation, equal values sharing their mean rank; NaN where either has no variance."""
    import pandas as pd

    of_x, of_y = (pd.Series(values).rank().to_numpy() for values in (x, y))
    if len(x) < 2 or np.ptp(of_x) == 0 or np.ptp(of_y) == 0:
        return math.nan
    return float(np.corrcoef(of_x, of_y)[0, 1])

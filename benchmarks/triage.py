"""Which ranking finds wrong labels: draw count, importance, margin, our guesses, and cleanlab's scores, on demo data.

    pip install --no-deps cleanlab termcolor  # an optional peer, of this benchmark alone
    isod demo ZOD && isod prepare zod ZOD STORE --version mini --resize 160 48
    python -m benchmarks.triage --store STORE [--seeds 1] [--k 100] [--iterations 600] [--out DIR]

Demo data knows its planted errors, so each ranking of the training examples has a precision at k. LIS and UIS train as
``isod train --preset demo`` does. Our guesses and cleanlab's object-detection label quality scores (Tkachenko et al.
2023) get the same predictions of the same network: above the score floor, after NMS, without those that lie mostly in
a don't-care box, which cleanlab does not know. They get them twice: from the run itself, which was trained on these
labels, and out of sample, which is what cleanlab asks for: from two baseline runs of as many iterations, each trained
on one half of the examples and asked about the other. A guess exists only where a prediction above the display
threshold contradicts a label: where fewer than k examples have one, the number in brackets says how many. cleanlab gets
the predictions above that threshold alone as well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from isod.cli.main import exit_cleanly
from isod.config.presets import PRESETS
from isod.config.settings import DetectorConfig, ResourceConfig, RunConfig
from isod.data.store.crops import Annotations
from isod.data.store.split import CropSplit, CropStore
from isod.detector.model import DetectorModel
from isod.detector.saved import load_model
from isod.errors import require
from isod.evaluation.label_problems import FOUND, guess_problems, precision_at, share_inside
from isod.sampling.samplers import SAMPLERS
from isod.training.examples import TrainingExamples
from isod.training.folder import RunFolder
from isod.training.loop import train
from isod.training.run import Run
from isod.training.stream import local_stream
from isod.training.trainer import Trainer
from isod.training.validation import ValidationCrops, in_batches
from isod.vocabulary import EXAMPLES, MODEL

Prediction = dict[str, NDArray]  # boxes [n, 4] xyxy crop pixels, labels [n], scores [n]
Table = dict[str, "dict[str, Found | None]"]  # column → row → what was found; None without cleanlab
FOLD_STREAM = 77  # which of the seed's random streams halves the examples


@dataclass(frozen=True)
class Found:
    """How well a ranking finds planted errors."""

    share: float  # of its first k with one
    ranked: int  # how many it ranks, at most k


class Unheard:
    """A reporter that keeps nothing."""

    def report(self, metrics: dict[str, float], iteration: int) -> None: ...

    def replay(self, rows: list[tuple[int, dict[str, float]]]) -> None: ...


def predict(
    model: DetectorModel, split: CropSplit, indices: NDArray[np.int64], rows: Annotations
) -> dict[int, Prediction]:
    """What the network predicts on each example, without what lies mostly in a don't-care box."""
    out: dict[int, Prediction] = {}
    for batch in in_batches(indices, 32):
        images = torch.from_numpy(split.read(batch).images).permute(0, 3, 1, 2)
        with torch.inference_mode():
            found = model.detect(images)
        for index, item in zip(batch.tolist(), found, strict=True):
            prediction = {name: value.numpy() for name, value in item.items()}
            unclear = rows.boxes[index][rows.dont_care[index]]
            keep = share_inside(prediction["boxes"], unclear).max(axis=1, initial=0.0) < FOUND
            out[index] = {name: value[keep] for name, value in prediction.items()}
    return out


def by_guess(predictions: dict[int, Prediction], config: DetectorConfig, rows: Annotations) -> list[int]:
    """The examples that have a guess, the one of the most confident guess first."""
    best: dict[int, float] = {}
    for index, found in predictions.items():
        shown = found["scores"] >= config.display_threshold
        guesses = guess_problems(
            found["boxes"][shown], found["labels"][shown], found["scores"][shown],
            rows.boxes[index], rows.labels[index], rows.dont_care[index],
        )  # fmt: skip
        if guesses:
            best[index] = guesses[0].score
    return sorted(best, key=lambda index: -best[index])


def by_cleanlab(
    predictions: dict[int, Prediction], num_classes: int, rows: Annotations, threshold: float = 0.0
) -> list[int] | None:
    """Every example, that of the lowest label quality first; None where cleanlab is not installed.

    Args:
        threshold: least score of the predictions that it is given.
    """
    try:
        from cleanlab.object_detection.rank import get_label_quality_scores
    except ImportError:
        return None
    labels, predicted = [], []
    for index, found in predictions.items():
        known = np.logical_not(rows.dont_care[index])
        labels.append({"bboxes": rows.boxes[index][known], "labels": rows.labels[index][known] - 1})
        table = np.column_stack([found["boxes"], found["scores"]])
        shown = found["scores"] >= threshold
        classes = [table[shown & (found["labels"] == label)] for label in range(1, num_classes + 1)]
        predicted.append(np.array([*classes, None], dtype=object)[:-1])  # an array of arrays, whatever their lengths
    quality = get_label_quality_scores(labels, predicted, verbose=False)
    return np.array(list(predictions))[np.argsort(quality, kind="stable")].tolist()


def trained(name: str, seed: int, options: argparse.Namespace) -> tuple[pd.DataFrame, DetectorModel, DetectorConfig]:
    """A run of ``isod train --preset demo``, made unless it is there: statistics, network, its settings."""
    config = run_config(name, seed, options)
    folder = options.out / f"{name}-seed{seed}"
    if not RunFolder(folder).finished:
        store, resources = CropStore.open(options.store), ResourceConfig(decode_workers=1)
        cpu = torch.device("cpu")
        Run(config=config, store=store, folder=RunFolder(folder), device=cpu, resources=resources).start(Unheard())
    model, _ = load_model(folder / MODEL)
    return pd.read_parquet(folder / EXAMPLES), model, config.detector


def run_config(name: str, seed: int, options: argparse.Namespace) -> RunConfig:
    """The demo preset with this sampler and seed."""
    preset = PRESETS["demo"]
    training = replace(preset.training, seed=seed, iterations=options.iterations, validate_every=options.iterations)
    return RunConfig(sampler=SAMPLERS[name], detector=preset.detector, training=training, holdout=preset.holdout)


def out_of_sample(store: CropStore, seed: int, options: argparse.Namespace, rows: Annotations) -> dict[int, Prediction]:
    """Predictions on every example by the one of two baseline runs that was not trained on it."""
    split, config = store.split("train"), run_config("baseline", seed, options)
    shuffled = np.random.default_rng([seed, FOLD_STREAM]).permutation(split.readable)
    halves = [np.sort(half) for half in np.array_split(shuffled, 2)]
    torch.set_num_threads(1)
    found: dict[int, Prediction] = {}
    for number, (learnt, asked) in enumerate((halves, halves[::-1])):
        trainer = Trainer(config, store.meta, torch.device("cpu"))
        kept = options.out / f"half{number}-seed{seed}.pt"
        if kept.exists():
            trainer.model.load_state_dict(torch.load(kept, weights_only=True))
        else:
            stream = local_stream(config, split, TrainingExamples(len(split), learnt), workers=1)
            train(trainer, stream, ValidationCrops(store.split("val"), 32), lambda metrics, iteration: None)
            torch.save(trainer.model.state_dict(), kept)
        found |= predict(trainer.model.eval(), split, asked, rows)
    return dict(sorted(found.items()))


def precisions(store: CropStore, seed: int, options: argparse.Namespace) -> Table:
    """What each ranking finds with this seed; trains what is missing."""
    split, num_classes = store.split("train"), len(store.meta.class_names)
    wrong, rows = split.wrong_examples(), split.annotations()
    assert wrong is not None

    def found(order: list[int] | None) -> Found | None:
        return None if order is None else Found(precision_at(options.k, order, wrong), min(len(order), options.k))

    def peer(predictions: dict[int, Prediction]) -> dict[str, Found | None]:
        """cleanlab with all predictions, and with those alone that our guesses rest on."""
        threshold = PRESETS["demo"].detector.display_threshold
        return {
            "cleanlab": found(by_cleanlab(predictions, num_classes, rows)),
            f"cleanlab, score ≥ {threshold}": found(by_cleanlab(predictions, num_classes, rows, threshold)),
        }

    table: Table = {}
    for name in ("LIS", "UIS"):
        examples, model, config = trained(name, seed, options)
        drawn = examples[examples["draw_count"] > 0]
        predictions = predict(model, split, split.readable, rows)
        table[name] = {
            "draw count": found(drawn.sort_values(["draw_count", "mean_importance"])["index"].tolist()[::-1]),
            "mean importance": found(drawn.sort_values("mean_importance")["index"].tolist()[::-1]),
            "margin, lowest first": found(drawn.dropna(subset=["margin"]).sort_values("margin")["index"].tolist()),
            "our guess": found(by_guess(predictions, config, rows)),
            **peer(predictions),
        }
    predictions = out_of_sample(store, seed, options, rows)
    table["baseline, out of sample"] = {
        "our guess": found(by_guess(predictions, PRESETS["demo"].detector, rows)),
        **peer(predictions),
    }
    return table


def cell(of_seeds: list[Found | None], k: int) -> str:
    """Mean ± sample standard deviation over seeds; in brackets how many examples were ranked where fewer than k."""
    known = [found for found in of_seeds if found is not None]
    if not known:
        return "not installed"
    shares, ranked = [found.share for found in known], {found.ranked for found in known}
    spread = f" ± {100 * np.std(shares, ddof=1):.0f}" if len(shares) > 1 else ""
    few = f" ({' to '.join(map(str, sorted({min(ranked), max(ranked)})))})" if min(ranked) < k else ""
    return f"{100 * np.mean(shares):.0f}{spread} %{few}"


def main() -> None:
    """Trains what is missing and prints one table for each seed, and one for all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="crop store of demo data")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 … N-1")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=PRESETS["demo"].training.iterations)
    parser.add_argument("--out", type=Path, help="keeps what is trained (default: a temporary folder)")
    options = parser.parse_args()
    options.out = options.out or Path(tempfile.mkdtemp())
    store = CropStore.open(options.store)
    wrong = store.split("train").wrong_examples()
    require(wrong is not None, "--store must know its label errors (demo data, prepared with them)", options.store)
    assert wrong is not None
    readable = store.split("train").readable

    tables = []
    for seed in range(options.seeds):
        tables.append(precisions(store, seed, options))
        show(tables[-1:], f"seed {seed}", options.k, float(wrong[readable].mean()), len(readable))
    if len(tables) > 1:
        name = f"mean ± sd of {len(tables)} seeds"
        show(tables, name, options.k, float(wrong[readable].mean()), len(readable))


def show(tables: list[Table], seeds: str, k: int, at_random: float, examples: int) -> None:
    """Prints one table of all these."""
    print(f"\nDEMO data, {seeds}: share of the first {k} with a planted error; at random {at_random:.1%} of {examples}")
    cells = {
        column: {row: cell([table[column][row] for table in tables], k) for row in rows}
        for column, rows in tables[0].items()
    }
    print(pd.DataFrame(cells).fillna("–").to_string(), flush=True)


if __name__ == "__main__":
    sys.exit(exit_cleanly("benchmarks.triage", None, main))

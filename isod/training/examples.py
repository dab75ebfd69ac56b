"""Which examples a run may draw. Needs no torch: the table actor starts with it."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isod.config.settings import DetectorConfig, RunConfig
from isod.data.readers.validation_part import sequences
from isod.data.store.split import CropSplit
from isod.detector.model import DETECTORS
from isod.errors import InputError, require
from isod.plugins import is_outside, resolve
from isod.sampling.catalogue import (
    find_heuristic,
    find_prior,
    find_reduction,
    find_selection,
    find_strategy,
    weighs_classes,
)
from isod.sampling.priors import Labels, class_weights
from isod.sampling.samplers import SamplerConfig
from isod.sampling.table import ImportanceTable
from isod.vocabulary import size_codes

KEEP_COLUMNS = ("index", "frame_id", "tile_column", "tile_row")  # of a keep-list
HOLDOUT_STREAM = 2  # which of the seed's random streams chooses the hold-out examples


@dataclass(frozen=True)
class TrainingExamples:
    """What a run's importance table is made from; picklable."""

    count: int  # N, rows of the split, lost ones included
    eligible: NDArray[np.int64]  # [M] the examples that may be drawn
    offset: NDArray[np.float64] | None = None  # [N] subtracted from every score; None if the sampler subtracts nothing
    labels: Labels | None = None  # of the N examples; None if the sampler has no prior

    def table(self, sampler: SamplerConfig, *, seed: int, run_length: int) -> ImportanceTable:
        """A fresh table over these examples, for a run that will draw ``run_length`` of them, repeats counted."""
        table = ImportanceTable(self.count, sampler=sampler, seed=seed, eligible=self.eligible, run_length=run_length)
        if self.offset is not None:
            table.set_offset(self.offset)
        if self.labels is not None:
            table.set_labels(self.labels)
        return table


def labels_of(split: CropSplit, eligible: NDArray[np.int64]) -> Labels:
    """The labels of a split, for a sampler's prior; reads no image. A sequence is what the dataset calls one, else what
    a frame's name is without its last number, or its folder."""
    found = split.annotations()
    classes = [np.where(unknown, 0, labels) for labels, unknown in zip(found.labels, found.dont_care, strict=True)]
    sizes = [size_codes(boxes, size) for boxes, size in zip(found.boxes, split.sizes(), strict=True)]
    segments = sequences(found.frame_ids, split.sequences() or ())
    return Labels.from_lists(classes, len(split.meta.class_names), eligible=eligible, segments=segments, sizes=sizes)


def weights_of_classes(config: RunConfig, split: CropSplit) -> NDArray[np.float64] | None:
    """[C + 1], for a sampler whose reduction weighs classes; None for all others."""
    if not weighs_classes(config.sampler.reduction):
        return None
    eligible, _ = shares(config, split)
    return class_weights(labels_of(split, eligible), config.sampler)


def split_holdout(readable: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The examples that are trained on, and those held out from it: ``share`` of them, chosen by the seed; sorted."""
    shuffled = np.random.default_rng([seed, HOLDOUT_STREAM]).permutation(readable)
    held = round(share * len(readable))
    return np.sort(shuffled[held:]), np.sort(shuffled[:held])


def shares(config: RunConfig, split: CropSplit) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The examples that a run may draw, and those held out for its hold-out model, none where it has no such."""
    kept = split.readable if not config.sampler.subset else read_keep_list(config.sampler.subset, split)
    if not config.sampler.holdout:
        return kept, np.zeros(0, np.int64)
    return split_holdout(kept, config.holdout.share, config.training.seed)


def read_keep_list(path: str, split: CropSplit) -> NDArray[np.int64]:
    """The examples that a keep.csv of ``isod select`` names, without those that cannot be read any more; ascending.

    Raises:
        InputError: no such file, or one of another store.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
            index, frame_id = (header.index(name) for name in KEEP_COLUMNS[:2])
            rows = [(int(line[index]), line[frame_id]) for line in lines if line]
    except OSError as error:
        raise InputError(f"sampler.subset {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, IndexError, csv.Error):
        raise InputError(
            f"sampler.subset {path} is no keep-list: `isod select` writes one, with the columns "
            f"{', '.join(KEEP_COLUMNS)}"
        ) from None
    frame_ids = split.annotations().frame_ids
    for place, name in rows:
        if not 0 <= place < len(split) or frame_ids[place] != name:
            raise InputError(
                f"sampler.subset {path} is of another store than {split.uri}: its example {place} is {name!r}"
            )
    kept = np.intersect1d(np.array([place for place, _ in rows], np.int64), split.readable)
    if not len(kept):
        raise InputError(f"sampler.subset {path} names no example that can be read")
    return kept


def located(config: RunConfig, folder: Path) -> RunConfig:
    """The settings with the files that they name under their whole path, seen from a folder."""

    def seen(detector: DetectorConfig) -> DetectorConfig:
        return replace(detector, weights=str(folder / detector.weights)) if _is_file(detector.weights) else detector

    subset = str(folder / config.sampler.subset) if config.sampler.subset else ""
    return replace(
        config,
        sampler=replace(config.sampler, subset=subset),
        detector=seen(config.detector),
        holdout=replace(config.holdout, detector=seen(config.holdout.detector)),
    )


def _is_file(weights: str) -> bool:
    """Whether weights to start from are a file or folder, and no name of torchvision's."""
    return bool(weights) and "_Weights." not in weights


def epoch_note(config: RunConfig, split: CropSplit) -> str:
    """What to tell where a run is too short for its sampler to begin; else empty."""
    training = config.training
    eligible, _ = shares(config, split)
    enough = -(-len(eligible) // config.draw_size) + training.lag  # the first draw that has seen all scores
    at_once = config.sampler.strategy == "sequential" or config.sampler.start == "prior"
    if at_once or training.iterations > enough:
        return ""
    return (
        f"note: {config.sampler.name} draws as the baseline does until each of the {len(eligible)} examples has a "
        f"score, and {training.iterations} iterations of {config.draw_size} do not go beyond that: "
        f"set --iterations well above {enough}"
    )


def check_names(config: RunConfig) -> None:
    """Import what the settings name of somebody else's packages. Raises InputError for what does not exist.

    Weights to start from must exist, too, or be named as torchvision names its own.
    """
    sampler = config.sampler
    if sampler.heuristic is not None and is_outside(sampler.heuristic):
        find_heuristic(sampler.heuristic)
    if is_outside(sampler.reduction):
        find_reduction(sampler.reduction)
    if is_outside(sampler.strategy):
        find_strategy(sampler.strategy)
    if is_outside(sampler.selection):
        find_selection(sampler.selection)
    if sampler.prior is not None:
        find_prior(sampler.prior)
    if config.detector.name not in DETECTORS:  # isod's own would bring torch
        resolve("detector", config.detector.name, DETECTORS)
    for weights in (config.detector.weights, config.holdout.detector.weights):
        if _is_file(weights) and not Path(weights).exists():
            raise InputError(f"detector.weights {weights} does not exist")


def check_examples(config: RunConfig, split: CropSplit) -> None:
    """Raises InputError if a batch of the run, or of its hold-out model, holds more examples than there are."""
    eligible, held = shares(config, split)
    if config.sampler.holdout:
        require(
            config.holdout.batch_size <= len(held),
            f"hold-out batch_size must not exceed the {len(held)} examples held out",
            config.holdout.batch_size,
        )
    require(
        config.training.batch_size <= len(eligible),
        f"batch_size must not exceed the {len(eligible)} training examples of the store",
        config.training.batch_size,
    )
    require(
        config.draw_size <= len(eligible),
        f"{config.sampler.candidates} batches of candidates must not exceed the {len(eligible)} training examples of "
        "the store",
        config.draw_size,
    )

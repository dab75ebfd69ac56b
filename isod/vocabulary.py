"""Words that several rooms must spell alike: splits, object sizes, metric names, MLflow tags, names of files."""

from __future__ import annotations

from typing import Literal

import numpy as np

# --- data ------------------------------------------------------------------------------------------------------------

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")
DONT_CARE = "dont_care"  # what is counted with the classes and is none

# Object sizes by the share of the crop that the box covers (thesis §4.4): small < 0.33 % ≤ medium ≤ 3 % < large.
SIZES = ("small", "medium", "large")
SMALL_BELOW = 0.0033
LARGE_ABOVE = 0.03
STRATA = ("all", *SIZES)  # stratum 0 holds every size, stratum 1 + size code the boxes of that size


def size_codes(boxes: np.ndarray, image_size: tuple[int, int] | np.ndarray) -> np.ndarray:
    """Return the size of each box by its share of the image's area.

    Args:
        boxes: [n, 4] xyxy, pixels.
        image_size: (H, W) of the image, pixels; or [n, 2] of each box's image.
    Returns:
        [n] uint8: 0 small, 1 medium, 2 large, the order of ``SIZES``.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    image_area = np.asarray(image_size, dtype=np.int64).prod(axis=-1)
    small, large = area < SMALL_BELOW * image_area, area > LARGE_ABOVE * image_area
    return np.where(small, 0, np.where(large, 2, 1)).astype(np.uint8)


# --- metrics ---------------------------------------------------------------------------------------------------------

HEADLINE = "mAP"  # every validation has it; its steps are the run's validation grid
BASELINE = "baseline"  # the sampler that the others are compared with
SECONDS = "time/seconds"  # of training, validation left out
CPU_SECONDS = "time/cpu_seconds"  # of a training on a CPU: processor time of its process, validation left out
ESS = "sampler/ess"  # effective sample size of the scores over N
REPEATS, RECENT_REPEATS = "sampler/repeats", "sampler/recent_repeats"
FORWARD_ONLY = "sampler/forward_only"  # images passed through the network without training on them, so far
WRONG_LABELS = "sampler/wrong_labels"  # share of the draws; where the label errors are known
CLASS_LOSS_CORRELATION, BOX_LOSS_CORRELATION = "sampler/correlation_class_loss", "sampler/correlation_box_loss"


def metric_key(name: str, stratum: int, class_name: str | None = None) -> str:
    """``metric_key("AP", 1, "Animal")`` is ``AP_small/Animal``; stratum 0 adds no suffix."""
    suffix = "" if stratum == 0 else f"_{STRATA[stratum]}"
    return f"{name}{suffix}" if class_name is None else f"{name}{suffix}/{class_name}"


UNIFORM_ABOVE = 0.9  # of N: above this effective sample size a draw is nearly uniform
SKEWED_BELOW = 0.5  # of N: below it half of the data set or less carries the draws


def ess_in_words(ess: float) -> str:
    """Say what an effective sample size over N, (Σs)²/(N·Σs²) in (0, 1], means for a data set (spec §11)."""
    if ess > UNIFORM_ABOVE:
        return "near 1: the examples score alike, drawing is nearly uniform, and there is little to gain here"
    if ess > SKEWED_BELOW:
        return "the examples differ somewhat, so a sampler can gain something here"
    return "far below 1: the examples differ much, so which are drawn matters here"


# --- files of a run --------------------------------------------------------------------------------------------------

METRICS, EXAMPLES = "metrics.csv", "examples.parquet"
MODEL = "model"  # the folder of the trained detector; see isod.detector.saved
OLD_MODEL = "model.pt"  # what it was until isod 0.1

# --- MLflow tags -----------------------------------------------------------------------------------------------------

SWEEP_TAG = "isod.sweep"  # of a parent run: the study's name
SEARCH_TAG = "isod.search"  # likewise, of a search, which is no sweep: its runs are not compared
KIND_TAG = "isod.kind"  # "search" for every run of a search, parent and children
STOPPED_TAG = "isod.stopped"  # of a child of a search: the iteration at which its scheduler stopped it
PARENT_TAG = "mlflow.parentRunId"  # what MLflow's UI nests runs by
NAME_TAG = "mlflow.runName"
COMMIT_TAG = "isod.commit"
RESUMED_TAG = "isod.resumed"  # of a parent: the commit that resumed it, where it is another one
MACHINE_TAG = "isod.machine"
DEMO_TAG = "isod.demo"  # "true" on demo data, which every result must then say
DEVICE_TAG = "isod.device"  # of a child: what it trained on; several, in their order, where it was resumed elsewhere
ERROR_TAG = "isod.error"  # of a child that failed: why

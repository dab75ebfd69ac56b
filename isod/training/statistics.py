"""What a run finds out about its examples and draws while it trains, and how far it has come."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isod.outcome import Outcome
from isod.sampling.examples import as_numpy, as_tensors
from isod.sampling.scores.reductions import object_scores
from isod.vocabulary import FORWARD_ONLY

RECENT = 10  # batches that sampler/recent_repeats looks back


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, as the host sees it. All arrays but ``chosen`` are [B], in the order of the draw."""

    scores: NDArray[np.float64]  # sample scores
    class_losses: NDArray[np.float64]  # each example's own eq. 4.1, class part
    box_losses: NDArray[np.float64]  # likewise, box part
    margins: NDArray[np.float64]  # final-layer margin, mean over locations, then objects; NaN without an object
    losses: dict[str, float]  # of the batch, under their metric names
    unreadable: NDArray[np.bool_]  # crops that did not decode
    observed: NDArray[np.float64] | None = None  # [B, M + 2], for a sampler's prior that follows the training
    # [b] places of those that trained, where the sampler chooses among candidates; None: all. The arrays above are then
    # of the forward pass that scored the candidates.
    chosen: NDArray[np.int64] | None = None
    # [B] bool, what the detector measured, where a second network scored the others; None: all.
    measured: NDArray[np.bool_] | None = None


class Moments:
    """Pearson correlation of two streams of numbers, in three numbers a stream (Welford's update, by batches)."""

    def __init__(self, state: list[float] | None = None) -> None:
        self.count, self.mean_x, self.mean_y, self.xx, self.yy, self.xy = state or [0.0] * 6

    def add(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        """Take in pairs [n]."""
        n = len(x)
        if not n:
            return
        total = self.count + n
        dx, dy = x.mean() - self.mean_x, y.mean() - self.mean_y
        weight = self.count * n / total
        self.xx += float(np.square(x - x.mean()).sum() + dx * dx * weight)
        self.yy += float(np.square(y - y.mean()).sum() + dy * dy * weight)
        self.xy += float(((x - x.mean()) * (y - y.mean())).sum() + dx * dy * weight)
        self.mean_x += float(dx * n / total)
        self.mean_y += float(dy * n / total)
        self.count = total

    def correlation(self) -> float:
        """In −1 … 1; NaN where either has no variance."""
        if self.xx <= 0 or self.yy <= 0:
            return math.nan
        return self.xy / math.sqrt(self.xx * self.yy)

    def state(self) -> list[float]:
        """What the constructor takes."""
        return [self.count, self.mean_x, self.mean_y, self.xx, self.yy, self.xy]


class RunStatistics:
    """How far a run has come, and what it knows that neither network nor table holds.

    Args:
        num_examples: N, rows of the training split.
        wrong: [N] bool, examples with a known label error; None where nobody knows.
        offset: [N], which the table subtracts from scores above 0; None if the sampler subtracts nothing.
    """

    def __init__(
        self,
        num_examples: int,
        wrong: NDArray[np.bool_] | None = None,
        offset: NDArray[np.float64] | None = None,
    ) -> None:
        self.iteration = 0  # steps done
        self.reported = 0  # iteration of the last validation
        self.seconds = 0.0  # of training, validation left out
        self.cpu_seconds = 0.0  # of all threads of the process in that time
        self.warned = False  # whether the effective sample size was spoken of
        self.unreadable: set[int] = set()  # drawn examples that did not decode
        self._wrong = wrong
        self._offset = offset
        self._sums: dict[str, float] = {}  # since the last validation
        self._class, self._box = Moments(), Moments()
        self._recent: deque[NDArray[np.int64]] = deque(maxlen=RECENT)
        # Each example's newest margin, and the mean of that over the validations (thesis, Fig. 6.2).
        self._margin = np.full(num_examples, np.nan, np.float32)
        self._margin_mean = np.full(num_examples, np.nan, np.float32)
        self._margin_count = np.zeros(num_examples, np.int32)
        self._forward_only = 0  # examples that were scored in a pass of their own, so far
        # How often each example trained; empty where all that are drawn do.
        self._trained = np.zeros(0, np.int32)

    def add(self, indices: NDArray[np.int64], result: StepResult) -> None:
        """Take in one step."""
        trained = indices
        if result.chosen is not None:
            trained = indices[result.chosen]
            self._forward_only += len(indices) if result.measured is None else 0
            if not len(self._trained):
                self._trained = np.zeros(len(self._margin), np.int32)
            np.add.at(self._trained, trained, 1)
        distinct = np.unique(trained)
        recent = np.concatenate(self._recent) if self._recent else np.zeros(0, np.int64)
        values = {
            **result.losses,
            "sampler/repeats": 1 - len(distinct) / len(trained),
            "sampler/recent_repeats": float(np.isin(trained, recent).mean()),
        }
        if self._wrong is not None:
            values["sampler/wrong_labels"] = float(self._wrong[trained].mean())
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        scores = result.scores
        if self._offset is not None:
            scores = np.where(scores > 0, scores - self._offset[indices], scores)
        measured = slice(None) if result.measured is None else result.measured
        self._class.add(scores[measured], result.class_losses[measured])
        self._box.add(scores[measured], result.box_losses[measured])
        self._recent.append(distinct)
        self._margin[indices[measured]] = result.margins[measured]
        self.iteration += 1

    def close_window(self) -> dict[str, float]:
        """Metrics since the last validation, at this one; the next window begins."""
        steps = self.iteration - self.reported
        metrics = {name: value / steps for name, value in self._sums.items()}
        metrics["sampler/correlation_class_loss"] = self._class.correlation()
        metrics["sampler/correlation_box_loss"] = self._box.correlation()
        if self._forward_only:
            metrics[FORWARD_ONLY] = float(self._forward_only)
        if self.unreadable:
            metrics["data/unreadable"] = float(len(self.unreadable))
        known = ~np.isnan(self._margin)
        self._margin_count[known] += 1
        before = np.where(self._margin_count[known] == 1, 0.0, self._margin_mean[known])
        self._margin_mean[known] = before + (self._margin[known] - before) / self._margin_count[known]
        self._sums, self._class, self._box = {}, Moments(), Moments()
        self.reported = self.iteration
        return metrics

    def examples(self) -> dict[str, NDArray]:
        """Per example [N]: ``margin``, the final-layer margin of its objects, averaged over the validations since it
        was first drawn; NaN where it has no object or was never drawn. And ``trained_count``, how often it trained,
        where the sampler chose among candidates.

        The thesis averages a margin taken at each validation (Fig. 6.2). Here that is the newest one which training
        left behind, so that no example is run through the network a second time.
        """
        margin = {"margin": self._margin_mean.copy()}
        return {**margin, "trained_count": self._trained.copy()} if len(self._trained) else margin

    def state_dict(self) -> dict[str, Any]:
        """Everything above, as torch tensors and plain numbers."""
        return as_tensors(
            {
                "iteration": self.iteration,
                "reported": self.reported,
                "seconds": self.seconds,
                "cpu_seconds": self.cpu_seconds,
                "warned": self.warned,
                "unreadable": sorted(self.unreadable),
                "sums": dict(self._sums),
                "class": self._class.state(),
                "box": self._box.state(),
                "recent": list(self._recent),
                "margin": self._margin.copy(),
                "margin_mean": self._margin_mean.copy(),
                "margin_count": self._margin_count.copy(),
                "forward_only": self._forward_only,
                "trained": self._trained.copy(),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.iteration, self.reported = int(state["iteration"]), int(state["reported"])
        self.cpu_seconds = float(state.get("cpu_seconds", math.nan))  # isod 0.1 did not count them
        self.seconds, self.warned = float(state["seconds"]), bool(state["warned"])
        self.unreadable = set(state["unreadable"])
        self._sums = dict(state["sums"])
        self._class, self._box = Moments(list(state["class"])), Moments(list(state["box"]))
        self._recent = deque((as_numpy(item) for item in state["recent"]), maxlen=RECENT)
        self._margin[:] = as_numpy(state["margin"])
        self._margin_mean[:] = as_numpy(state["margin_mean"])
        self._margin_count[:] = as_numpy(state["margin_count"])
        self._forward_only = int(state.get("forward_only", 0))  # an older state has neither
        self._trained = as_numpy(state.get("trained", self._trained)).copy()


@torch.no_grad()
def example_losses(outcome: Outcome) -> tuple[Tensor, Tensor]:
    """Return each example's own eq. 4.1, class part and box part, [B] float32 each.

    The class loss is averaged over the locations whose class is known, the box loss over those that an object owns; 0
    for an example without such a location.
    """
    class_part, box_part = (
        (loss * counted).sum(1) / counted.sum(1).clamp(min=1)
        for loss, counted in ((outcome.class_loss, outcome.care), (outcome.box_loss, outcome.object_index >= 0))
    )
    return class_part, box_part


@torch.no_grad()
def object_margins(outcome: Outcome) -> Tensor:
    """Return the final-layer margin of each example, [B] float32 (thesis Fig. 6.2).

    The margin is averaged over each object's locations, then over the objects; the background does not count. NaN for
    an example without an object of known class, and for all of them if the detector gives no logits.
    """
    if outcome.logits is None:
        return outcome.class_loss.new_full(outcome.class_loss.shape[:1], math.nan)
    part = object_scores(outcome.margin(), outcome.care, outcome.object_index, outcome.object_area)
    means, present = part.means[:, :-1], part.present[:, :-1]
    return (means * present).sum(1) / present.sum(1)  # 0/0 is NaN

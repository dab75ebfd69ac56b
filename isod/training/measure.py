"""Numbers per example that the figures need, from the maps of the training forward pass itself."""

from __future__ import annotations

import torch
from torch import Tensor

from isod.outcome import Outcome
from isod.sampling.heuristics import class_margin
from isod.sampling.reductions import object_scores


@torch.no_grad()
def example_losses(outcome: Outcome) -> tuple[Tensor, Tensor]:
    """Each example's own eq. 4.1: class loss averaged over its locations whose class is known, box loss over its
    positive locations; [B] float32 each, 0 where there is no such location."""
    positive = outcome.object_index >= 0
    return tuple(
        (loss * counted).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)
        for loss, counted in ((outcome.class_loss, outcome.care), (outcome.box_loss, positive))
    )  # type: ignore[return-value]


@torch.no_grad()
def object_margins(outcome: Outcome) -> Tensor:
    """Final-layer margin of each example, [B] float32: mean over each object's locations, then over the objects (thesis
    Fig. 6.2). The background does not count; NaN for an example without an object of known class."""
    part = object_scores(class_margin(outcome), outcome.care, outcome.object_index, outcome.object_area)
    means, present = part.means[:, :-1], part.present[:, :-1]
    return (means * present).sum(1) / present.sum(1)  # 0/0 is NaN

"""What a prior that follows the training sees of the drawn objects."""

from __future__ import annotations

import torch
from torch import Tensor

from isod.outcome import Outcome
from isod.sampling.scores.heuristics import FALSE_POSITIVE
from isod.sampling.scores.reductions import object_scores


@torch.no_grad()
def observations(outcome: Outcome, measure: str) -> Tensor:
    """Return what a step saw of its images, [B, M + 2] float32, on the outcome's device, without a host sync.

    Column j < M is the mean over the locations of object j; then that of the background; then 1 where a background
    location has a foreground probability above ½, else 0. NaN where there is no location, or no logits.

    Args:
        measure: "error" for 1 − a, "loss" for −log a.
    Raises:
        InputError: the outcome has one loss per image.
    """
    outcome.require_objects("a prior that follows the training")
    loss = outcome.class_loss.float()
    part = object_scores(
        loss if measure == "loss" else -torch.expm1(-loss), outcome.care, outcome.object_index, outcome.object_area
    )
    means = torch.where(part.counts > 0, part.means, torch.nan)
    if outcome.logits is None:
        alarm = torch.full_like(means[:, 0], torch.nan)
    else:
        background = (outcome.object_index < 0) & outcome.care
        alarm = (background & (outcome.foreground() > FALSE_POSITIVE)).any(1).float()
    return torch.cat([means, alarm.unsqueeze(1)], dim=1)

"""What one forward pass leaves behind, as a detector writes it and the heuristics read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Outcome:
    """L locations of each of B images: cells of a map or of a pyramid, anchors, proposals, queries.

    C classes, at most M objects in an image. All tensors are detached, on one device, and of the mode that the training
    step ran in: batch statistics in the normalisation layers, the augmentation of that step. ``a`` is the probability
    of a location's true class, however the detector models it.

    A detector that gives one loss per image has L = 1, and neither logits nor IoU.
    """

    labels: Tensor  # [B, L] int64; true class of the location, 0 where it is background or unknown
    care: Tensor  # [B, L] bool; False inside don't-care boxes, where the class is unknown
    object_index: Tensor  # [B, L] int64; which of the image's objects owns the location, -1 for background
    class_loss: Tensor  # [B, L] float32; −log a; 0 where care is False
    box_loss: Tensor  # [B, L] float32; where object_index ≥ 0, else 0
    object_area: Tensor  # [B, M] float32; area of each object's box in pixels², 0 for padding
    object_labels: Tensor  # [B, M] int64; class of each object, 0 for don't-care and padding
    iou: Tensor | None = None  # [B, L] float32; of predicted and target box where object_index ≥ 0, else 0
    # [B, K, L] float32. "softmax": K = 1 + C, the background first. "sigmoid": K = C, a probability of its own for each
    # class, and a is the product over the classes.
    logits: Tensor | None = None
    activation: Literal["softmax", "sigmoid"] = "softmax"

    def foreground(self) -> Tensor:
        """Return the probability of the likeliest class, [B, L] float32."""
        logits = self._logits()
        if self.activation == "sigmoid":
            return logits.sigmoid().amax(1)
        return logits.softmax(1)[:, 1:].amax(1)

    def error_norm(self) -> Tensor:
        """Return ‖p − onehot(y)‖₂ over the K probabilities p, [B, L] float32, accurate near a = 1.

        For softmax cross-entropy, and for the sum of one binary cross-entropy per class, this is the norm of the loss's
        gradient with respect to the logits.
        """
        logits = self._logits()
        if self.activation == "sigmoid":
            return (logits.sigmoid() - self._one_hot(logits)).square().sum(1).sqrt()
        others = logits.softmax(1).scatter(1, self.labels.unsqueeze(1), 0.0).square().sum(1)
        return (others + torch.expm1(-self.class_loss.float()).square()).sqrt()

    def margin(self) -> Tensor:
        """Return the true logit − the largest other one, [B, L] float32, positive where classified right.

        Where every class has a probability of its own, the background counts as a logit of 0.
        """
        logits, true = self._logits(), self.labels.unsqueeze(1)
        if self.activation == "sigmoid":
            logits = functional.pad(logits, (0, 0, 1, 0))  # background first
        assigned = logits.gather(1, true).squeeze(1)
        return assigned - logits.scatter(1, true, -math.inf).amax(1)

    def _logits(self) -> Tensor:
        assert self.logits is not None, "heuristics that need logits are rejected at start-up where there are none"
        return self.logits.float()

    def _one_hot(self, logits: Tensor) -> Tensor:
        """[B, C, L], all 0 at background."""
        return functional.one_hot(self.labels, logits.shape[1] + 1)[..., 1:].transpose(1, 2).to(logits)

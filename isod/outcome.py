"""What one forward pass leaves behind, as a detector writes it and the heuristics read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from isod.errors import InputError

ACTIVATIONS = ("softmax", "sigmoid")


@dataclass(frozen=True)
class Outcome:
    """L locations of each of B images: cells of a map or of a pyramid, anchors, proposals, queries.

    C classes, at most M objects in an image. All tensors are detached, on one device, and of the mode that the training
    step ran in: batch statistics in the normalisation layers, the augmentation of that step. ``a`` is the probability
    of a location's true class as the detector models it. With a softmax, −log a is the cross-entropy. With one sigmoid
    per class, a is the product over the classes, and −log a their summed binary cross-entropy.

    A detector that can only give one loss per image writes ``Outcome.of_images``.

    Raises:
        InputError: on construction, if a shape or the activation is not as below.
    """

    labels: Tensor  # [B, L] int64; true class of the location, 1…C, 0 where it is background or unknown
    care: Tensor  # [B, L] bool; False inside don't-care boxes, where the class is unknown
    object_index: Tensor  # [B, L] int64; which of the image's objects owns the location, -1 for background
    class_loss: Tensor  # [B, L] float32; −log a; 0 where care is False
    box_loss: Tensor  # [B, L] float32 ≥ 0; where object_index ≥ 0, else 0
    object_area: Tensor  # [B, M] float32; area of each object's box in pixels², 0 for padding
    object_labels: Tensor  # [B, M] int64; class of each object, 1…C, 0 for don't-care and padding
    iou: Tensor | None = None  # [B, L] float32; of predicted and target box where object_index ≥ 0, else 0
    # [B, K, L] float32, the classes before the locations. "softmax": K = 1 + C, the background first. "sigmoid": K = C.
    logits: Tensor | None = None
    activation: Literal["softmax", "sigmoid"] = "softmax"
    of_objects: bool = True  # False: one loss per image, and nothing is known of its objects

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InputError(f"an outcome's activation must be softmax or sigmoid, got {self.activation!r}")
        images, locations = self.labels.shape if self.labels.dim() == 2 else ("B", "L")
        objects = self.object_area.shape[-1] if self.object_area.dim() == 2 else "M"
        classes = self.logits.shape[1] if self.logits is not None and self.logits.dim() == 3 else "K"
        of_locations = ("labels", "care", "object_index", "class_loss", "box_loss", "iou")
        expected: dict[str, tuple[int | str, ...]] = {
            **dict.fromkeys(of_locations, (images, locations)),
            **dict.fromkeys(("object_area", "object_labels"), (images, objects)),
            "logits": (images, classes, locations),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise InputError(
                    f"an outcome's {name} must have shape [{', '.join(map(str, shape))}], got {list(value.shape)}"
                )

    @classmethod
    def of_images(cls, class_loss: Tensor, box_loss: Tensor | None = None) -> Outcome:
        """Return the outcome of a detector that can only give one loss per image: L = 1, no logits, no IoU.

        The heuristic "loss" then scores each image w_cls · class_loss + w_reg · box_loss. No other one is available.

        Args:
            class_loss: [B] ≥ 0, the image's loss, or the class part of it.
            box_loss: [B] ≥ 0, the box part; zeros by default.
        """
        class_loss = class_loss.detach().float().unsqueeze(1)
        box_loss = torch.zeros_like(class_loss) if box_loss is None else box_loss.detach().float().unsqueeze(1)
        zeros = torch.zeros_like(class_loss, dtype=torch.int64)
        return cls(
            labels=zeros,
            care=torch.ones_like(zeros, dtype=torch.bool),
            object_index=zeros,
            class_loss=class_loss,
            box_loss=box_loss,
            object_area=torch.full_like(class_loss, 64.0),  # 8×8, which the reduction area_mean weights with 1
            object_labels=zeros,
            of_objects=False,
        )

    def require_objects(self, what: str) -> None:
        """Raise InputError if only the whole image's loss is known; ``what`` needs more."""
        if not self.of_objects:
            raise InputError(f"the detector gives one loss per image, and {what} needs the losses of its objects")

    def foreground(self) -> Tensor:
        """Return the probability of the likeliest class, the background left out, [B, L] float32.

        Raises:
            InputError: the outcome has no logits; of ``error_norm`` and ``margin`` too.
        """
        logits = self._logits()
        if self.activation == "sigmoid":
            return logits.sigmoid().amax(1)
        return logits.softmax(1)[:, 1:].amax(1)

    def error_norm(self) -> Tensor:
        """Return ‖p − onehot(y)‖₂ over the K probabilities p, [B, L] float32, accurate near a = 1.

        For softmax cross-entropy, and for the sum of one binary cross-entropy per class, this is the norm of the loss's
        gradient with respect to the logits. With sigmoids the background's onehot is 0.
        """
        logits = self._logits()
        if self.activation == "sigmoid":
            true = self._one_hot(logits)
            return torch.where(true, -logits, logits).sigmoid().square().sum(1).sqrt()  # 1 − σ(z) = σ(−z)
        others = logits.softmax(1).scatter(1, self.labels.unsqueeze(1), 0.0).square().sum(1)
        return (others + torch.expm1(-self.class_loss.float()).square()).sqrt()

    def margin(self) -> Tensor:
        """Return the true logit − the largest other one, [B, L] float32, positive where classified right.

        With sigmoids the background counts as a logit of 0.
        """
        logits, true = self._logits(), self.labels.unsqueeze(1)
        if self.activation == "sigmoid":
            logits = functional.pad(logits, (0, 0, 1, 0))  # background first
        assigned = logits.gather(1, true).squeeze(1)
        return assigned - logits.scatter(1, true, -math.inf).amax(1)

    def _logits(self) -> Tensor:
        if self.logits is None:
            raise InputError("this detector's outcome has no logits, which the sampler's heuristic needs")
        return self.logits.float()

    def _one_hot(self, logits: Tensor) -> Tensor:
        """[B, C, L] bool; all False at background."""
        classes = torch.arange(1, logits.shape[1] + 1, device=logits.device).view(1, -1, 1)
        return self.labels.unsqueeze(1) == classes

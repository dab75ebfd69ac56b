"""What every location of a batch should say, and the loss that its terms add up to: shared by the detectors.

A location is whatever a detector classifies: a cell of a map or of a pyramid, an anchor, a proposal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from isod.detector.boxes import paired_iou
from isod.detector.model import DetectionLoss
from isod.objects import Objects
from isod.outcome import Outcome


@dataclass(frozen=True)
class Targets:
    """What the locations of each of B images should say, [B, L] or as the detector's map lays them out."""

    object_index: Tensor  # [B, …] int64, the object that owns the location, -1 for background
    labels: Tensor  # [B, …] int64, its class; 0 where background or unknown
    care: Tensor  # [B, …] bool, False where the class is unknown: that location never trains the class
    boxes: Tensor  # [B, …, 4] float32, its box in xyxy pixels; 0 for background


UNDECIDED = -2  # in place of an owner: neither object nor background, as torchvision's Matcher has it


def targets_of(objects: Objects, owners: Tensor, centres: Tensor) -> Targets:
    """Return the targets of locations whose owners are known.

    The class is unknown where a don't-care object owns the location, and where a background location lies inside of a
    don't-care box. A location of another object keeps its class there.

    Args:
        objects: tensors of the batch.
        owners: [B, L] int64, which object owns each location; -1 for background, UNDECIDED for a location that counts
            nowhere: an anchor between RetinaNet's two IoU thresholds, or padding.
        centres: [B or 1, L, 2] float32, x and y of each location, pixels.
    """
    owned = owners >= 0
    place = owners.clamp(min=0)
    labels = torch.where(owned, objects.labels.gather(1, place), 0)
    boxes = objects.boxes.gather(1, place[..., None].expand(-1, -1, 4)) * owned[..., None]
    x, y = centres[..., None, :].unbind(-1)  # [B or 1, L, 1]
    x1, y1, x2, y2 = objects.boxes[:, None].unbind(-1)  # [B, 1, M]
    hidden = ((x > x1) & (x < x2) & (y > y1) & (y < y2) & objects.dont_care[:, None]).any(-1)
    care = torch.where(owned, labels > 0, ~hidden & (owners != UNDECIDED))
    return Targets(owners.clamp(min=-1), labels, care, boxes)


def sigmoid_terms(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the one-hot targets and the binary cross-entropy of each logit, both [B, L, C] float32.

    Args:
        logits: [B, L, C], one per class 1…C; labels: [B, L] int64, 0 for background.
    """
    classes = torch.arange(1, logits.shape[-1] + 1, device=logits.device)
    one_hot = (labels[..., None] == classes).float()
    return one_hot, functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")


@dataclass(frozen=True)
class LossTerms:
    """The terms of a batch by location, with gradient, before any of them is averaged."""

    class_loss: Tensor  # [B, L] what the class part sums up: −log a, or the focal loss; read where care
    box_loss: Tensor  # [B, L] read where an object owns the location
    extra: Tensor | None = None  # [B, L] a third part, such as centre-ness; read as the box part is


def outcome_of(
    objects: Objects,
    targets: Targets,
    *,
    logits: Tensor,
    activation: str,
    class_loss: Tensor,
    box_loss: Tensor,
    predicted: Tensor,
) -> Outcome:
    """Return the outcome of a forward pass, detached.

    Args:
        logits: [B, L, K].
        class_loss: [B, L] −log a.
        box_loss: [B, L].
        predicted: [B, L, 4] float32, xyxy pixels.
    """
    owned = targets.object_index >= 0
    iou, _ = paired_iou(predicted.detach(), targets.boxes)
    return Outcome(
        logits=logits.detach().transpose(1, 2),
        activation=activation,  # type: ignore[arg-type]
        labels=targets.labels,
        care=targets.care,
        object_index=targets.object_index,
        class_loss=torch.where(targets.care, class_loss.detach(), 0.0),
        box_loss=torch.where(owned, box_loss.detach(), 0.0),
        iou=torch.where(owned, iou, 0.0),
        object_area=objects.area(),
        object_labels=objects.labels,
    )


def sum_by_image(terms: Tensor, counted: Tensor, weights: Tensor | None) -> Tensor:
    """Return the sum of each image's terms, [B].

    Args:
        terms: [B, L], finite where counted; counted: [B, L] bool; weights: [B, L], or None for ones.
    """
    terms = torch.where(counted, terms, 0.0)
    return (terms if weights is None else terms * weights).sum(1)


def mean_loss(
    terms: LossTerms,
    targets: Targets,
    *,
    over: Literal["positives", "image_positives", "locations"],
    example_weights: Tensor | None,
    region_weights: Tensor | None,
    sum_counts: Callable[[Tensor], Tensor] | None,
) -> DetectionLoss:
    """Return each part's sum over the batch, divided by what the detector divides by; at least 1.

    Args:
        over: what the sums are divided by. "positives": the batch's positive locations; those whose class is known for
            the class part. "image_positives": each image's sum by its own, then the mean over the images. "locations":
            all that have a class loss.
        example_weights: [B], multiplies each image's terms; None for ones.
        region_weights: [B, L] ≥ 0, what a region method gives each location; one of 0 counts nowhere.
        sum_counts: as of ``configure_loss``.
    """
    positive, care = targets.object_index >= 0, targets.care
    if region_weights is not None:
        positive, care = positive & (region_weights > 0), care & (region_weights > 0)
    parts = [sum_by_image(terms.class_loss, care, region_weights), sum_by_image(terms.box_loss, positive, None)]
    if terms.extra is not None:
        parts.append(sum_by_image(terms.extra, positive, None))
    counts = torch.stack([care if over == "locations" else positive & care, positive]).sum(2)  # [2, B]
    whole = torch.tensor([counts.shape[1]], device=counts.device) if over == "image_positives" else counts.sum(1)
    if sum_counts is not None:
        whole = sum_counts(whole)
    divisors = whole.clamp(min=1)[:, None]
    if over == "image_positives":
        divisors = counts.clamp(min=1) * divisors
    elif over == "locations":
        divisors = divisors[:1].expand(2, 1)
    weights = 1.0 if example_weights is None else example_weights.float()
    means = [(part * weights / divisors[min(number, 1)]).sum() for number, part in enumerate(parts)]
    return DetectionLoss(*means)

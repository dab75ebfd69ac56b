"""The training loss of a batch, and its outcome by location, which the sample scores read (thesis eq. 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from isod.config.settings import RegionConfig
from isod.detector.boxes import paired_iou
from isod.detector.model import DetectionLoss
from isod.detector.regions import region_weights
from isod.detector.thesis.targets import assign_targets, decode_boxes
from isod.objects import Objects
from isod.outcome import Outcome


class Group(NamedTuple):
    """Locations whose losses are averaged."""

    weights: Tensor | float  # [B, h, w] float32, or a number: what the loss of each location is multiplied by
    divisor: Tensor  # [] int64: what the weighted sum is divided by
    locations: Tensor  # [] int64: how many they are; a group's part in the whole is in proportion to the root


def count_locations(counted: Tensor, object_index: Tensor, num_objects: int) -> list[Group]:
    """Every location counts as one: eq. 4.1. Arguments and result as of ``count_objects``."""
    locations = counted.sum()
    return [Group(1.0, locations, locations)]


def count_objects(counted: Tensor, object_index: Tensor, num_objects: int) -> list[Group]:
    """Every object counts as one, however many locations it owns, and so does the background of every image.

    Location x of object o in image b gets 1/n(b, o), n(b, o) being how many of its locations count, so that a part of
    the loss becomes the mean of object means,

        (1/K) · Σ_b w_b · Σ_o (1/n(b, o)) · Σ_{x ∈ o} ℓ(x),

    with K objects in the batch that have a location that counts, and w_b the example weights. A large object then no
    longer outweighs a small one, which is what §6.3.1 of the thesis means by object normalisation; it gives no formula.
    The objects are those of its object-wise reduction (§4.2.4): of one image, this is its LIS score.

    Args:
        counted: [B, h, w] bool, locations that have a loss.
        object_index: [B, h, w] int64, owner of the location, −1 for the background.
        num_objects: M, most objects of an image.
    Returns:
        The groups whose means are the loss.
    """
    weights, counts = _object_shares(counted, object_index, num_objects)
    objects = (counts > 0).sum()
    return [Group(weights, objects, objects)]


def count_balanced(counted: Tensor, object_index: Tensor, num_objects: int) -> list[Group]:
    """Every object counts as one, every location of the background counts as one, and neither side drowns the other.

    With P locations of K objects and Q locations of background that count in the batch, a part of the loss is

        f/K · Σ_b w_b · Σ_o (1/n(b, o)) · Σ_{x ∈ o} ℓ(x)  +  (1 − f)/Q · Σ_b w_b · Σ_{x ∈ background} ℓ(x),

    f = √P / (√P + √Q): between eq. 4.1, where the objects have P/(P + Q) of the loss, and equal halves. Objects of any
    size train alike, as with ``count_objects``, while many small objects leave the background its part, and an image
    without objects does not silence those of the others.
    """
    weights, counts = _object_shares(counted, object_index, num_objects)
    owned = object_index >= 0
    background = counted & ~owned
    behind = background.sum()
    return [
        Group(weights * owned, (counts[:, :num_objects] > 0).sum(), counted.sum() - behind),
        Group(background, behind, behind),
    ]


def _object_shares(counted: Tensor, object_index: Tensor, num_objects: int) -> tuple[Tensor, Tensor]:
    """1/n(b, o) [B, h, w] of each location, 0 where it does not count, and n [B, M+1], the background last."""
    owner = torch.where(object_index >= 0, object_index, num_objects).flatten(1)  # [B, h·w]
    counts = counted.new_zeros((len(owner), num_objects + 1), dtype=torch.float32)
    counts = counts.scatter_add(1, owner, counted.flatten(1).float())
    return (counted.flatten(1) / counts.clamp(min=1).gather(1, owner)).view(counted.shape), counts


EVERY_REGION = RegionConfig()
NORMALISATIONS: dict[str, Callable[[Tensor, Tensor, int], list[Group]]] = {
    "location": count_locations,
    "object": count_objects,
    "balanced": count_balanced,
}


def detection_loss(
    logits: Tensor,
    offsets: Tensor,
    objects: Objects,
    *,
    quality: Tensor | None = None,
    example_weights: Tensor | None = None,
    normalisation: str = "location",
    regions: RegionConfig = EVERY_REGION,
    sum_counts: Callable[[Tensor], Tensor] | None = None,
) -> tuple[DetectionLoss, Outcome]:
    """Eq. 4.1: softmax cross-entropy averaged over the locations whose class is known, plus GIoU loss averaged over the
    positive locations, don't-care objects included. A part with no location to average over is 0. With the
    normalisation "object" either part is instead averaged over objects, see ``count_objects``; with "balanced" see
    ``count_balanced``.

    Everything is float32, also under autocast, and nothing waits for the host.

    Args:
        logits: [B, 1+C, h, w]; offsets: [B, 4, h, w] ≥ 0 in strides.
        objects: the batch's objects, on the same device.
        quality: [B, h, w], logits of the predicted box's IoU, where the detector predicts it. Their cross-entropy with
            the true IoU, averaged as the box loss is, is the extra part (Wu, Li & Wang 2020, eq. 3).
        example_weights: [B], multiplies both parts of each image's loss (1/(N·p) of the draw); None for ones.
        normalisation: a key of NORMALISATIONS. The outcome, and so the sample scores, do not depend on it.
        regions: which locations train; the outcome does not depend on it either.
        sum_counts: where these images are a part of a larger batch, makes the counts [groups, 2] int64 of the part
            those of the whole: either loss is then this part's share of the batch's, and the shares of all parts add up
            to it.
    """
    logits, offsets = logits.float(), offsets.float()
    targets = assign_targets(objects, (logits.shape[2], logits.shape[3]))
    positive = targets.object_index >= 0
    class_loss = functional.cross_entropy(logits, targets.labels, reduction="none") * targets.care
    boxes = decode_boxes(offsets)
    iou, box_loss = paired_iou(boxes, targets.boxes)
    iou, box_loss = torch.where(positive, iou, 0.0), torch.where(positive, box_loss, 0.0)

    outcome = Outcome(
        logits=logits.detach().flatten(2),
        labels=targets.labels.flatten(1),
        care=targets.care.flatten(1),
        object_index=targets.object_index.flatten(1),
        class_loss=class_loss.detach().flatten(1),
        box_loss=box_loss.detach().flatten(1),
        iou=iou.detach().flatten(1),
        object_area=objects.area(),
        object_labels=objects.labels,
    )
    care, factors = targets.care, 1.0 if example_weights is None else example_weights.float().view(-1, 1, 1)
    class_factors = factors
    chosen = region_weights(regions, outcome, outcome.class_loss, boxes.detach().flatten(1, 2))
    if chosen is not None:
        chosen = chosen.view_as(care)
        care, positive = care & (chosen > 0), positive & (chosen > 0)
        class_factors = factors * chosen
    normalise, num_objects = NORMALISATIONS[normalisation], objects.boxes.shape[1]
    class_groups = normalise(care, targets.object_index, num_objects)
    box_groups = normalise(positive, targets.object_index, num_objects)
    counts = torch.stack([torch.stack([group.divisor, group.locations]) for group in (*class_groups, *box_groups)])
    counts = counts if sum_counts is None else sum_counts(counts)

    def mean(loss: Tensor, groups: list[Group], counts: Tensor) -> Tensor:
        roots = counts[:, 1].sqrt()
        means = torch.stack([(loss * group.weights).sum() for group in groups]) / counts[:, 0].clamp(min=1)
        return (means * (roots / roots.sum().clamp(min=1))).sum()

    split = len(class_groups)
    mean_class = mean(class_loss * class_factors, class_groups, counts[:split])
    mean_box = mean(box_loss * positive * factors, box_groups, counts[split:])
    if quality is None:
        return DetectionLoss(mean_class, mean_box), outcome
    quality_loss = functional.binary_cross_entropy_with_logits(quality.float(), iou.detach(), reduction="none")
    extra = mean(quality_loss * positive * factors, box_groups, counts[split:])
    return DetectionLoss(mean_class, mean_box, extra), outcome

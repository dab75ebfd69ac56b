"""Reductions: scores of locations → object scores → one score per image (thesis §4.2.4).

Locations are first averaged per object, so that a large object counts no more than a small one; then the objects of an
image are reduced to one number, separately for the class part and the box part. Which locations count:

* class part: locations whose class is known (``care``). All background locations of an image together are one more
  object. An object all of whose locations are don't-care has no class part.
* box part: locations that an object owns, don't-care objects included. The background has none.

An object with no location that counts is left out; an image with no such object scores 0 in that part.

To add one, write a function here that takes an ObjectScores and returns [B] float32 ≥ 0, and give it a row of
``isod.sampling.catalogue.REDUCTIONS``. A function of another package needs no row: a sampler names it,
``reduction="my_package.scores:median"``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isod.outcome import Outcome
from isod.sampling.catalogue import find_heuristic, find_reduction, weighs_classes
from isod.sampling.samplers import SamplerConfig

LOCATION_SIDE = 8.0  # pixels; side of one location of the stride-8 map (spec §2)


@dataclass(frozen=True)
class ObjectScores:
    """One part (class or box) of the scores of every object in the batch; the last column is the background."""

    means: Tensor  # [B, M+1] float32; mean of the scores over the object's locations that count, 0 where there are none
    counts: Tensor  # [B, M+1] float32; how many locations those are
    values: Tensor  # [B, L] float32; the scores where they count, else 0
    scale: Tensor  # [B, M+1] float32; √area of the object in location sides; 1 for the background
    labels: Tensor  # [B, M+1] int64; class of each object, 1…C; 0 for background, don't-care and padding
    class_weights: Tensor | None = None  # [C+1] float32; for reductions that weigh classes

    @property
    def present(self) -> Tensor:
        """[B, M+1] float32: 1 for the objects that have a location that counts, else 0."""
        return (self.counts > 0).float()


def object_scores(
    scores: Tensor,
    counted: Tensor,
    object_index: Tensor,
    object_area: Tensor,
    object_labels: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> ObjectScores:
    """Return the mean of ``scores`` [B, L] over the ``counted`` [B, L] locations of each object and of the background.

    Args:
        object_index: [B, L] int64; owner of the location, −1 for background.
        object_area: [B, M] float32; pixels².
        object_labels: [B, M] int64; 1…C, 0 where the class is unknown; zeros by default.
        class_weights: [C + 1] float32, for reductions that weigh classes.
    """
    images, objects = object_area.shape
    weights = counted.float()
    values = torch.where(counted, scores.float(), 0.0)
    both = torch.stack([values, weights], dim=1)  # [B, 2, L]; every operation is a kernel for a GPU's host to launch
    owner = object_index.unsqueeze(1)
    owned = both * (owner >= 0)
    sums = both.new_zeros(images, 2, objects + 1)
    if objects:
        sums[..., :objects].scatter_add_(2, owner.clamp(min=0).expand_as(owned), owned)
    sums[..., objects] = (both - owned).sum(2)  # background, summed densely: one after the other it would lose digits
    total, counts = sums.unbind(1)
    scale = torch.cat([object_area.float().sqrt() / LOCATION_SIDE, torch.ones_like(total[:, :1])], dim=1)
    if object_labels is None:
        object_labels = torch.zeros_like(object_area, dtype=torch.int64)
    labels = torch.nn.functional.pad(object_labels, (0, 1))
    return ObjectScores(total / counts.clamp(min=1), counts, values, scale, labels, class_weights)


def mean(part: ObjectScores) -> Tensor:
    """Return the mean over objects: the thesis's own."""
    return part.means.sum(1) / part.present.sum(1).clamp(min=1)


def total(part: ObjectScores) -> Tensor:
    """Return the sum over objects: favours images with many objects."""
    return part.means.sum(1)


def largest(part: ObjectScores) -> Tensor:
    """Return the highest object score."""
    return part.means.amax(1)


def rms(part: ObjectScores) -> Tensor:
    """Return the root of the mean of the squared object scores."""
    return (part.means.square().sum(1) / part.present.sum(1).clamp(min=1)).sqrt()


def area_mean(part: ObjectScores) -> Tensor:
    """Return the mean over objects of √area · score, √area in location sides: favours images with large, hard objects.

    The scores are scaled and then averaged, as in §4.2.4: the weights are not normalised to 1. The background has no
    box and counts as one location.
    """
    return (part.means * part.scale).sum(1) / part.present.sum(1).clamp(min=1)


def masked_mean(part: ObjectScores) -> Tensor:
    """Return the mean over locations, objects ignored: eq. 4.4 as printed."""
    return (part.means * part.counts).sum(1) / part.counts.sum(1).clamp(min=1)


def class_max(part: ObjectScores) -> Tensor:
    """Return the sum over classes of class weight · highest object score of that class (ours).

    The weights are repeat factors, f^−½ of the share f of images with the class, and ¼ for the background, with which
    objects of unknown class are counted; ``isod.sampling.priors.class_weights``. Unlike a prior, a rare object that is
    learnt attracts nothing. Where nobody gives weights, each class weighs 1 and the background ¼.
    """
    weights, labels = part.class_weights, part.labels
    same = labels.unsqueeze(2) == labels.unsqueeze(1)  # [B, M+1, M+1]
    highest = torch.where(same, part.means.unsqueeze(1), 0.0).amax(2)
    first = ~(same & (part.means.unsqueeze(1) == highest.unsqueeze(2))).tril(-1).any(2)  # one object of each class …
    counted = (part.means == highest) & first  # … which has the highest score
    each = torch.where(labels > 0, 1.0, 0.25) if weights is None else weights[labels]
    return torch.where(counted, each * highest, 0.0).sum(1)


def norm(part: ObjectScores) -> Tensor:
    """Return the root of the sum of squares over locations, divided by their number.

    With the gradient norm per location it is the norm of the gradient of the image's mean loss (Katharopoulos &
    Fleuret 2018).
    """
    return part.values.square().sum(1).sqrt() / part.counts.sum(1).clamp(min=1)


@torch.no_grad()
def sample_scores(outcome: Outcome, sampler: SamplerConfig, class_weights: Tensor | None = None) -> Tensor:
    """Return the score of every image of the batch: w_cls · class part + w_reg · box part (§4.2.4, §4.3).

    Scores are computed in float32 whatever autocast says, on the outcome's device, with no host synchronisation.

    Args:
        class_weights: [C + 1] float32 on the outcome's device, for reductions that weigh classes.
    Returns:
        [B] float32, ≥ 0. Zeros for a sampler without a heuristic (the baseline).
    Raises:
        InputError: the outcome lacks the logits or the IoU that the heuristic needs; or the sampler names a function of
            another package that does not exist; or the reduction weighs classes, and the outcome knows no objects.
    """
    if sampler.heuristic is None:
        return torch.zeros(len(outcome.labels), dtype=torch.float32, device=outcome.labels.device)
    heuristic, reduction = find_heuristic(sampler.heuristic), find_reduction(sampler.reduction)
    if weighs_classes(sampler.reduction):
        outcome.require_objects(f"reduction {sampler.reduction!r}")
    with torch.autocast(outcome.labels.device.type, enabled=False):
        class_scores, box_scores = heuristic(outcome)
        parts = [
            (sampler.class_weight, class_scores, outcome.care),
            (sampler.box_weight, box_scores, outcome.object_index >= 0),
        ]
        weights, scores, counted = zip(*(part for part in parts if part[0]), strict=True)
        copies = len(scores)  # the parts as one batch, of twice the images where there are both
        of_objects = (outcome.object_index, outcome.object_area, outcome.object_labels)
        index, area, labels = (values.repeat(copies, 1) for values in of_objects)
        parted = object_scores(torch.cat(scores), torch.cat(counted), index, area, labels, class_weights)
        reduced = reduction(parted)
        return sum(weight * part for weight, part in zip(weights, reduced.chunk(copies), strict=True))

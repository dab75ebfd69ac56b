"""Which regions of an image train the detector, and how much: the methods of the thesis's chapter 3 (§3.2).

They choose among the locations of images that were drawn already, so that each can be combined with any sampler. None
of them changes an outcome, and so the sample scores: an example's score says what all of its locations can teach.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from isod.config.settings import RegionConfig
from isod.errors import InputError
from isod.outcome import Outcome

SAME_REGION = 0.7  # IoU above which two predicted boxes count as one region (Shrivastava et al. 2016, §4)


def check_one_stage(config: RegionConfig, detector: str) -> None:
    """Raise InputError for the method that only a two-stage detector has."""
    if config.method == "ohem":
        raise InputError(
            f"detector {detector} has one stage and no proposals, which regions.method ohem chooses among: lrm is the "
            "same for one stage"
        )


def region_weights(config: RegionConfig, outcome: Outcome, class_loss: Tensor, boxes: Tensor) -> Tensor | None:
    """Return what each location's class loss is multiplied by, [B, L] float32; None for ones.

    A location of weight 0 counts nowhere: neither in a sum nor in what the sum is divided by.

    Args:
        outcome: of the batch.
        class_loss: [B, L] float32, what a location adds to the class part before averages; detached, 0 where care is
            False. The box part's is the outcome's.
        boxes: [B, L, 4] float32, predicted, xyxy pixels; detached.
    """
    if config.method in ("ohem", "lrm"):
        return hardest(class_loss + outcome.box_loss, boxes, outcome.care | (outcome.object_index >= 0), config.kept)
    if config.method == "pisa":
        assert outcome.iou is not None
        return prime_weights(outcome, class_loss, bias=config.bias, power=config.power)
    return None


def hardest(losses: Tensor, boxes: Tensor, counted: Tensor, kept: int) -> Tensor:
    """Return 1 at the ``kept`` locations of the highest loss of each image, else 0: [B, L] float32.

    Of locations that predict the same region (IoU above 0.7) only the one of the highest loss is a candidate, as else
    one region's loss would count several times. Over the proposals of a two-stage detector this is online hard example
    mining: all proposals are evaluated, and the hardest train (Shrivastava, Gupta & Girshick 2016, §4). Over the final
    map of a one-stage detector it is loss rank mining (Yu et al. 2018, §3). The thesis (§3.2) objects that a fixed k
    suits a map of a small stride badly, where the number of locations that an object owns varies widely between images.

    Args:
        losses: [B, L]; boxes: [B, L, 4] xyxy pixels; counted: [B, L] bool, locations that have a loss.
    """
    weights = torch.zeros_like(losses)
    for image in range(len(losses)):
        places = counted[image].nonzero().squeeze(1)
        chosen = nms(boxes[image, places], losses[image, places], SAME_REGION)[:kept]
        weights[image, places[chosen]] = 1.0
    return weights


def hierarchical_rank(iou: Tensor, objects: Tensor) -> Tensor:
    """Return the place of each sample in its class by hierarchical local rank, [n] int64 from 0.

    Samples are ranked within their object by IoU; then the best of every object come first, by IoU, then the second
    best of every object, and so on (Cao et al. 2020, §4.1).

    Args:
        iou: [n] of samples of one class; objects: [n] int64, which object each belongs to.
    """
    order = iou.argsort(descending=True, stable=True)
    by_object = order[objects[order].argsort(stable=True)]  # object by object, IoU descending within
    _, counts = torch.unique_consecutive(objects[by_object], return_counts=True)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    local = torch.empty_like(order)
    local[by_object] = torch.arange(len(iou), device=iou.device) - starts
    final = order[local[order].argsort(stable=True)]
    ranks = torch.empty_like(order)
    ranks[final] = torch.arange(len(iou), device=iou.device)
    return ranks


def prime_weights(outcome: Outcome, class_loss: Tensor, *, bias: float, power: float) -> Tensor:
    """Return the weights of importance-based sample reweighting, [B, L] float32 (Cao et al. 2020, eq. 2 to 4).

    With the rank r of a positive location in its class, and n the most positive locations of any class,

        u = (n − r) / n,    w = ((1 − β)·u + β)^γ,    w' = w · Σ ℓ / Σ w·ℓ,

    both sums over the positive locations of the batch and ℓ being their class loss, whose total so stays the
    same. Other locations have weight 1, as the paper has it for one-stage detectors.

    Args:
        class_loss: [B, L]; bias: β; power: γ.
    """
    weights = torch.ones_like(outcome.class_loss)
    positive = (outcome.object_index >= 0) & outcome.care
    image, place = positive.nonzero(as_tuple=True)
    if not len(image):
        return weights
    labels, iou = outcome.labels[image, place], outcome.iou[image, place]  # type: ignore[index]
    owners = image * outcome.object_area.shape[1] + outcome.object_index[image, place]
    ranks = torch.empty_like(labels)
    for label in labels.unique():
        own = labels == label
        ranks[own] = hierarchical_rank(iou[own], owners[own])
    most = labels.bincount().max()
    importance = ((1 - bias) * (most - ranks) / most + bias) ** power
    loss = class_loss[image, place]
    weights[image, place] = importance * loss.sum() / (importance * loss).sum().clamp(min=1e-12)
    return weights

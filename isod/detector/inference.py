"""From what a detector says of each location to its detections: non-maximum suppression (thesis §4.1.5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from isod.config.settings import DetectorConfig

# (location, class) pairs that enter NMS, the highest-scoring ones, as many as torchvision's FCOS takes of each of its
# maps. A single large object may hold them all, so that an image in which they leave room for more detections is looked
# at again, with all of them.
CANDIDATES_PER_IMAGE = 1000


def suppress(scores: Tensor, boxes: Tensor, config: DetectorConfig) -> list[dict[str, Tensor]]:
    """Return the detections above ``config.score_floor`` after per-class NMS: what AP needs.

    What is shown to people is the part of them above a higher score; as NMS goes in score order,
    filtering after it gives what NMS over only those would give.

    Args:
        scores: [B, C, L] in 0…1, of each class at each location.
        boxes: [B, L, 4] xyxy pixels, clipped to the image; [B, C, L, 4] where each class has its own.
    Returns:
        One dict an image, torchvision's form, in score order, on the CPU: ``boxes`` [n, 4] float32 xyxy pixels,
        ``scores`` [n] float32, ``labels`` [n] int64 in 1…C.
    """
    found, lowest = _suppressed(scores, boxes, CANDIDATES_PER_IMAGE, config)
    again = [
        image
        for image, score in enumerate(lowest.tolist())
        if score >= config.score_floor and len(found[image]["scores"]) < config.detections_per_image
    ]
    if again:  # NMS goes in score order: what it kept so far, it keeps
        more, _ = _suppressed(scores[again], boxes[again], scores[0].numel(), config)
        for image, detections in zip(again, more, strict=True):
            found[image] = detections
    return found


def _suppressed(
    every: Tensor, boxes: Tensor, candidates: int, config: DetectorConfig
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Detections among so many candidates per image, in ``suppress``'s form, and the score [B] of the last candidate, 0
    where there are no more. The first two arguments are those of ``suppress``.
    """
    limit = config.detections_per_image
    images, classes, locations = every.shape
    by_class = boxes.dim() == 4
    boxes, every = (boxes.flatten(1, 2) if by_class else boxes), every.flatten(1)
    scores, flat = every.topk(min(candidates, every.shape[1]), dim=1)
    lowest = scores[:, -1] if candidates < every.shape[1] else torch.zeros_like(scores[:, -1])
    image, rank = (scores >= config.score_floor).nonzero(as_tuple=True)
    pair = flat[image, rank]
    labels = pair // locations + 1
    boxes = boxes[image, pair if by_class else pair % locations]
    scores = scores[image, rank]
    # on the host: of many boxes NMS goes class by class, image by image, and keeps a GPU and all who share it waiting
    image, labels, boxes, scores = (item.cpu() for item in (image, labels, boxes, scores))
    # of few boxes it sets the groups apart by adding to their coordinates: in float32 that would move boxes
    keep = batched_nms(boxes.double(), scores.double(), image * (1 + classes) + labels, config.nms_threshold)
    keep = keep[image[keep].argsort(stable=True)]  # by image, score order within
    counts = torch.bincount(image[keep], minlength=images).tolist()
    parts = zip(boxes[keep].split(counts), scores[keep].split(counts), labels[keep].split(counts), strict=True)
    return [{"boxes": b[:limit], "scores": s[:limit], "labels": c[:limit]} for b, s, c in parts], lowest

"""From a prediction map to detections (thesis §4.1.5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from isod.config.settings import DetectorConfig
from isod.detector.thesis.targets import decode_boxes

# (location, class) pairs that enter NMS, the highest-scoring ones, as many as torchvision's FCOS takes of each of its
# maps. A single large object may hold them all, so that an image in which they leave room for more detections is looked
# at again, with all of them.
CANDIDATES_PER_IMAGE = 1000


def detections(
    logits: Tensor, offsets: Tensor, image_size: tuple[int, int], config: DetectorConfig
) -> list[dict[str, Tensor]]:
    """Detections above ``config.score_floor`` after per-class NMS: what AP needs.

    What is shown to people is the part of them with ``scores >= config.display_threshold``; as NMS goes in score order,
    filtering after it gives what NMS over only those would give.

    Args:
        logits: [B, 1+C, h, w]; offsets: [B, 4, h, w]; image_size: (H, W) pixels, to which boxes are clipped.
    Returns:
        One dict an image, torchvision's form, in score order, on the CPU: ``boxes`` [n, 4] float32 xyxy pixels,
        ``scores`` [n] float32 softmax probabilities, ``labels`` [n] int64 in 1…C.
    """
    scores, boxes = candidates(logits, offsets, image_size)
    probabilities = scores.flatten(1)  # [B, C·h·w]
    found, lowest = _suppressed(probabilities, boxes, CANDIDATES_PER_IMAGE, config)
    again = [
        image
        for image, score in enumerate(lowest.tolist())
        if score >= config.score_floor and len(found[image]["scores"]) < config.detections_per_image
    ]
    if again:  # NMS goes in score order: what it kept so far, it keeps
        more, _ = _suppressed(probabilities[again], boxes[again], probabilities.shape[1], config)
        for image, detections in zip(again, more, strict=True):
            found[image] = detections
    return found


def candidates(logits: Tensor, offsets: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return what NMS chooses from: scores [B, C, h·w] and clipped boxes [B, h·w, 4]; arguments of ``detections``."""
    scores = logits.float().softmax(dim=1)[:, 1:].flatten(2)
    return scores, clip_boxes_to_image(decode_boxes(offsets).flatten(1, 2), image_size)


def _suppressed(
    probabilities: Tensor, boxes: Tensor, candidates: int, config: DetectorConfig
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Detections among so many candidates per image, in ``detect``'s form, and the score [B] of the last candidate, 0
    where there are no more.

    Args:
        probabilities: [B, C·h·w]; boxes: [B, h·w, 4] xyxy pixels.
    """
    locations, limit = boxes.shape[1], config.detections_per_image
    classes = probabilities.shape[1] // locations
    scores, flat = probabilities.topk(min(candidates, probabilities.shape[1]), dim=1)
    lowest = scores[:, -1] if candidates < probabilities.shape[1] else torch.zeros_like(scores[:, -1])
    image, rank = (scores >= config.score_floor).nonzero(as_tuple=True)
    labels = flat[image, rank] // locations + 1
    boxes = boxes[image, flat[image, rank] % locations]
    scores = scores[image, rank]
    # on the host: of many boxes NMS goes class by class, image by image, and keeps a GPU and all who share it waiting
    image, labels, boxes, scores = (item.cpu() for item in (image, labels, boxes, scores))
    # of few boxes it sets the groups apart by adding to their coordinates: in float32 that would move boxes
    keep = batched_nms(boxes.double(), scores.double(), image * (1 + classes) + labels, config.nms_threshold)
    keep = keep[image[keep].argsort(stable=True)]  # by image, score order within
    counts = torch.bincount(image[keep], minlength=len(probabilities)).tolist()
    parts = zip(boxes[keep].split(counts), scores[keep].split(counts), labels[keep].split(counts), strict=True)
    return [{"boxes": b[:limit], "scores": s[:limit], "labels": c[:limit]} for b, s, c in parts], lowest

"""Boxes compared place by place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def paired_iou(boxes: Tensor, targets: Tensor, eps: float = 1e-7) -> tuple[Tensor, Tensor]:
    """IoU and GIoU loss of each box with the target beside it.

    torchvision's losses give either number but not both from one pass, and its ``box_iou`` gives all pairs; the tests
    hold this against them.

    Args:
        boxes, targets: [..., 4] float32, xyxy pixels.
    Returns:
        IoU in 0…1 and 1 − GIoU in 0…2 (thesis §2.2.5.2), each [...] float32.
    """
    (x1, y1, x2, y2), (u1, v1, u2, v2) = boxes.unbind(-1), targets.unbind(-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    intersection = width * height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection
    hull = (torch.maximum(x2, u2) - torch.minimum(x1, u1)) * (torch.maximum(y2, v2) - torch.minimum(y1, v1))
    iou = intersection / (union + eps)
    return iou, 1 - iou + (hull - union) / (hull + eps)


def centres_of(boxes: Tensor) -> Tensor:
    """Return x and y of the centre of each box, [..., 2] of [..., 4] xyxy pixels."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def within(found: Mapping[str, Tensor], height: int, width: int) -> dict[str, Tensor]:
    """Return detections clipped to the upper left ``height`` × ``width`` pixels, without those that leave nothing.

    A crop that is smaller than its batch lies there, and the rest is padding.

    Args:
        found: of one image, as ``DetectorModel.detect`` returns them.
    """
    boxes = found["boxes"].clamp(min=0).minimum(found["boxes"].new_tensor([width, height, width, height]))
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return {name: value[keep] for name, value in {**found, "boxes": boxes}.items()}

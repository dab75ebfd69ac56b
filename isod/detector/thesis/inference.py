"""From a prediction map to the candidates of non-maximum suppression (thesis §4.1.5)."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from isod.detector.thesis.targets import decode_boxes


def candidates(logits: Tensor, offsets: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the softmax scores [B, C, h·w] of the C classes, and the boxes [B, h·w, 4] in xyxy pixels.

    Args:
        logits: [B, 1+C, h, w]; offsets: [B, 4, h, w]; image_size: (H, W) pixels, to which boxes are clipped.
    """
    scores = logits.float().softmax(dim=1)[:, 1:].flatten(2)
    return scores, clip_boxes_to_image(decode_boxes(offsets).flatten(1, 2), image_size)

"""From a prediction map to the candidates of non-maximum suppression (thesis §4.1.5)."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from isod.detector.thesis.targets import decode_boxes


def candidates(
    logits: Tensor, offsets: Tensor, image_size: tuple[int, int], *, quality: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the scores [B, C, h·w] of the C classes, and the boxes [B, h·w, 4] in xyxy pixels.

    A score is the softmax probability, or with ``quality`` √(probability · IoU), which ranks boxes by both.

    Args:
        logits: [B, 1+C, h, w]; offsets: [B, 4, h, w]; quality: [B, h, w], logits of the IoU; image_size: (H, W)
            pixels, to which boxes are clipped.
    """
    scores = logits.float().softmax(dim=1)[:, 1:].flatten(2)
    if quality is not None:
        scores = (scores * quality.float().sigmoid().flatten(1).unsqueeze(1)).sqrt()
    return scores, clip_boxes_to_image(decode_boxes(offsets).flatten(1, 2), image_size)

"""What one forward pass leaves behind, as the detector writes it and the heuristics read it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """Dense maps of one training forward pass (spec: "outcome"). All tensors are detached and on one device.

    B images, C classes, an h×w prediction map, at most M objects in an image. Computed in the mode that the training
    step ran in: batch statistics in the normalisation layers, the augmentation of that step.
    """

    logits: Tensor  # [B, 1+C, h, w] float32; class logits, channel 0 is the background
    labels: Tensor  # [B, h, w] int64; true class of the location, 0 where it is background or unknown
    care: Tensor  # [B, h, w] bool; False inside don't-care boxes, where the class is unknown
    object_index: Tensor  # [B, h, w] int64; which of the image's objects owns the location, -1 for background
    class_loss: Tensor  # [B, h, w] float32; softmax cross-entropy −log a; 0 where care is False
    box_loss: Tensor  # [B, h, w] float32; GIoU loss (0…2) where object_index ≥ 0, else 0
    iou: Tensor  # [B, h, w] float32; IoU of predicted and target box where object_index ≥ 0, else 0
    object_area: Tensor  # [B, M] float32; area of each object's box in pixels², 0 for padding

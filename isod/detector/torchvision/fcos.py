"""FCOS as torchvision has it (Tian et al. 2019; thesis §2.2.5): pyramid, focal loss, centre-ness."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection import FCOS
from torchvision.ops import sigmoid_focal_loss

from isod.config.settings import DetectorConfig
from isod.detector.boxes import centres_of, paired_iou
from isod.detector.locations import LossTerms, Targets, sigmoid_terms
from isod.detector.torchvision.dense import DenseDetector
from isod.detector.torchvision.pyramid import pyramid, seeded
from isod.errors import require
from isod.objects import Objects


class Fcos(DenseDetector, FCOS):
    """One square anchor a cell, of the size of its stride, at strides 8 to 128.

    The loss is torchvision's: focal loss, 1 − GIoU and centre-ness, each summed and divided by the batch's number of
    positive locations; centre-ness is ``DetectionLoss.extra``. A score is √(class · centre-ness).
    """

    center_sampling_radius: float  # torchvision's own, 1.5

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        # of a single number, which a group of one channel is on a map of one cell, a normalisation leaves nothing
        require(config.pyramid_channels >= 64, "fcos normalises its channels in 32 groups: detector.pyramid_channels "
                "must be ≥ 64", config.pyramid_channels)  # fmt: skip
        FCOS.__init__(self, pyramid(config, finest=8), num_classes)
        self.config = config

    def owners(self, objects: Objects, anchors: Tensor, cells: list[int]) -> Tensor:
        """Return the smallest object that a location is near the centre of, inside of, and on the right map for.

        Near: closer than ``center_sampling_radius`` strides to the box's centre along either axis. The right map: the
        furthest side is 4 to 8 strides away; less on the finest map, more on the coarsest (§3.2 and 3.3 of the paper).
        """
        stride = anchors[:, 2] - anchors[:, 0]  # [L]
        nearest, furthest = stride * 4, stride * 8
        nearest[: cells[0]], furthest[-cells[-1] :] = 0, torch.inf
        place = centres_of(anchors)  # [L, 2]
        corner, opposite = objects.boxes[:, :, None].split(2, dim=-1)  # [B, M, 1, 2]
        off_centre = (place - (corner + opposite) / 2).abs().amax(-1)  # [B, M, L]
        sides = torch.cat([place - corner, opposite - place], dim=-1)  # [B, M, L, 4]
        longest = sides.amax(-1)
        fits = (off_centre < self.center_sampling_radius * stride) & (sides.amin(-1) > 0)
        fits &= (longest > nearest) & (longest < furthest) & objects.valid[..., None]
        area, owner = torch.where(fits, objects.area()[..., None], torch.inf).min(dim=1)  # [B, L]
        return torch.where(area < torch.inf, owner, -1)

    def terms(self, outputs: dict[str, Tensor], targets: Targets, anchors: Tensor) -> tuple[LossTerms, Tensor]:
        """Return focal loss, 1 − GIoU and centre-ness by location, and the cross-entropy −log a."""
        logits = outputs["cls_logits"]
        one_hot, entropy = sigmoid_terms(logits, targets.labels)
        _, box_loss = paired_iou(self.decoded(outputs, anchors), targets.boxes)
        sides = self.box_coder.encode(anchors, targets.boxes).clamp(min=0)  # of background locations they mean nothing
        pairs = torch.stack([sides[..., 0::2], sides[..., 1::2]])  # left and right, top and bottom
        centreness = (pairs.amin(-1) / pairs.amax(-1).clamp(min=1e-9)).prod(0).sqrt()
        extra = functional.binary_cross_entropy_with_logits(
            outputs["bbox_ctrness"].squeeze(-1), centreness, reduction="none"
        )
        return LossTerms(sigmoid_focal_loss(logits, one_hot).sum(-1), box_loss, extra), entropy.sum(-1)

    def decoded(self, outputs: dict[str, Tensor], anchors: Tensor) -> Tensor:
        """Return the predicted boxes, [B, L, 4] float32 xyxy pixels, not clipped."""
        boxes: Tensor = self.box_coder.decode(outputs["bbox_regression"], anchors)
        return boxes

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return √(class probability · centre-ness), [B, L, C]."""
        return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()


def build(config: DetectorConfig, num_classes: int, seed: int) -> Fcos:
    """Build FCOS; a row of DETECTORS."""
    with seeded(seed):
        return Fcos(config, num_classes)

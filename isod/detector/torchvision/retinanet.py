"""RetinaNet as torchvision has it (Lin et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import sigmoid_focal_loss

from isod.config.settings import DetectorConfig
from isod.detector.locations import LossTerms, Targets, sigmoid_terms
from isod.detector.torchvision.dense import DenseDetector, box_codes, match_by_iou
from isod.detector.torchvision.pyramid import pyramid, seeded
from isod.objects import Objects


class Retina(DenseDetector, RetinaNet):
    """Nine anchors a cell at strides 8 to 128.

    The loss is torchvision's: focal loss and the L1 distance of the box codes, each summed and divided by an image's
    number of positive anchors, and averaged over the images. Anchors of an IoU of 0.4 to 0.5 are neither object nor
    background.
    """

    over = "image_positives"

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        bases = [config.anchor_scale * size for size in (32, 64, 128, 256, 512)]
        anchors = AnchorGenerator(
            tuple(tuple(int(base * 2 ** (step / 3)) for step in range(3)) for base in bases),  # type: ignore[arg-type]
            ((0.5, 1.0, 2.0),) * len(bases),
        )
        RetinaNet.__init__(self, pyramid(config, finest=8), num_classes, anchor_generator=anchors)
        self.config = config

    def owners(self, objects: Objects, anchors: Tensor, cells: list[int]) -> Tensor:
        """Return the object of the largest IoU of at least 0.5; each object also has the anchors that fit it best."""
        return torch.stack(match_by_iou(self.proposal_matcher, objects, [anchors] * len(objects)))

    def terms(self, outputs: dict[str, Tensor], targets: Targets, anchors: Tensor) -> tuple[LossTerms, Tensor]:
        """Return focal loss and L1 distance by anchor, and the cross-entropy −log a."""
        logits = outputs["cls_logits"]
        one_hot, entropy = sigmoid_terms(logits, targets.labels)
        box_loss = (outputs["bbox_regression"] - box_codes(self.box_coder, targets, anchors)).abs().sum(-1)
        return LossTerms(sigmoid_focal_loss(logits, one_hot).sum(-1), box_loss), entropy.sum(-1)

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return the class probabilities, [B, L, C]."""
        return outputs["cls_logits"].sigmoid()


def build(config: DetectorConfig, num_classes: int, seed: int) -> Retina:
    """Build RetinaNet; a row of DETECTORS."""
    with seeded(seed):
        return Retina(config, num_classes)

"""SSDlite as torchvision has it (Liu et al. 2016; Sandler et al. 2018, §6.2)."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import Conv2dNormActivation

from isod.config.settings import DetectorConfig
from isod.detector.locations import LossTerms, Targets
from isod.detector.torchvision.dense import DenseDetector, box_codes, match_by_iou
from isod.detector.torchvision.pyramid import body, seeded
from isod.objects import Objects
from isod.outcome import Outcome

EXTRA_CHANNELS = (512, 256, 256, 128)  # of the maps behind the backbone's, each of half the size of the one before
batch_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)  # as torchvision's SSDlite has it


class Maps(nn.Module):
    """Six maps from stride 16 on: two of a ResNet, four of depthwise strided blocks (Sandler et al. 2018, §6.2)."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        network, names, channels = body(config)
        self.body = IntermediateLayerGetter(network, {names[2]: "0", names[3]: "1"})
        self.extra = nn.ModuleList(
            nn.Sequential(
                Conv2dNormActivation(inputs, outputs // 2, 1, norm_layer=batch_norm, activation_layer=nn.ReLU6),
                Conv2dNormActivation(
                    outputs // 2,
                    outputs // 2,
                    3,
                    stride=2,
                    groups=outputs // 2,
                    norm_layer=batch_norm,
                    activation_layer=nn.ReLU6,
                ),
                Conv2dNormActivation(outputs // 2, outputs, 1, norm_layer=batch_norm, activation_layer=nn.ReLU6),
            )
            for inputs, outputs in pairwise((channels[3], *EXTRA_CHANNELS))
        )
        self.out_channels = [channels[2], channels[3], *EXTRA_CHANNELS]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.body(images)
        for number, block in enumerate(self.extra, start=2):
            maps[str(number)] = block(maps[str(number - 1)])
        return maps  # type: ignore[no-any-return]


class SsdLite(DenseDetector, SSD):
    """Six default boxes a cell of six maps, softmax with background.

    The loss is torchvision's: cross-entropy of the positive boxes and, in each image, of the hardest three times as
    many others, and smooth L1 of the box codes, each summed and divided by the batch's number of positive boxes. The
    choice of the hardest others belongs to the training loss: an outcome holds the cross-entropy of every box.
    """

    activation = "softmax"
    neg_to_pos_ratio: float  # torchvision's own, 3
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        boxes = DefaultBoxGenerator(
            [[2, 3] for _ in range(6)], min_ratio=0.2 * config.anchor_scale, max_ratio=0.95 * config.anchor_scale
        )  # type: ignore[arg-type]
        if config.backbone.startswith("mobilenet"):  # to the letter: weights trained elsewhere fit
            whole = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1 + num_classes)
            backbone, head = whole.backbone, whole.head
        else:
            backbone = Maps(config)
            head = SSDLiteHead(backbone.out_channels, boxes.num_anchors_per_location(), 1 + num_classes, batch_norm)
        SSD.__init__(self, backbone, boxes, (320, 320), 1 + num_classes, head=head)
        self.config = config

    def owners(self, objects: Objects, anchors: Tensor, cells: list[int]) -> Tensor:
        """Return the object of the largest IoU of at least 0.5; each object also has the box that fits it best."""
        return torch.stack(match_by_iou(self.proposal_matcher, objects, [anchors] * len(objects)))

    def terms(self, outputs: dict[str, Tensor], targets: Targets, anchors: Tensor) -> tuple[LossTerms, Tensor]:
        """Return cross-entropy and smooth L1 by default box, and −log a, which is the cross-entropy."""
        entropy = functional.cross_entropy(outputs["cls_logits"].transpose(1, 2), targets.labels, reduction="none")
        box_loss = functional.smooth_l1_loss(
            outputs["bbox_regression"], box_codes(self.box_coder, targets, anchors), reduction="none"
        ).sum(-1)
        return LossTerms(entropy, box_loss), entropy

    def chosen(self, outcome: Outcome, terms: LossTerms, predicted: Tensor) -> Tensor | None:
        """Return the region weights [B, L]; by default 1 for the positive boxes and the hardest others, else 0."""
        by_method = super().chosen(outcome, terms, predicted)
        if self.regions.method == "lrm":
            return by_method
        positive = outcome.object_index >= 0
        others = torch.where(~positive & outcome.care, outcome.class_loss, -torch.inf)
        rank = others.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        mined = positive | (rank < self.neg_to_pos_ratio * positive.sum(1, keepdim=True))
        return mined.float() if by_method is None else mined * by_method

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return the class probabilities, [B, L, C]."""
        return outputs["cls_logits"].softmax(-1)[..., 1:]


def build(config: DetectorConfig, num_classes: int, seed: int) -> SsdLite:
    """Build SSDlite; a row of DETECTORS."""
    with seeded(seed):
        return SsdLite(config, num_classes)

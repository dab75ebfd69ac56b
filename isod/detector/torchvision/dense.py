"""What torchvision's one-stage detectors share: a head over anchors, one loss and one outcome by anchor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, clip_boxes_to_image

from isod.config.settings import DetectorConfig, RegionConfig
from isod.detector.boxes import centres_of
from isod.detector.inference import suppress
from isod.detector.locations import LossTerms, Targets, mean_loss, outcome_of, targets_of
from isod.detector.model import DetectionLoss
from isod.detector.regions import check_one_stage, region_weights
from isod.detector.thesis.network import IMAGE_MEAN, IMAGE_STD
from isod.detector.torchvision.pyramid import normalised
from isod.objects import Objects
from isod.outcome import Outcome


class DenseDetector(nn.Module):
    """The part of a one-stage detector that is not torchvision's; the first base class beside torchvision's own.

    A location is an anchor. Subclasses give the owner of each anchor, the terms of the loss and the scores.
    """

    provides = frozenset({"logits", "iou"})
    activation = "sigmoid"
    over: Literal["positives", "image_positives"] = "positives"  # what the loss is divided by; see mean_loss
    mean, std = IMAGE_MEAN, IMAGE_STD
    # of torchvision's class
    backbone: Any
    head: Any
    anchor_generator: Any
    box_coder: Any
    proposal_matcher: Any

    config: DetectorConfig
    regions = RegionConfig()
    sum_counts: Callable[[Tensor], Tensor] | None = None

    def configure_loss(self, *, regions: RegionConfig, sum_counts: Callable[[Tensor], Tensor] | None = None) -> None:
        """Set what the training loss reads; see ``isod.detector.model.configure_loss``."""
        check_one_stage(regions, self.config.name)
        self.regions, self.sum_counts = regions, sum_counts

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, list[int]]:
        """Return what the head says of each anchor, the anchors [L, 4] in xyxy pixels, and the cells of each map.

        Args:
            images: [B, 3, H, W] uint8 RGB.
        """
        batch = normalised(images, self.mean, self.std, one_size=True)
        features = list(self.backbone(batch.tensors).values())
        outputs: dict[str, Tensor] = self.head(features)
        (anchors,) = self.anchor_generator(batch, features)
        return outputs, anchors, [feature.shape[2] * feature.shape[3] for feature in features]

    @abstractmethod
    def owners(self, objects: Objects, anchors: Tensor, cells: list[int]) -> Tensor:
        """Return which object owns each anchor, [B, L] int64; -1 for background, UNDECIDED for neither."""

    @abstractmethod
    def terms(self, outputs: dict[str, Tensor], targets: Targets, anchors: Tensor) -> tuple[LossTerms, Tensor]:
        """Return the loss by anchor, and −log a [B, L]."""

    @abstractmethod
    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return the score of each class at each anchor, [B, L, C] in 0…1."""

    def decoded(self, outputs: dict[str, Tensor], anchors: Tensor) -> Tensor:
        """Return the predicted boxes, [B, L, 4] float32 xyxy pixels, not clipped."""
        codes = outputs["bbox_regression"]
        boxes = self.box_coder.decode_single(codes.flatten(0, 1), anchors.repeat(codes.shape[0], 1))
        return boxes.view_as(codes)

    def chosen(self, outcome: Outcome, terms: LossTerms, predicted: Tensor) -> Tensor | None:
        """Return the region weights [B, L] of a batch, None for ones."""
        class_loss = torch.where(outcome.care, terms.class_loss.detach(), 0.0)
        return region_weights(self.regions, outcome, class_loss, predicted)

    def loss(
        self, images: Tensor, objects: Objects, *, example_weights: Tensor | None = None
    ) -> tuple[DetectionLoss, Outcome]:
        """Return torchvision's training loss of a batch, and its outcome by anchor; see DetectorModel."""
        outputs, anchors, cells = self(images)
        with torch.autocast(images.device.type, enabled=False):
            outputs = {name: value.float() for name, value in outputs.items()}
            owners = self.owners(objects, anchors, cells)
            targets = targets_of(objects, owners, centres_of(anchors)[None])
            terms, entropy = self.terms(outputs, targets, anchors)
            predicted = self.decoded(outputs, anchors).detach()
            outcome = outcome_of(
                objects,
                targets,
                logits=outputs["cls_logits"],
                activation=self.activation,
                class_loss=entropy,
                box_loss=terms.box_loss,
                predicted=predicted,
            )
            loss = mean_loss(
                terms,
                targets,
                example_weights=example_weights,
                region_weights=self.chosen(outcome, terms, predicted),
                sum_counts=self.sum_counts,
                over=self.over,
            )
        return loss, outcome

    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what enters NMS: scores [B, C, L] and boxes [B, L, 4]; see DetectorModel."""
        outputs, anchors, _ = self.forward(images)  # never compiled: validation batches vary in size
        with torch.autocast(images.device.type, enabled=False):
            outputs = {name: value.float() for name, value in outputs.items()}
            boxes = clip_boxes_to_image(self.decoded(outputs, anchors), (images.shape[2], images.shape[3]))
            return self.scores(outputs).transpose(1, 2), boxes

    def detect(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return the detections of each image; see DetectorModel."""
        return suppress(*self.candidates(images), self.config)


def box_codes(box_coder: Any, targets: Targets, anchors: Tensor) -> Tensor:
    """Return what a head should say of each anchor's box, [B, L, 4] in torchvision's code; 0 for background."""
    anchors = anchors.expand_as(targets.boxes)
    boxes = torch.where((targets.object_index >= 0)[..., None], targets.boxes, anchors)
    codes: Tensor = box_coder.encode_single(boxes.flatten(0, 1), anchors.flatten(0, 1))
    return codes.view_as(boxes)


def match_by_iou(matcher: Any, objects: Objects, boxes: list[Tensor]) -> list[Tensor]:
    """Return which object each box is matched to by torchvision's matcher, [L] int64 an image; negative for none.

    Args:
        boxes: one [L, 4] for each image.
    """
    matched = []
    for image, own in enumerate(boxes):
        annotated, _, _ = objects.of(image)
        if len(annotated) and len(own):
            matched.append(matcher(box_iou(annotated, own)))
        else:
            matched.append(torch.full((len(own),), -1, dtype=torch.int64, device=own.device))
    return matched

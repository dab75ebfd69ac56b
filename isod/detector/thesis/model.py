"""The thesis's detector as the training loop uses it: network, loss and inference in one module (§4.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isod.config.settings import DetectorConfig, RegionConfig
from isod.detector.inference import suppress
from isod.detector.model import DetectionLoss
from isod.detector.regions import check_one_stage
from isod.detector.thesis.inference import candidates
from isod.detector.thesis.loss import EVERY_REGION, NORMALISATIONS, detection_loss
from isod.detector.thesis.network import Network
from isod.errors import unknown
from isod.objects import Objects
from isod.outcome import Outcome


class ThesisDetector(Network):
    """A slim ResNet with one dense map at stride 8, softmax over 1 + C classes and GIoU loss (eq. 4.1)."""

    provides = frozenset({"logits", "iou"})

    def __init__(self, config: DetectorConfig, num_classes: int, *, seed: int) -> None:
        super().__init__(num_classes, config, seed=seed)
        self.config = config
        self.normalisation, self.regions = "location", EVERY_REGION
        self.sum_counts: Callable[[Tensor], Tensor] | None = None

    def configure_loss(
        self,
        *,
        normalisation: str = "location",
        regions: RegionConfig = EVERY_REGION,
        sum_counts: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Set what the loss averages over; arguments as of ``detection_loss``."""
        if normalisation not in NORMALISATIONS:
            raise unknown("loss_normalisation", normalisation, NORMALISATIONS)
        check_one_stage(regions, self.config.name)
        self.normalisation, self.regions, self.sum_counts = normalisation, regions, sum_counts

    def loss(
        self, images: Tensor, objects: Objects, *, example_weights: Tensor | None = None
    ) -> tuple[DetectionLoss, Outcome]:
        """Return eq. 4.1 of a batch, and its outcome; see DetectorModel."""
        logits, offsets, quality = self(images)
        with torch.autocast(images.device.type, enabled=False):
            return detection_loss(
                logits,
                offsets,
                objects,
                quality=quality,
                example_weights=example_weights,
                normalisation=self.normalisation,
                regions=self.regions,
                sum_counts=self.sum_counts,
            )

    def detect(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return the detections of each image; see DetectorModel. Never compiled: validation batches vary in size."""
        return suppress(*self.candidates(images), self.config)

    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what enters NMS: scores [B, C, L] and boxes [B, L, 4]; see DetectorModel."""
        logits, offsets, quality = self.forward(images)
        with torch.autocast(images.device.type, enabled=False):
            return candidates(logits, offsets, (images.shape[2], images.shape[3]), quality=quality)


def build(config: DetectorConfig, num_classes: int, seed: int) -> ThesisDetector:
    """Build the thesis's detector; a row of DETECTORS."""
    return ThesisDetector(config, num_classes, seed=seed)

"""The thesis's detector as the training loop uses it: network, loss and inference in one module (§4.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isod.config.settings import DetectorConfig
from isod.detector.model import DetectionLoss
from isod.detector.thesis.inference import candidates, detections
from isod.detector.thesis.loss import NORMALISATIONS, detection_loss
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
        self.normalisation = "location"
        self.sum_counts: Callable[[Tensor], Tensor] | None = None

    def configure_loss(
        self, *, normalisation: str = "location", sum_counts: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Set what the loss averages over; arguments as of ``detection_loss``."""
        if normalisation not in NORMALISATIONS:
            raise unknown("loss_normalisation", normalisation, NORMALISATIONS)
        self.normalisation, self.sum_counts = normalisation, sum_counts

    def loss(
        self, images: Tensor, objects: Objects, *, example_weights: Tensor | None = None
    ) -> tuple[DetectionLoss, Outcome]:
        """Return eq. 4.1 of a batch, and its outcome; see DetectorModel."""
        logits, offsets = self(images)
        with torch.autocast(images.device.type, enabled=False):
            return detection_loss(
                logits,
                offsets,
                objects,
                example_weights=example_weights,
                normalisation=self.normalisation,
                sum_counts=self.sum_counts,
            )

    def detect(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return the detections of each image; see DetectorModel. Never compiled: validation batches vary in size."""
        logits, offsets = self.forward(images)
        with torch.autocast(images.device.type, enabled=False):
            return detections(logits, offsets, (images.shape[2], images.shape[3]), self.config)

    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores and boxes of every location, before NMS; see DetectorModel."""
        logits, offsets = self.forward(images)
        return candidates(logits, offsets, (images.shape[2], images.shape[3]))


def build(config: DetectorConfig, num_classes: int, seed: int) -> ThesisDetector:
    """Build the thesis's detector; a row of DETECTORS."""
    return ThesisDetector(config, num_classes, seed=seed)

"""The detector of thesis §4.1: network, targets, loss with its dense maps, inference."""

from isod.detector.inference import detect
from isod.detector.loss import DetectionLoss, detection_loss
from isod.detector.network import Detector
from isod.detector.targets import Objects

__all__ = ["DetectionLoss", "Detector", "Objects", "detect", "detection_loss"]

"""The detector of thesis §4.1: network, targets, loss with its dense maps, inference."""

from isod.detector.thesis.inference import detect
from isod.detector.thesis.loss import DetectionLoss, detection_loss
from isod.detector.thesis.network import Detector
from isod.detector.thesis.targets import Objects

__all__ = ["DetectionLoss", "Detector", "Objects", "detect", "detection_loss"]

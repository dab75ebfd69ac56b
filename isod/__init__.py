"""Importance sampling for object detectors: draw the frames that still teach the model."""

__version__ = "0.1.0"

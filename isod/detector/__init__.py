"""Detectors: the contract of the training loop, the thesis's detector (§4.1), and trained models on disk."""

"""Outcomes made from maps."""

import torch

from isod.outcome import Outcome


def of_maps(*, object_area, object_labels=None, **maps) -> Outcome:
    """From maps [B, h, w], and logits [B, K, h, w]; classes of objects are 0 unless given."""
    flat = {name: value.flatten(2 if name == "logits" else 1) for name, value in maps.items()}
    if object_labels is None:
        object_labels = torch.zeros(object_area.shape, dtype=torch.int64)
    return Outcome(object_area=object_area, object_labels=object_labels, **flat)

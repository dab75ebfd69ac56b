"""What a trained model says of every crop of a split: scores, or pooled features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isod.data.store.crops import Crops
from isod.data.store.split import CropSplit
from isod.detector.saved import load_model
from isod.errors import InputError
from isod.sampling import sample_scores
from isod.sampling.catalogue import check_available, weighs_classes
from isod.sampling.priors import Labels, class_weights
from isod.sampling.samplers import SamplerConfig
from isod.training.trainer import to_device
from isod.training.validation import in_batches, read_ahead

BATCH = 32  # crops in one forward pass

Advance = Callable[[int], None]


def open_model(folder: str, split: CropSplit, device: torch.device) -> Any:
    """Return a saved detector on the device, in evaluation mode. Raises InputError if its classes are not the store's,
    or there is none."""
    model, description = load_model(folder)
    advice = ": use a model that was trained on the same classes"
    split.meta.require_classes(description.class_names, split.uri, advice=advice)
    return model.to(device).to(memory_format=torch.channels_last)


@torch.inference_mode()
def model_scores(
    model: Any, split: CropSplit, sampler: SamplerConfig, labels: Labels, *, device: torch.device, advance: Advance
) -> NDArray[np.float64]:
    """Return [N], the score of each crop by the sampler's heuristic and reduction; NaN where it does not decode.

    Raises:
        InputError: the detector lacks what the heuristic needs.
    """
    check_available(sampler.heuristic, getattr(model, "provides", frozenset()), type(model).__name__)
    weights = None
    if weighs_classes(sampler.reduction):
        weights = torch.as_tensor(class_weights(labels, sampler), dtype=torch.float32, device=device)
    found = np.full(len(split), np.nan)
    for crops in _crops(split, advance):
        images, objects, _ = to_device(crops, split.meta.crop_size, device)
        _, outcome = model.loss(images, objects)
        scores = sample_scores(outcome, sampler, weights).cpu().double().numpy()
        found[crops.indices] = np.where(crops.unreadable, np.nan, scores)
    return found


@torch.inference_mode()
def pooled_features(
    model: Any, split: CropSplit, *, device: torch.device, advance: Advance
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the crops that decode, [M], and the mean of the backbone's coarsest map over each of them, [M, D].

    Raises:
        InputError: the detector has no module called backbone, or one that returns no maps.
    """
    backbone = next((module for name, module in model.named_modules() if name.split(".")[-1] == "backbone"), None)
    if backbone is None:
        raise InputError(
            f"k-centre needs a detector with a module called backbone, and {type(model).__name__} has none"
        )
    pooled: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        maps = list(output.values()) if isinstance(output, dict) else output
        coarsest = maps[-1] if isinstance(maps, list | tuple) else maps
        if not isinstance(coarsest, Tensor) or coarsest.ndim != 4:
            raise InputError(
                f"the backbone of {type(model).__name__} returns no maps [B, D, H, W] for k-centre to pool"
            )
        pooled.append(coarsest.float().mean((2, 3)).cpu())

    indices, features = [], []
    hook = backbone.register_forward_hook(keep)
    try:
        for crops in _crops(split, advance):
            images, objects, _ = to_device(crops, split.meta.crop_size, device)
            pooled.clear()
            model.loss(images, objects)
            indices.append(crops.indices[~crops.unreadable])
            features.append(pooled[0].numpy()[~crops.unreadable])
    finally:
        hook.remove()
    return np.concatenate(indices), np.concatenate(features)


def _crops(split: CropSplit, advance: Advance) -> Iterator[Crops]:
    for crops in read_ahead(split, in_batches(split.readable, BATCH), threads=1, quarantine=True):
        yield crops
        advance(len(crops.indices))

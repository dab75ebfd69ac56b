"""Weights to start from: read from a file, and put where they fit (``DetectorConfig.weights``)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from isod.errors import InputError, one_line

log = logging.getLogger("isod")
WRAPPERS = ("model", "state_dict", "model_state_dict")  # keys below which a training checkpoint keeps its weights
PLACES = ("", "backbone.body.", "backbone.features.", "backbone.")  # where a backbone's own weights go
SHOWN = 4  # names in a message


def load_weights(model: nn.Module, source: str) -> None:
    """Load what fits of a state dict into a model, and log what was loaded and what was not.

    Of tensors whose shape differs, those of a head for another number of classes, the model keeps its own. A backbone's
    own weights are found a place too.

    Args:
        source: a file that ``torch.save`` or safetensors wrote, with a state dict or a checkpoint that holds one; the
            folder of a saved model; or the name of a torchvision weights entry, "FCOS_ResNet50_FPN_Weights.COCO_V1",
            which is downloaded unless it was before.
    Raises:
        InputError: it cannot be read or downloaded, holds no state dict, or nothing of it fits.
    """
    found = _read(source)
    own = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}

    def fitting(place: str) -> dict[str, Tensor]:
        moved = {place + name: value for name, value in found.items()}
        return {name: value for name, value in moved.items() if name in own and value.shape == own[name].shape}

    place = max(PLACES, key=lambda place: len(fitting(place)))
    loaded = fitting(place)
    left = sorted(name for name in found if place + name not in loaded and found[name].is_floating_point())
    kept = sorted(own.keys() - loaded.keys())
    if not any(name.endswith("weight") for name in loaded):
        raise InputError(
            f"nothing of detector.weights {source} fits a {type(model).__name__} of these settings: it has "
            f"tensors such as {_some(left)}, and the detector has such as {_some(kept)}. Choose "
            "the detector and backbone that the weights are of"
        )
    model.load_state_dict(loaded, strict=False)
    log.info(
        "detector.weights %s: loaded %d of %d tensors%s%s",
        source,
        len(loaded),
        len(own),
        f"; of the file not used: {_some(left)}" if left else "",
        f"; as initialised: {_some(kept)}" if kept else "",
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _read(source: str) -> dict[str, Tensor]:
    path = Path(source)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.exists() and "_Weights." in source:
        return _torchvision(source)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(
            f"detector.weights {source} does not exist: name a file of weights, the folder of a saved model, or a "
            "torchvision entry such as ResNet18_Weights.IMAGENET1K_V1"
        ) from None
    except Exception as error:  # torch.load and safetensors raise whatever they meet in a damaged file
        raise InputError(f"detector.weights {source} cannot be read as weights: {one_line(error)[:200]}") from None
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = (
        {name: value for name, value in dict(content).items() if isinstance(value, Tensor)}
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise InputError(f"detector.weights {source} holds no state dict: save model.state_dict() and name that file")
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _torchvision(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    try:
        weights = get_weight(name)
    except (ValueError, KeyError):
        raise InputError(
            f"detector.weights {name!r}: there is no such file, and torchvision has no such weights"
        ) from None
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        raise InputError(
            f"detector.weights {name} cannot be downloaded ({one_line(error)}): fetch {weights.url} where there is a "
            "network, and name the file"
        ) from None
    return state

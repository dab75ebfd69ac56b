"""What torchvision's detectors share here: a ResNet or MobileNetV3 below a feature pyramid, and images as they come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from isod.config.settings import DetectorConfig
from isod.detector.thesis.network import IMAGE_MEAN, IMAGE_STD

MULTIPLE = 32  # images are padded at the right and below to a multiple of the coarsest stride, as torchvision does
# the blocks whose output has stride 4, 8, 16 and 32
RESNET_MAPS = ("layer1", "layer2", "layer3", "layer4")
MOBILENET_MAPS = ("3", "6", "12", "16")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from a generator of this seed; torch's global one is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def body(config: DetectorConfig) -> tuple[nn.Module, tuple[str, ...], list[int]]:
    """Return a network without weights of a data set, the names of its maps at strides 4…32, and their channels."""
    if config.backbone.startswith("mobilenet"):
        features: Any = models.get_model(config.backbone, weights=None).features
        return features, MOBILENET_MAPS, [features[int(name)].out_channels for name in MOBILENET_MAPS]
    resnet = models.get_model(config.backbone, weights=None)
    widest = resnet.fc.in_features
    return resnet, RESNET_MAPS, [widest // 8, widest // 4, widest // 2, widest]


def pyramid(config: DetectorConfig, *, finest: int) -> BackboneWithFPN:
    """Return a feature pyramid (Lin et al. 2017): maps of ``config.pyramid_channels`` channels.

    Args:
        finest: stride of the finest map. 8: five maps up to stride 128, the last two by strided convolutions, as FCOS
            and RetinaNet have them. 4: five maps up to 64, the last by pooling, as Faster R-CNN has them.
    """
    network, maps, channels = body(config)
    first = {4: 0, 8: 1}[finest]
    width = config.pyramid_channels
    return BackboneWithFPN(
        network,
        {name: str(number) for number, name in enumerate(maps[first:])},
        channels[first:],
        width,
        extra_blocks=LastLevelMaxPool() if finest == 4 else LastLevelP6P7(width, width),
    )


def normalised(
    images: Tensor, mean: tuple[float, ...] = IMAGE_MEAN, std: tuple[float, ...] = IMAGE_STD, *, one_size: bool = False
) -> ImageList:
    """Return the images as a backbone takes them, padded to a multiple of 32, never resized.

    Args:
        images: [B, 3, H, W] uint8 RGB.
        one_size: whether the list has one size for all of them, so that anchors are made once and an export of them
            takes any B.
    """
    height, width = images.shape[2:]
    scale = [images.new_tensor(values, dtype=torch.float32).view(1, 3, 1, 1) * 255 for values in (mean, std)]
    padded = functional.pad((images - scale[0]) / scale[1], (0, -width % MULTIPLE, 0, -height % MULTIPLE))
    return ImageList(padded, [(height, width)] * (1 if one_size else len(images)))

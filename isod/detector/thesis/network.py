"""The thesis's network: a slim ResNet whose last three stages are aggregated into one map at stride 8 (§4.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from isod.config.settings import DetectorConfig
from isod.detector.thesis.targets import MARGIN

IMAGE_MEAN = (0.485, 0.456, 0.406)  # of RGB in 0…1, torchvision's own
IMAGE_STD = (0.229, 0.224, 0.225)
BACKGROUND_PRIOR = 0.99  # probability of background at every location before training
INITIAL_OFFSET = 1.0  # strides; a box of two by two strides at every location before training
FULL_BLOCK = 16  # channels that AVX-512 takes at a time


def scaled(channels: int, width: float) -> int:
    """A ResNet channel count under the feature multiplier: at least 8, a multiple of 8 (what the kernels like)."""
    return max(8, round(channels * width / 8) * 8)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch normalisation, no activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """The 1×1 convolution and normalisation by which a residual block is passed (He et al. 2016, eq. 2).

    In the backward pass of a strided one with fewer inputs than a full block, oneDNN writes past its memory (its issue
    6035, seen with torch 2.15): the pixels that count are taken first there, which are the same numbers.
    """
    if stride > 1 and inputs < FULL_BLOCK:
        return nn.Sequential(nn.AvgPool2d(1, stride), *conv_norm(inputs, outputs, 1))
    return conv_norm(inputs, outputs, 1, stride)


class Backbone(nn.Module):
    """ResNet of basic blocks; returns the maps at strides 8, 16 and 32."""

    def __init__(self, width: float, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.channels = [scaled(c, width) for c in (64, 128, 256, 512)]
        stem = scaled(64, width)
        self.stem = nn.Sequential(conv_norm(3, stem, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        stages, inputs = [], stem
        for index, (outputs, count) in enumerate(zip(self.channels, blocks, strict=True)):
            stride = 1 if index == 0 else 2
            shortcut = projection(inputs, outputs, stride) if stride > 1 or inputs != outputs else None
            stage = [BasicBlock(inputs, outputs, stride, shortcut)]
            stage += [BasicBlock(outputs, outputs) for _ in range(count - 1)]
            stages.append(nn.Sequential(*stage))
            inputs = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        features, maps = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps[1:]


class AggregationNode(nn.Module):
    """Deep Layer Aggregation's node: joins a coarse map into the next finer one (Yu et al. 2018, §3.1)."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.project = nn.Sequential(conv_norm(coarse, fine, 1), nn.ReLU(inplace=True))
        self.join = nn.Sequential(conv_norm(2 * fine, fine, 3), nn.ReLU(inplace=True))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        lifted = functional.interpolate(self.project(coarse), size=fine.shape[-2:], mode="nearest")
        return self.join(torch.cat([fine, lifted], dim=1))


class Network(nn.Module):
    """Images in, one dense prediction map out (thesis §4.1.2): class logits and box offsets per location.

    Args:
        num_classes: C, without the background.
        config: width and depth.
        seed: of the initial weights; nothing is drawn from torch's global generator.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int, config: DetectorConfig, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.backbone = Backbone(config.width, config.blocks)
            stride8, stride16, stride32 = self.backbone.channels[1:]
            self.join16 = AggregationNode(stride16, stride32)
            self.join8 = AggregationNode(stride8, stride16)
            self.neck = nn.Sequential(conv_norm(stride8, stride8, 3), nn.ReLU(inplace=True))
            self.head = nn.Conv2d(stride8, 1 + num_classes + 4, 1)
            self.quality = nn.Conv2d(stride8, 1, 1) if config.quality == "iou" else None
        self.num_classes = num_classes
        self.register_buffer("mean", 255 * torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGE_STD).view(1, 3, 1, 1), persistent=False)
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        nn.init.normal_(self.head.weight, std=0.01, generator=generator)
        if self.quality is not None:
            nn.init.normal_(self.quality.weight, std=0.01, generator=generator)
            nn.init.zeros_(self.quality.bias)  # type: ignore[arg-type]
        bias = torch.zeros(1 + self.num_classes + 4)
        # softmax over 1 + C logits gives the background its prior when its logit leads by log(π·C / (1 − π))
        bias[0] = torch.tensor(BACKGROUND_PRIOR * self.num_classes / (1 - BACKGROUND_PRIOR)).log()
        bias[1 + self.num_classes :] = INITIAL_OFFSET + MARGIN
        with torch.no_grad():
            self.head.bias.copy_(bias)  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Args:
            images: [B, 3, H, W] uint8 (or float in 0…255), RGB.
        Returns:
            logits [B, 1+C, ⌈H/8⌉, ⌈W/8⌉], channel 0 the background; offsets [B, 4, …] ≥ 0 in strides
            (``decode_boxes`` says what they mean); and logits [B, …] of the box's IoU, or None.
        """
        images = (images - self.mean) / self.std
        stride8, stride16, stride32 = self.backbone(images)
        features = self.neck(self.join8(stride8, self.join16(stride16, stride32)))
        logits, offsets = self.head(features).split([1 + self.num_classes, 4], dim=1)
        quality = None if self.quality is None else self.quality(features).squeeze(1)
        return logits, functional.relu(offsets), quality

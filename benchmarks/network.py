"""Forward and backward of the network, beside torchvision's FCOS and SSDLite, in images and in arithmetic per second.

    python -m benchmarks.network [--device cuda] [--batch 128] [--height 384] [--width 1280] [--turns 5]

The same for all: the batch of images, of one size, the objects on them, four classes, forward with the loss, backward;
no optimizer, no data. bfloat16 autocast and channels-last memory on a GPU, float32 on a CPU. FLOP are counted by torch
(a multiply and an add are two), forward and backward, but for a convolution's backward pass, where torch takes grouped
convolutions for full ones; the last column sets them against what one large matrix product in the same number format
reaches on the same machine, in the same turns.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import fcos_resnet50_fpn, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from benchmarks.harness import NotRun, number, seconds, spread, take_turns
from benchmarks.scoring import random_objects
from isod.config.settings import DetectorConfig
from isod.detector.thesis.model import build

MATRIX = {"cuda": 8192, "cpu": 2048}  # rows and columns of the product that the machine is measured by
EAGER, COMPILED = "isod", "isod, torch.compile"
Pass = Callable[[], None]


def our_pass(images: Tensor, objects: object, *, compiled: bool) -> Pass:
    """Our detector and its loss."""
    device = images.device
    model = build(DetectorConfig(), 4, 0).to(device).to(memory_format=torch.channels_last)
    if compiled:
        model.compile()

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, _ = model.loss(images, objects)  # type: ignore[arg-type]
        model.zero_grad()
        (loss.class_loss + loss.box_loss).backward()

    return run


def peer_pass(make: Callable[[tuple[int, int]], nn.Module], images: Tensor, objects: object) -> Pass:
    """A torchvision detector, which takes a list of images in 0 … 1."""
    device, size = images.device, (images.shape[-2], images.shape[-1])
    model = make(size).to(device).to(memory_format=torch.channels_last).train()
    batch = list((images / 255).contiguous(memory_format=torch.channels_last))
    targets = []
    for boxes, labels, valid in zip(objects.boxes, objects.labels, objects.valid & ~objects.dont_care, strict=True):  # type: ignore[attr-defined]
        targets.append({"boxes": boxes[valid], "labels": labels[valid]})

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = model(batch, targets)
        model.zero_grad()
        sum(losses.values()).backward()

    return run


def fcos(size: tuple[int, int]) -> nn.Module:
    """torchvision's FCOS; its transform leaves images of this size as they are."""
    return fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5, min_size=min(size), max_size=max(size),
        trainable_backbone_layers=5,
    )  # fmt: skip


def ssdlite(size: tuple[int, int]) -> nn.Module:
    """torchvision's SSDLite, told not to resize to 320×320."""
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    model.transform = GeneralizedRCNNTransform(
        min(size), max(size), [0.5] * 3, [0.5] * 3, size_divisible=1, fixed_size=size[::-1]
    )
    return model


def convolution_backward(
    gradient: Sequence[int], image: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """FLOP of a convolution's backward pass from its shapes: those of the forward pass for each gradient that is asked
    for, of the image and of the weight [out, in / groups, height, width]. Not of a transposed one."""
    of_image, of_weight, _bias = rest[-1]
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * (of_image + of_weight)


def count_flop(run: Pass) -> float:
    """FLOP of one pass."""
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward}
    ) as c:
        run()
    return c.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=128, metavar="N")
    parser.add_argument("--height", type=int, default=384, metavar="N")
    parser.add_argument("--width", type=int, default=1280, metavar="N")
    parser.add_argument("--turns", type=int, default=5, metavar="N")
    options = parser.parse_args()
    device, batch = torch.device(options.device), options.batch
    size = (options.height, options.width)
    objects = random_objects(batch, 12, *size).to(device)
    images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    n = MATRIX[device.type]
    matrix = torch.randn(n, n, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    makers: dict[str, Callable[[], Pass]] = {
        EAGER: partial(our_pass, images, objects, compiled=False),
        COMPILED: partial(our_pass, images, objects, compiled=True),
        "torchvision fcos_resnet50_fpn": partial(peer_pass, fcos, images, objects),
        "torchvision ssdlite, MobileNetV3": partial(peer_pass, ssdlite, images, objects),
    }
    flop: dict[str, float] = {}
    contenders: dict[str, Callable[[], float]] = {"matrix": lambda: 2 * n**3 / seconds(lambda: matrix @ matrix, device)}
    for name, make in makers.items():
        contenders[name] = turn(name, make, flop, device, batch)
    figures = take_turns(contenders, options.turns, warm_up=1)
    rates = figures.pop("matrix")
    assert isinstance(rates, list)
    rate = median(rates)
    kind = "bfloat16" if device.type == "cuda" else f"float32, {torch.get_num_threads()} threads"
    print(
        f"The same for all: {batch} images of {options.width}×{options.height}, {kind}, forward, loss and backward. A "
        f"matrix product of {n}×{n} runs at {number(rate / 1e12)} TFLOP/s.\n"
    )
    print(
        "| | images/s | lowest … highest | GFLOP an image | TFLOP/s | % of the matrix product |\n"
        "|---|---|---|---|---|---|"
    )
    for name, found in figures.items():
        if isinstance(found, str):
            print(f"| {name} | not run: {found} | | | | |")
            continue
        achieved = median(found) * flop[name]
        print(
            f"| {name} | {number(median(found))} | {spread(found)} | {number(flop[name] / 1e9)} "
            f"| {number(achieved / 1e12)} | {100 * achieved / rate:.0f} |"
        )


def turn(
    name: str, make: Callable[[], Pass], flop: dict[str, float], device: torch.device, batch: int
) -> Callable[[], float]:
    """Images per second of one pass; the first turn makes the network and counts its FLOP an image into ``flop``."""
    passes: list[Pass] = []

    def measure() -> float:
        if not passes:
            try:
                made = make()
                if name == COMPILED:  # the same arithmetic as eager, and torch does not count inside compiled code
                    flop[name] = flop[EAGER]
                    made()
                else:
                    flop[name] = count_flop(made) / batch
            except Exception as error:  # whatever the compiler meets
                raise NotRun(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
            passes.append(made)
        return batch / seconds(passes[0], device)

    return measure


if __name__ == "__main__":
    main()

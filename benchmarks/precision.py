"""What a training step takes in bfloat16 beside float32, on one thread of this processor, at three presets' sizes.

    python -m benchmarks.precision [--turns 7]

The same for both: preset, images, objects, weights; forward with the loss, backward, Adam. The two take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.harness import comparison, seconds, take_turns
from benchmarks.scoring import random_objects
from isod.config.presets import PRESETS
from isod.detector.model import configure_loss
from isod.detector.thesis.model import build
from isod.training.device import bfloat16_instructions

# preset, height, width, images: the thesis's step is of fewer images, as its batch of 128 takes minutes
SIZES = (("demo", 48, 160, 32), ("small", 80, 256, 32), ("thesis", 384, 1280, 2))
WANTED = 1.5  # times as fast, where the processor has instructions for it


def step(preset: str, height: int, width: int, images: int, *, reduced: bool) -> Callable[[], None]:
    """One training step, without the data."""
    chosen = PRESETS[preset]
    model = build(chosen.detector, 4, 0).to(memory_format=torch.channels_last)
    configure_loss(model, chosen.training)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    objects = random_objects(images, 12, height, width).to(torch.device("cpu"))
    batch = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            loss, _ = model.loss(batch, objects)
        optimizer.zero_grad()
        (loss.class_loss + loss.box_loss).backward()
        optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    have = bfloat16_instructions()
    print(f"The processor's own instructions for it: {', '.join(have) or 'none, so there is no target'}.")
    for preset, height, width, images in SIZES:
        steps = {
            name: step(preset, height, width, images, reduced=name == "bfloat16") for name in ("bfloat16", "float32")
        }
        contenders = {name: partial(seconds, run) for name, run in steps.items()}
        figures = take_turns(contenders, options.turns, warm_up=2)
        print(f"\nPreset {preset}, {images} images of {width}×{height}:\n")
        print(comparison(figures, "seconds a step", less_is_better=True, targets={"float32": WANTED} if have else {}))


if __name__ == "__main__":
    main()

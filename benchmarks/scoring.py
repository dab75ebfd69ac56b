"""What the sample scores cost, beside the training step that produces their outcome.

    python -m benchmarks.scoring [--device cuda] [--batch 128] [--compiled] [--height 384] [--width 1280]
                                 [--objects 12]

Prints the time of a step without scores (forward, loss, backward, Adam) and of the scores of every named sampler's
heuristic and reduction on its outcome, with their share of the step. On a GPU both are timed by events, and one call
per sampler runs under torch's synchronisation check, which raises if a score waits for the device. Where a step of that
batch does not fit the memory, ``--step-batch`` times a smaller one, and its time is scaled up to the batch.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.harness import medians, number, seconds, take_turns, yes
from isod.config.settings import DetectorConfig
from isod.detector.thesis.loss import detection_loss
from isod.detector.thesis.model import build
from isod.objects import Objects
from isod.sampling import sample_scores
from isod.sampling.samplers import SAMPLERS

MOST = 3.0  # % of the step that the scores of a batch may cost


def random_objects(batch: int, most: int, height: int, width: int) -> Objects:
    """0 … ``most`` boxes an image, of about 40 pixels, one in ten don't-care."""
    rng = np.random.default_rng(0)
    boxes, labels, dont_care = [], [], []
    for _ in range(batch):
        n = int(rng.integers(0, most + 1))
        centre, size = rng.uniform((0, 0), (width, height), (n, 2)), rng.lognormal(np.log(40), 0.7, (n, 2))
        corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
        boxes.append(corners.clip(0, [width, height, width, height]).astype(np.float32))
        labels.append(rng.integers(1, 5, n))
        dont_care.append(rng.random(n) < 0.1)
    return Objects.from_lists(boxes, labels, dont_care)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--step-batch", type=int, help="crops of the timed step (default: --batch)")
    parser.add_argument("--compiled", action="store_true", help="time the step with the network through torch.compile")
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--objects", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    model = build(DetectorConfig(), 4, 0).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    size = (args.height, args.width)
    objects = random_objects(args.batch, args.objects, *size).to(device)
    step_batch = args.step_batch or args.batch
    step_objects = random_objects(step_batch, args.objects, *size).to(device)
    images = torch.randint(0, 256, (step_batch, 3, *size), dtype=torch.uint8, device=device)

    if args.compiled:
        model.compile(dynamic=False)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            loss, _ = model.loss(images, step_objects)
        optimizer.zero_grad()
        (loss.class_loss + loss.box_loss).backward()
        optimizer.step()

    step()
    with torch.no_grad():
        copies = -(-args.batch // step_batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            maps = model.forward(images)
        logits, offsets = (item.repeat(copies, 1, 1, 1)[: args.batch] for item in maps[:2])
    _, outcome = detection_loss(logits, offsets, objects)
    scored = [sampler for sampler in SAMPLERS.values() if sampler.heuristic is not None]
    contenders = {"step": lambda: seconds(step, device)}
    for sampler in scored:
        if cuda:
            torch.cuda.set_sync_debug_mode("error")
            sample_scores(outcome, sampler)
            torch.cuda.set_sync_debug_mode("default")
        contenders[sampler.name] = lambda s=sampler: seconds(lambda: sample_scores(outcome, s), device)  # type: ignore[misc]
    figures = take_turns(contenders, args.repeats, warm_up=2)
    costs = {name: 1e3 * cost for name, cost in medians(figures).items()}
    base = costs.pop("step") * args.batch / step_batch
    scaled = f" (one of {step_batch}, scaled)" if step_batch != args.batch else ""
    kind = "compiled step" if args.compiled else "step"
    print(
        f"Batch {args.batch} of {args.width}×{args.height}; a {kind} without scores takes {number(base)} ms{scaled}.\n"
    )
    print("| sampler | scores, ms | % of the step | target | met? |\n|---|---|---|---|---|")
    for name, cost in costs.items():
        share = 100 * cost / base
        print(f"| {name} | {cost:.2f} | {share:.2f} | ≤ {MOST:g} | {yes(share <= MOST)} |")


if __name__ == "__main__":
    main()

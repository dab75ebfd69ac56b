"""What the sampler costs other people's loops: images per second beside the loop's own uniform sampler.

    python -m benchmarks.loops [--size 128] [--images 160] [--batch 8] [--workers 2] [--steps 20] [--turns 7]
        [--loops "plain loop" "torchvision FCOS" ultralytics]

The same loop on the same image files trains with its own sampler and with isod's (UIS), in turn: a plain PyTorch loop
(ResNet-18 that classifies), torchvision's FCOS with the per-image losses of isod.adapters.torchvision, and the trainer
of ultralytics (YOLO11n) with isod.adapters.ultralytics (LIS). A turn does not count what its workers had read before
it, nor the first epoch of a trainer.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.models.detection import fcos_resnet50_fpn

from benchmarks.harness import comparison, installed, take_turns
from isod.adapters.torchvision import ImageLosses
from isod.sampling import ImportanceBatchSampler, ImportanceTable, lag_for
from isod.sampling.samplers import SAMPLERS

LOOPS = ("plain loop", "torchvision FCOS", "ultralytics")
CLASSES = 2
TARGET = 0.98  # of the loop's own speed


class Files(Dataset[Any]):
    """JPEG files of noise with two boxes each; detection targets or a class."""

    def __init__(self, folder: Path, images: int, size: int, *, boxes: bool) -> None:
        self.paths = [folder / f"images/train/{index:05}.jpg" for index in range(images)]
        self.size, self.boxes = size, boxes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        pixels = torch.from_numpy(np.array(Image.open(self.paths[index])))
        image = pixels.permute(2, 0, 1).float() / 255
        if not self.boxes:
            return image, index % CLASSES
        boxes = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.4, 0.9, 0.8]]) * self.size
        return image, {"boxes": boxes, "labels": torch.tensor([1, 2])}


def write_files(folder: Path, images: int, size: int) -> None:
    """Write a data set as ultralytics reads it."""
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 2)):
        (folder / f"images/{split}").mkdir(parents=True)
        (folder / f"labels/{split}").mkdir(parents=True)
        for index in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
            coarse.resize((size, size)).save(folder / f"images/{split}/{index:05}.jpg")
            (folder / f"labels/{split}/{index:05}.txt").write_text("0 0.25 0.3 0.3 0.4\n1 0.7 0.6 0.4 0.4\n")
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [a, b]\n")


def forever(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def collate_detection(items: list[Any]) -> Any:
    return tuple(zip(*items, strict=True))


def collate_indexed(items: list[Any]) -> Any:
    indices, pairs = zip(*items, strict=True)
    return list(indices), collate_detection(list(pairs))


def torch_loop(options: argparse.Namespace, folder: Path, *, detector: bool, importance: bool) -> Callable[[], float]:
    """Return what measures the images per second of so many steps of one loop."""
    dataset = Files(folder, options.images, options.size, boxes=detector)
    torch.manual_seed(0)
    model: Any = resnet18(num_classes=CLASSES)
    if detector:
        model = fcos_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=1 + CLASSES, min_size=options.size, max_size=options.size
        )
    model.train()
    losses = ImageLosses(model) if detector and importance else None
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    workers: dict[str, Any] = dict(num_workers=options.workers, persistent_workers=options.workers > 0)
    if importance:
        table = ImportanceTable(len(dataset), sampler=SAMPLERS["UIS"], seed=0)
        sampler = ImportanceBatchSampler(table, batch_size=options.batch, lag=lag_for(options.workers))
        collate = collate_indexed if detector else None
        loader = DataLoader(sampler.indexed(dataset), batch_sampler=sampler, collate_fn=collate, **workers)
    else:
        collate = collate_detection if detector else None
        loader = DataLoader(
            dataset, batch_size=options.batch, shuffle=True, drop_last=True, collate_fn=collate, **workers
        )
    batches = forever(loader)

    def step() -> None:
        by_image: Any
        indices, (images, targets) = next(batches) if importance else (None, next(batches))
        if detector:
            loss = sum(model(list(images), list(targets)).values())
            by_image = losses.scores() if losses else None
        else:
            by_image = cross_entropy(model(images), targets, reduction="none")
            loss = by_image.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if indices is not None:
            sampler.update(by_image.detach(), indices)

    def turn() -> float:
        for _ in range(max(1, 2 * options.workers)):  # read before the turn began
            step()
        began = time.perf_counter()
        for _ in range(options.steps):
            step()
        return options.steps * options.batch / (time.perf_counter() - began)

    return turn


def ultralytics_turn(options: argparse.Namespace, folder: Path, *, importance: bool) -> float:
    """Return the images per second of a short training, without its first epoch."""
    installed("ultralytics")
    os.environ |= {"YOLO_CONFIG_DIR": str(folder), "YOLO_VERBOSE": "false"}
    from ultralytics import settings
    from ultralytics.models.yolo.detect import DetectionTrainer

    from isod.adapters.ultralytics import importance_trainer

    settings.update({"mlflow": False})
    trainer_class = importance_trainer(seed=0, sampler=SAMPLERS["LIS"]) if importance else DetectionTrainer
    epochs = 1 + -(-(options.steps + 2) * options.batch // options.images)
    trainer = trainer_class(overrides=dict(
        model="yolo11n.yaml", data=str(folder / "data.yaml"), imgsz=options.size, batch=options.batch, epochs=epochs,
        workers=options.workers, device="cpu", val=False, plots=False, save=False, project=str(folder / "runs"),
        name="run", exist_ok=True, verbose=False, amp=False, pretrained=False, mosaic=0,
    ))  # fmt: skip
    ends: list[float] = []

    def note(trainer: Any) -> None:
        ends.append(time.perf_counter())

    trainer.add_callback("on_train_batch_start", note)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # its progress
        trainer.train()
    first = options.images // options.batch  # of the second epoch
    return (len(ends) - 1 - first) * options.batch / (ends[-1] - ends[first])


def main() -> None:
    """Print a table for each loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels of the images")
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=LOOPS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, options.images, options.size)
        makers: list[Callable[[bool], Callable[[], float]]] = [
            lambda ours: torch_loop(options, folder, detector=False, importance=ours),
            lambda ours: torch_loop(options, folder, detector=True, importance=ours),
            lambda ours: functools.partial(ultralytics_turn, options, folder, importance=ours),
        ]
        print(
            f"{options.images} images of {options.size}×{options.size}, batch {options.batch}, {options.workers} "
            f"workers, one torch thread, {options.turns} turns of {options.steps} steps"
        )
        for what, make in zip(LOOPS, makers, strict=True):
            if what not in options.loops:
                continue
            peer = f"{what}, its own sampler"
            figures = take_turns({f"{what}, isod": make(True), peer: make(False)}, options.turns, warm_up=1)
            print("\n" + comparison(figures, "images/s", less_is_better=False, targets={peer: TARGET}), flush=True)


if __name__ == "__main__":
    main()

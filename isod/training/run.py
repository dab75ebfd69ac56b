"""One run: one sampler, one seed, one visible loop (thesis §4.5). Knows nothing of Ray or MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isod.config import RunConfig, TrainingConfig
from isod.data.store import Crops, CropSplit, StoreMeta
from isod.detector import Detector, Objects, detect, detection_loss
from isod.evaluation import DetectionEvaluator
from isod.sampling import sample_scores
from isod.training.stream import Batch, Stream

CACHE_BYTES = 512 * 2**20  # decoded validation crops are kept in memory up to this size
FLIP_STREAM = 1  # which of the seed's random streams mirrors crops; the draws have their own


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def flips(config: TrainingConfig, step: int) -> NDArray[np.bool_]:
    """[B] bool, which slots of the step's batch are mirrored; the same for every sampler of one seed."""
    return np.random.default_rng([config.seed, FLIP_STREAM, step]).random(config.batch_size) < 0.5


def to_device(crops: Crops, device: torch.device) -> tuple[Tensor, Objects]:
    """Images [B, 3, H, W] uint8 in channels-last memory and padded objects, moved without waiting for the host."""
    # one copy out of Ray's read-only shared memory, into pages that the GPU can fetch from while the host goes on
    images = torch.empty(crops.images.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    images.numpy()[...] = crops.images
    objects = Objects.from_lists(crops.boxes, crops.labels, crops.dont_care)
    return images.permute(0, 3, 1, 2).to(device, non_blocking=True), objects.to(device)  # HWC is channels-last


def in_batches(indices: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """The indices in order, in as few nearly equal parts as hold at most ``batch_size`` each; at least one part."""
    return np.array_split(indices, max(1, -(-len(indices) // batch_size)))


class ValidationCrops:
    """The validation split in fixed batches; decoded once where it fits in memory."""

    def __init__(self, split: CropSplit, batch_size: int) -> None:
        self._split = split
        self._batches = in_batches(split.readable, batch_size)
        self._cache: list[Crops] | None = []

    def __iter__(self) -> Iterator[Crops]:
        if self._cache:
            yield from self._cache
            return
        kept: list[Crops] = []
        for indices in self._batches:
            crops = self._split.read(indices)
            if self._cache is not None:
                kept.append(crops)
                if sum(item.images.nbytes for item in kept) > CACHE_BYTES:
                    self._cache = None
                    kept = []
            yield crops
        if self._cache is not None:
            self._cache = kept


class Trainer:
    """Network, optimizer and evaluator of one run.

    Args:
        config: what to run.
        meta: of the store: class names and crop size.
        device: where to run; on CUDA the forward pass is bfloat16 and channels-last.
    """

    def __init__(self, config: RunConfig, meta: StoreMeta, device: torch.device) -> None:
        self.config = config
        self.meta = meta
        self.device = device
        training = config.training
        model = Detector(len(meta.class_names), config.detector, seed=training.seed)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=training.lr, betas=training.betas, eps=training.eps, fused=True
        )

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.model(images)

    def step(self, batch: Batch) -> tuple[NDArray[np.float64], dict[str, float]]:
        """One optimizer step.

        Returns:
            The sample scores [B] of the batch and the losses; together they are the step's one copy to the host.
        Raises:
            FloatingPointError: if the loss is not finite; the weights are then those before the step.
        """
        training = self.config.training
        self.model.train()
        images, objects = to_device(batch.crops, self.device)
        if training.flip:
            flip = torch.from_numpy(flips(training, batch.step)).to(self.device)
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
            objects = objects.mirrored(flip, images.shape[-1])
        weights = None
        if (batch.draw.weights != 1).any():
            weights = torch.from_numpy(batch.draw.weights).to(self.device)
        loss, outcome = detection_loss(
            *self._forward(images),
            objects,
            class_weight=training.class_weight,
            box_weight=training.box_weight,
            example_weights=weights,
            normalisation=training.loss_normalisation,
        )
        self.optimizer.zero_grad()
        loss.total.backward()
        scores = sample_scores(outcome, self.config.sampler)
        host = torch.cat([scores, torch.stack([loss.total.detach(), loss.class_loss, loss.box_loss])]).cpu()
        values = host.double().numpy()
        if not np.isfinite(values[-3]):
            raise FloatingPointError(
                f"loss is {values[-3]} at step {batch.step}, examples {batch.draw.indices.tolist()}"
            )
        self.optimizer.step()
        total, class_loss, box_loss = values[-3:].tolist()
        return values[:-3], {"train/loss": total, "train/class_loss": class_loss, "train/box_loss": box_loss}

    @torch.inference_mode()
    def score(self, crops: Crops) -> NDArray[np.float64]:
        """The sampler's scores [B] of crops that are not trained on, in evaluation mode."""
        self.model.eval()
        images, objects = to_device(crops, self.device)
        _, outcome = detection_loss(*self._forward(images), objects)
        return sample_scores(outcome, self.config.sampler).cpu().double().numpy()

    @torch.inference_mode()
    def validate(self, crops: ValidationCrops) -> dict[str, float]:
        """Every metric of spec §8 on the validation split; NaN where a stratum has no ground truth."""
        self.model.eval()
        evaluator = DetectionEvaluator(
            self.meta.class_names,
            image_size=self.meta.crop_size,
            display_threshold=self.config.detector.display_threshold,
        )
        for batch in crops:
            images, _ = to_device(batch, self.device)
            detections = detect(*self._forward(images), self.meta.crop_size, self.config.detector)
            targets = [
                {
                    "boxes": torch.from_numpy(boxes),
                    "labels": torch.from_numpy(labels),
                    "dont_care": torch.from_numpy(dont_care),
                }
                for boxes, labels, dont_care in zip(batch.boxes, batch.labels, batch.dont_care, strict=True)
            ]
            evaluator.update([{k: v.cpu() for k, v in item.items()} for item in detections], targets)
        return evaluator.compute()


def train(
    trainer: Trainer, stream: Stream, validation: ValidationCrops, report: Callable[[dict[str, float], int], None]
) -> None:
    """The loop: fetch, step, send scores back, sometimes validate and report.

    Args:
        report: called with the metrics and the number of iterations done, at every multiple of ``validate_every`` and
            after the last iteration. Training losses are means since the last report; ``time/seconds`` is training time
            from the first batch on, without validation.
    """
    training = trainer.config.training
    sums: dict[str, float] = {}
    seconds = 0.0
    reported = 0
    began: float | None = None
    for batch in stream.batches(0, training.iterations):
        began = began or time.perf_counter()  # a stream takes seconds to start, once
        scores, losses = trainer.step(batch)
        stream.send_scores(batch.step, batch.draw.indices, scores)
        losses["sampler/repeats"] = 1 - len(np.unique(batch.draw.indices)) / len(batch.draw.indices)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value
        done = batch.step + 1
        if done % training.validate_every == 0 or done == training.iterations:
            seconds += time.perf_counter() - began
            metrics = trainer.validate(validation)
            metrics |= {name: value / (done - reported) for name, value in sums.items()}
            metrics |= {
                "sampler/ess": stream.summary(batch.step).effective_sample_size,
                "time/seconds": seconds,
            }
            report(metrics, done)
            sums, reported = {}, done
            began = time.perf_counter()

"""Importance sampling with ultralytics, tried with ultralytics 8.4.190. ultralytics is licensed under AGPL-3.0.

    YOLO("yolo11n.yaml").train(data="data.yaml", mosaic=0, trainer=importance_trainer(seed=0))

Only this module imports ultralytics, and nothing in isod imports this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.data.build import InfiniteDataLoader
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss
from ultralytics.utils.torch_utils import unwrap_model

from isod.adapters.common import require_loss, require_no_weights
from isod.errors import InputError
from isod.sampling.loader import ImportanceSampler, lag_for
from isod.sampling.table import ImportanceTable

FILE = "importance.pt"  # the sampler's state, beside last.pt
MIXING = ("mosaic", "mixup", "cutmix", "copy_paste")  # they put objects of several images into one


def importance_trainer(*, seed: int, base: type[DetectionTrainer] = DetectionTrainer, **table: Any) -> type:
    """Return a trainer class for ``YOLO.train(trainer=…)`` that draws the training images by importance.

    An image's score is its class loss, from the criterion of the training step. Settings that mix images must be off,
    as a score belongs to one image: mosaic=0, mixup=0, cutmix=0, copy_paste=0. It trains in one process.

    Args:
        seed: of the draws.
        base: the trainer to extend.
        table: further settings of ``ImportanceTable``, for example ``sampler=SAMPLERS["LIS-RB"]``; none that draws by
            the labels, by another score than the loss, or weights the losses.
    """

    class ImportanceTrainer(base):  # type: ignore[valid-type, misc]
        importance: ImportanceSampler | None = None
        image_losses: ImageLosses | None = None

        def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
            loader = super().get_dataloader(dataset_path, batch_size, rank, mode)
            if mode != "train":
                return loader
            if self.world_size > 1:
                raise InputError("importance sampling with ultralytics trains in one process: give it one device")
            if mixing := [name for name in MIXING if getattr(self.args, name)]:
                raise InputError(
                    f"{', '.join(mixing)} put objects of several images into one, whose score would belong to none of "
                    f"them: set {' '.join(f'{name}=0' for name in mixing)}"
                )
            dataset = loader.dataset
            self._index_of = {file: index for index, file in enumerate(dataset.im_files)}
            if len(self._index_of) != len(dataset):
                raise InputError("the training set names an image twice: remove the repeated line")
            # As many workers as ultralytics chose. A smaller batch, after its memory ran out, halves what is in flight.
            prefetch = loader.prefetch_factor or 0
            if self.importance is None:
                scores = ImportanceTable(len(dataset), seed=seed, **table)
                require_no_weights(scores, "ultralytics")
                require_loss(scores, "importance_trainer")
                if scores.config.prior is not None:
                    raise InputError(
                        f"sampler {scores.config.name!r} draws by the labels, which importance_trainer does not read: "
                        "choose one without a prior"
                    )
                self.importance = ImportanceSampler(
                    scores,
                    batch_size=loader.batch_size,
                    lag=lag_for(loader.num_workers, prefetch),
                    endless=True,
                )
            self.importance.check_length(dataset)
            return InfiniteDataLoader(
                dataset=dataset,
                batch_size=loader.batch_size,
                sampler=self.importance,
                num_workers=loader.num_workers,
                prefetch_factor=loader.prefetch_factor,
                pin_memory=loader.pin_memory,
                collate_fn=loader.collate_fn,
                worker_init_fn=loader.worker_init_fn,
                generator=loader.generator,
                drop_last=loader.drop_last,
            )

        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            model = unwrap_model(self.model)
            if self.image_losses is None or self.image_losses.criterion is not getattr(model, "criterion", None):
                self.image_losses = ImageLosses(model)
            self._files = batch["im_file"]
            return super().preprocess_batch(batch)

        def run_callbacks(self, event: str) -> None:
            if event == "on_train_batch_end":
                if self.importance is None:
                    raise InputError(
                        "the training loader is not that of importance_trainer: a class derived from it makes its own"
                    )
                assert self.image_losses is not None
                indices = [self._index_of[file] for file in self._files]
                scaler = self.scaler.is_enabled()  # it skips the steps whose gradients overflow
                self.importance.update(self.image_losses.scores(), indices, skip_nonfinite=scaler)
            super().run_callbacks(event)

        def save_model(self) -> Any:
            assert self.importance is not None
            torch.save(self.importance.state_dict(), Path(self.wdir) / FILE)
            return super().save_model()

        def resume_training(self, ckpt: Any) -> None:
            super().resume_training(ckpt)
            if ckpt is not None and self.resume:
                assert self.importance is not None
                self.importance.load_state_dict(torch.load(Path(self.wdir) / FILE, weights_only=True))

    return ImportanceTrainer


class ImageLosses:
    """Each image's class loss, from the unreduced loss that the criterion computes in the training step.

    Args:
        model: a detection model of ultralytics; its criterion is made if there is none yet.

    Raises:
        InputError: the criterion is not that of a detection model.
    """

    def __init__(self, model: Any):
        if getattr(model, "criterion", None) is None:
            model.criterion = model.init_criterion()
        self.criterion: Any = model.criterion
        parts = [self.criterion.one2many, self.criterion.one2one] if isinstance(self.criterion, E2ELoss) else None
        self._parts = parts or [self.criterion]
        if not all(isinstance(part, v8DetectionLoss) for part in self._parts):
            raise InputError(
                f"per-image losses need a detection model's criterion, got {type(self.criterion).__name__}"
            )
        for part in self._parts:
            if not isinstance(part.bce, _Recorded):
                part.bce = _Recorded(part.bce)

    def scores(self) -> Tensor:
        """Return each image's class loss as if it were alone in its batch, [B] float32."""
        return self._sum(lambda recorded: recorded.targets.clamp(min=1))

    def shares(self) -> Tensor:
        """Return what each image contributes to the batch's class loss, [B]; they sum to the library's ``cls_loss``."""
        return self._sum(lambda recorded: recorded.targets.sum().clamp(min=1))

    def _sum(self, normaliser: Any) -> Tensor:
        gains = [self.criterion.o2m, self.criterion.o2o] if len(self._parts) == 2 else [1.0]
        losses = []
        for gain, part in zip(gains, self._parts, strict=True):
            losses.append(gain * part.hyp.cls * part.bce.losses / normaliser(part.bce))
        return torch.stack(losses).sum(0)


class _Recorded(nn.Module):
    """An unreduced loss [B, A, C] that keeps each image's sums of loss and targets."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss
        self.losses = self.targets = torch.zeros(0)  # [B]

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses = self.loss(logits, targets)
        self.losses = losses.detach().float().sum((1, 2))
        self.targets = targets.detach().float().sum((1, 2))
        return losses

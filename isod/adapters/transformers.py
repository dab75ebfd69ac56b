"""Importance sampling with the Trainer of transformers, tried with transformers 5.24 and accelerate 1.15.

    trainer = ImportanceTrainer(
        table=ImportanceTable(len(dataset), seed=0), model=model, args=arguments, train_dataset=dataset, ...)
    trainer.train()

The score of an image is its loss, for DETR, RT-DETR and D-FINE. For other models give ``score(outputs, inputs)``, which
returns one number ≥ 0 per example. Checkpoints hold the sampler's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer, TrainerCallback
from transformers.loss.loss_d_fine import DFineForObjectDetectionLoss
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss
from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss
from transformers.trainer_utils import get_last_checkpoint

from isod.adapters.accelerate import LOOKAHEAD, prepare_loader
from isod.adapters.common import IndexedCollate, require_loss, require_no_weights
from isod.errors import InputError
from isod.sampling.loader import ImportanceBatchSampler, lag_for
from isod.sampling.table import ImportanceTable

INDICES = "example_indices"  # key of the indices in a batch
FILE = "importance.pt"  # the sampler's state in a checkpoint


class ImportanceTrainer(Trainer):
    """The Trainer with examples drawn by importance. With one of your own: ``class Mine(ImportanceTrainer, Yours)``.

    It makes the loader of the training set and its sampler, with the lag that the arguments need, updates the table
    after each forward pass, and resumes in the middle of an epoch.

    Args:
        table: an importance table for the training dataset.
        score: ``score(outputs, inputs)`` [batch size] ≥ 0, of the model's outputs and the batch; by default each
            image's loss, ``ImageLosses.scores``.
        args, kwargs: of the Trainer.
    Raises:
        InputError: the table's sampler weights the losses, which the Trainer computes; or it asks for another score
            than the loss, and ``score`` is not given.
    """

    def __init__(
        self,
        *args: Any,
        table: ImportanceTable,
        score: Callable[[Any, Mapping[str, Any]], Tensor] | None = None,
        **kwargs: Any,
    ):
        require_no_weights(table, "the Trainer")
        if score is None:
            require_loss(table, "the Trainer")
        self.table = table
        self.importance: ImportanceBatchSampler | None = None
        self._resume_from: Path | None = None
        super().__init__(*args, **kwargs)
        if score is None:
            losses = ImageLosses(self.model)
            score = lambda outputs, inputs: losses.scores()  # noqa: E731
        self.score = score
        self.add_callback(_Save(self))

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of the training set, drawn by importance.

        Raises:
            InputError: the dataset has another length than the table, an argument of the Trainer does not go together
                with importance sampling, or the checkpoint has no state of a sampler.
        """
        for name, wrong in [("auto_find_batch_size", self.args.auto_find_batch_size), ("n_gpu", self.args.n_gpu > 1)]:
            if wrong:
                raise InputError(
                    f"importance sampling needs {name} to be {'False' if name[0] == 'a' else '1'}: fix the batch size, "
                    "and start one process per GPU"
                )
        workers, prefetch = self.args.dataloader_num_workers, self.args.dataloader_prefetch_factor
        accumulation = self.args.gradient_accumulation_steps
        # before a new sampler draws from the table
        former = None if self.importance is None else self.importance.state_dict()
        self.importance = sampler = ImportanceBatchSampler(
            self.table,
            batch_size=self.args.per_device_train_batch_size,
            drop_last=self.args.dataloader_drop_last,
            lag=lag_for(workers, prefetch or 2, lookahead=LOOKAHEAD, accumulation=accumulation),
        )
        skipped = 0
        if self._resume_from is not None:
            sampler.load_state_dict(torch.load(self._resume_from, weights_only=True))
            skipped = 0 if self.args.ignore_data_skip else sampler.step % len(sampler)
        elif former is not None:  # trains again: what was in flight is handed out first
            sampler.load_state_dict(former)
        collate = self._get_collator_with_removed_columns(self.data_collator, description="training")
        loader = DataLoader(
            sampler.indexed(self.train_dataset),
            batch_sampler=sampler,
            collate_fn=IndexedCollate(collate, INDICES),
            num_workers=workers,
            prefetch_factor=prefetch,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
        )
        loader = prepare_loader(self.accelerator, loader)
        if skipped:
            object.__setattr__(loader.base_dataloader, "batch_sampler", _AfterSkipped(sampler, skipped))
        return loader

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the Trainer's loss and, of a training batch, update the table."""
        indices = inputs.pop(INDICES, None)
        if indices is None:
            if model.training:
                raise InputError(
                    "a training batch says no indices: the loader of get_train_dataloader was replaced, or a class "
                    "before ImportanceTrainer makes its own"
                )
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        given = dict(inputs)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        assert self.importance is not None
        scaler = self.accelerator.scaler is not None  # it skips the steps whose gradients overflow
        self.importance.update(self.score(outputs, given), indices, skip_nonfinite=scaler)
        return (loss, outputs) if return_outputs else loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, from a checkpoint if one is named, as ``Trainer.train``."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        self._resume_from = Path(folder) / FILE if folder else None
        if self._resume_from is not None and not self._resume_from.is_file():
            raise InputError(f"{folder} holds no {FILE}: it was not saved by a Trainer with importance sampling")
        return super().train(resume_from_checkpoint, *args, **kwargs)


class _Save(TrainerCallback):
    """Writes the sampler's state into each checkpoint."""

    def __init__(self, trainer: ImportanceTrainer):
        self.trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.trainer.importance is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            torch.save(self.trainer.importance.state_dict(), folder / FILE)


class _AfterSkipped(BatchSampler):
    """The batches of a resumed sampler, after placeholders for those that the Trainer reads to skip them."""

    def __init__(self, sampler: ImportanceBatchSampler, skipped: int):
        super().__init__(sampler.sampler, sampler.batch_size, sampler.drop_last)
        self.batches, self.skipped = sampler, skipped

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        placeholders, self.skipped = self.skipped, 0
        for _ in range(placeholders):
            yield []
        yield from self.batches


class ImageLosses:
    """Each image's loss, from the forward pass of the training step, for DETR, RT-DETR and D-FINE.

    The model's loss function is called again on the outputs of one image at a time, without gradients. Matching is done
    within an image, so its boxes are matched as in the batch. The training loss stays as it is.

    Args:
        model: for object detection; its ``loss_function`` is extended.

    Raises:
        InputError: its loss function is another one.
    """

    def __init__(self, model: Any):
        self._loss = model.loss_function
        self._detr = self._loss is ForObjectDetectionLoss
        if self._loss not in (ForObjectDetectionLoss, RTDetrForObjectDetectionLoss, DFineForObjectDetectionLoss):
            raise InputError(
                f"per-image losses are there for DETR, RT-DETR and D-FINE, not {type(model).__name__}: give score=…, a "
                "function of the model's outputs and the batch"
            )
        model.loss_function = self

    def scores(self) -> Tensor:
        """Return each image's loss as if it were alone in its batch, [B], detached."""
        return self._scores

    def shares(self) -> Tensor:
        """Return what each image contributes to the batch's loss, [B], detached; they sum to the library's loss.

        D-FINE's distillation term is no sum over images: it is split in proportion to the images' own.
        """
        return self._shares

    def __call__(
        self,
        logits: Tensor,
        labels: list[dict[str, Tensor]],
        device: Any,
        pred_boxes: Tensor,
        config: Any,
        outputs_class: Tensor | None = None,
        outputs_coord: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """Return what the model's loss function returns."""
        whole = self._loss(logits, labels, device, pred_boxes, config, outputs_class, outputs_coord, **others)

        def one(i: int, value: Any, dim: int = 0) -> Any:
            if isinstance(value, Tensor):
                return value.narrow(dim, i, 1)
            if isinstance(value, dict) and "dn_positive_idx" in value:  # denoising queries of RT-DETR and D-FINE
                return value | {"dn_positive_idx": [value["dn_positive_idx"][i]]}
            return value

        layers_first = int(self._detr)  # DETR stacks its layers before the batch
        with torch.no_grad():
            alone = [
                self._loss(
                    one(i, logits), [labels[i]], device, one(i, pred_boxes), config,
                    one(i, outputs_class, layers_first), one(i, outputs_coord, layers_first),
                    **{name: one(i, value) for name, value in others.items()},
                )[:2]
                for i in range(len(labels))
            ]  # fmt: skip
            self._scores = torch.stack([loss for loss, _ in alone]).detach().float()
            counts = self._scores.new_tensor([len(label["class_labels"]) for label in labels])
            by_boxes = counts.clamp(min=1) / counts.sum().clamp(min=1)
            self._shares = torch.zeros_like(self._scores)
            for name, batch_loss in whole[1].items():
                losses = torch.stack([parts[name] for _, parts in alone]).float()
                if self._detr:
                    losses = losses * self._weight(name, config)
                if self._detr and name.startswith("loss_ce"):  # divided by the summed weights of all queries' classes
                    matched = counts.clamp(max=logits.shape[1])
                    weights = matched + (logits.shape[1] - matched) * config.eos_coefficient
                    share = weights / weights.sum()
                elif "ddf" in name:
                    share = batch_loss.detach().float() / losses.sum().clamp(min=1e-30)
                else:
                    share = by_boxes
                self._shares += losses * share
        return whole

    @staticmethod
    def _weight(name: str, config: Any) -> float:
        """Return the factor of one of DETR's losses, also of an intermediate layer's; 0 for what is only logged."""
        for prefix, weight in [
            ("loss_ce", 1.0), ("loss_bbox", config.bbox_loss_coefficient), ("loss_giou", config.giou_loss_coefficient),
        ]:  # fmt: skip
            if name.startswith(prefix):
                return weight
        return 0.0

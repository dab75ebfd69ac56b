"""Importance sampling with the Trainer of transformers, tried with transformers 5.24 and accelerate 1.15.

    trainer = ImportanceTrainer(table=ImportanceTable(len(dataset), seed=0), score=score, model=model, args=arguments,
                                train_dataset=dataset, data_collator=collate)
    trainer.train()

``score(outputs, inputs)`` returns one number ≥ 0 per example. ``image_losses`` makes it for DETR and RT-DETR. Checkpoints
hold the sampler's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from isod.adapters.accelerate import LOOKAHEAD, prepare_loader
from isod.adapters.common import IndexedCollate
from isod.errors import InputError
from isod.sampling.loader import ImportanceBatchSampler, lag_for
from isod.sampling.table import ImportanceTable

INDICES = "example_indices"  # key of the indices in a batch
FILE = "importance.pt"  # the sampler's state in a checkpoint


class ImportanceSampling:
    """A mixin for a Trainer: ``class MyTrainer(ImportanceSampling, Trainer)``.

    It makes the loader of the training set and its sampler, with the lag that the arguments need, updates the table after
    each forward pass, and resumes in the middle of an epoch.

    Args:
        table: an importance table for the training dataset.
        score: ``score(outputs, inputs)`` [batch size] ≥ 0, of the model's outputs and the batch.
        args, kwargs: of the Trainer.
    """

    def __init__(
        self, *args: Any, table: ImportanceTable, score: Callable[[Any, Mapping[str, Any]], Tensor], **kwargs: Any
    ):
        self.table, self.score = table, score
        self.importance: ImportanceBatchSampler | None = None
        self._resume_from: Path | None = None
        super().__init__(*args, **kwargs)
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

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """Compute the Trainer's loss and, of a training batch, update the table."""
        indices = inputs.pop(INDICES, None)
        if indices is None:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        given = dict(inputs)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        assert self.importance is not None
        self.importance.update(self.score(outputs, given), indices, skip_nonfinite=self.args.fp16)
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


class ImportanceTrainer(ImportanceSampling, Trainer):
    """The Trainer of transformers with images drawn by importance."""


class _Save(TrainerCallback):
    """Writes the sampler's state into each checkpoint."""

    def __init__(self, trainer: ImportanceSampling):
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

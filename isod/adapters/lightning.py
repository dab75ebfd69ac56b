"""Importance sampling with Lightning, tried with lightning 2.6.

    importance = ImportanceCallback(table)
    trainer = Trainer(callbacks=[importance], use_distributed_sampler=False)
    trainer.fit(module, importance.loader(dataset, batch_size=8, num_workers=2))

The loader's batches are (indices, items). ``training_step`` returns ``{"loss": loss, "scores": scores}`` with one
number ≥ 0 per example. Checkpoints hold the sampler's state.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from isod.errors import InputError
from isod.sampling.loader import ImportanceBatchSampler, lag_for
from isod.sampling.table import ImportanceTable


class ImportanceCallback(Callback):
    """Gives the sampler the scores of each batch and saves its state in Lightning's checkpoints.

    Args:
        table: an importance table; the same on every rank.
    """

    def __init__(self, table: ImportanceTable):
        self.table = table
        self.sampler: ImportanceBatchSampler | None = None
        self._saved: dict[str, Any] | None = None

    def loader(
        self,
        dataset: Any,
        *,
        batch_size: int,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        drop_last: bool = False,
        **settings: Any,
    ) -> DataLoader:
        """Return a loader of (indices, items), with the lag that it needs.

        With several processes, call it in the module's ``train_dataloader``, where torch.distributed is initialised.
        When called again, as Lightning does to reload the loader, the new loader resumes where the old one was left.

        Args:
            settings: of the DataLoader, such as ``collate_fn``, which is given (index, item) pairs.
        Raises:
            InputError: the dataset has another length than the table.
        """
        lag = lag_for(num_workers, prefetch_factor or 2)
        if self.sampler is not None:
            self._saved = self.sampler.state_dict()
        self.sampler = ImportanceBatchSampler(self.table, batch_size=batch_size, drop_last=drop_last, lag=lag)
        if self._saved is not None:
            self.sampler.load_state_dict(self._saved)
            self._saved = None
        return DataLoader(
            self.sampler.indexed(dataset),
            batch_sampler=self.sampler,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            **settings,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise InputError if Lightning is going to shard the sampler a second time."""
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise InputError(
                "the sampler gives every process its part already: set Trainer(use_distributed_sampler=False)"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise InputError if the Trainer does not train from this callback's loader, or shards it."""
        loader = trainer.train_dataloader
        if self.sampler is None or getattr(loader, "batch_sampler", None) is not self.sampler:
            raise InputError(
                "the Trainer does not draw with this callback's sampler: give it ImportanceCallback.loader(…) as its "
                "only training loader"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the table with ``outputs["scores"]``."""
        assert self.sampler is not None
        if not isinstance(outputs, dict) or "scores" not in outputs:
            raise InputError('training_step must return {"loss": loss, "scores": one number per example}')
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # it skips the steps whose gradients overflow
        self.sampler.update(outputs["scores"], batch[0], skip_nonfinite=isinstance(scaler, torch.amp.GradScaler))

    def state_dict(self) -> dict[str, Any]:
        return {} if self.sampler is None else self.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.sampler is None:
            self._saved = state_dict  # the loader is made later
        else:
            self.sampler.load_state_dict(state_dict)

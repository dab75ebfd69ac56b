"""Importance sampling with accelerate, tried with accelerate 1.15.

    loader = prepare_loader(accelerator, DataLoader(sampler.indexed(dataset), batch_sampler=sampler))  # not prepare()
    accelerator.register_for_checkpointing(sampler)
    for indices, batch in loader:
        ...
        sampler.update(losses, indices, skip_nonfinite=accelerator.scaler is not None)

With fp16, accelerate's GradScaler skips the steps whose gradients overflow: the last argument skips their scores too.
accelerate reads one batch ahead, so ``lag=lag_for(num_workers, lookahead=1)``. Its own ``prepare`` would shard the
sampler a second time: every rank would skip examples that the table has drawn for it.
"""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from isod.adapters.common import check_lag, sampler_of
from isod.errors import InputError

LOOKAHEAD = 1  # batches that accelerate reads ahead, to know which is the last


def prepare_loader(accelerator: Accelerator, loader: DataLoader) -> Any:
    """Return what ``accelerator.prepare(loader)`` returns, except that the ranks' parts are those of the sampler.

    Call ``update`` for every batch, also while gradients are accumulated.

    Args:
        loader: a DataLoader with an importance sampler.

    Raises:
        InputError: the sampler is another one, its lag is too small, or it was built before the Accelerator.
    """
    sampler = sampler_of(loader)
    check_lag(sampler, loader, lookahead=LOOKAHEAD)
    if sampler.world_size != accelerator.num_processes:
        raise InputError(
            f"the sampler was built for {sampler.world_size} processes and the accelerator has "
            f"{accelerator.num_processes}: build the sampler after the Accelerator"
        )
    prepared: Any = prepare_data_loader(
        loader,
        accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=accelerator.device_placement,
        non_blocking=accelerator.non_blocking,
    )
    prepared._is_accelerate_prepared = True  # accelerator.prepare leaves it as it is from now on
    return accelerator.prepare_data_loader(prepared)

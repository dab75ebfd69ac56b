"""The batch sampler in a plain DataLoader, with workers, resumed, and on two ranks."""

import os

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, Dataset

from isod.errors import InputError
from isod.sampling import ImportanceBatchSampler, ImportanceTable, prefetched
from isod.sampling.samplers import SAMPLERS


class Indices(Dataset):
    """An example is its own index."""

    def __init__(self, size: int = 40):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


def scores_of(indices: torch.Tensor) -> torch.Tensor:
    return indices % 5 + 0.5


def train(sampler: ImportanceBatchSampler, steps: int, **loader_settings) -> list[list[int]]:
    batches: list[list[int]] = []
    while len(batches) < steps:
        for indices in DataLoader(Indices(), batch_sampler=sampler, **loader_settings):
            assert sampler.batch.indices.tolist() == indices.tolist()
            batches.append(indices.tolist())
            sampler.update(scores_of(indices))
            if len(batches) == steps:
                break
    return batches


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_batches_whatever_the_number_of_workers(workers):
    def sampler():
        return ImportanceBatchSampler(
            ImportanceTable(40, sampler=SAMPLERS["UIS"], seed=0), batch_size=8, lag=prefetched(2)
        )

    expected = train(sampler(), 23)  # 5 batches an iteration: left early in the fifth
    assert train(sampler(), 23, num_workers=workers) == expected
    lag_0 = ImportanceBatchSampler(ImportanceTable(40, sampler=SAMPLERS["UIS"], seed=0), batch_size=8)
    assert train(lag_0, 23) != expected


def test_resuming_in_the_middle_of_an_iteration():
    def sampler():
        return ImportanceBatchSampler(ImportanceTable(40, sampler=SAMPLERS["LIS"], seed=1), batch_size=8, lag=2)

    whole = train(sampler(), 30)
    first = sampler()
    head = train(first, 13)
    second = sampler()
    second.load_state_dict(first.state_dict())
    assert head + train(second, 17) == whole


def test_a_lag_below_the_loaders_prefetching_is_an_error_not_a_silent_delay():
    sampler = ImportanceBatchSampler(ImportanceTable(40, seed=0), batch_size=8, lag=0, length=10)
    batches = iter(sampler)
    next(batches)
    with pytest.raises(InputError, match="num_workers · prefetch_factor"):
        next(batches)


def test_bad_input():
    sampler = ImportanceBatchSampler(ImportanceTable(40, seed=0), batch_size=8)
    next(iter(sampler))
    for scores, message in [(torch.ones(7), "8 scores"), (torch.full((8,), torch.nan), "finite")]:
        with pytest.raises(InputError, match=message):
            sampler.update(scores)
    assert sampler.step == 0
    with pytest.raises(InputError, match="rank"):
        ImportanceBatchSampler(ImportanceTable(40, seed=0), batch_size=8, rank=2, world_size=2)


def on_rank(rank: int, world_size: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    sampler = ImportanceBatchSampler(
        ImportanceTable(40, sampler=SAMPLERS["UIS"], seed=0), batch_size=8 // world_size, lag=1
    )
    batches = train(sampler, 30)
    torch.save((batches, sampler.state_dict()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_share_one_global_batch(tmp_path):
    multiprocessing.spawn(on_rank, args=(2, os.fspath(tmp_path)), nprocs=2)
    parts, states = zip(*(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)), strict=True)
    alone = ImportanceBatchSampler(ImportanceTable(40, sampler=SAMPLERS["UIS"], seed=0), batch_size=8, lag=1)
    expected = train(alone, 30)
    assert [one + other for one, other in zip(*parts, strict=True)] == expected
    first_epoch = np.concatenate(expected[:5])
    assert len(set(first_epoch.tolist())) == 40  # no example on two ranks unless it was drawn twice
    for key, value in alone.state_dict()["table"].items():
        for state in states:
            other = state["table"][key]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other

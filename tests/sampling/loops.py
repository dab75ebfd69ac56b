"""Datasets and loaders that the tests of the samplers and of the adapters share."""

import torch
from torch.utils.data import DataLoader, Dataset


class Indices(Dataset):
    """An example is its own index."""

    def __init__(self, size: int = 40):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class Forever:
    """The batches of a batch sampler, which is iterated over again while earlier batches are in flight."""

    def __init__(self, batch_sampler):
        self.batch_sampler = batch_sampler

    def __iter__(self):
        while True:
            yield from self.batch_sampler


class EndlessLoader(DataLoader):
    """A loader whose one iterator serves every epoch, as that of ultralytics does."""

    def __init__(self, dataset, batch_sampler, **settings):
        super().__init__(dataset, batch_sampler=Forever(batch_sampler), **settings)
        self.epoch_length = len(batch_sampler)
        self.endless = None

    def __iter__(self):
        if self.endless is None:
            self.endless = super().__iter__()
        for _ in range(self.epoch_length):
            yield next(self.endless)


def scores_of(indices: torch.Tensor) -> torch.Tensor:
    """A score that says which example it belongs to, and no other example has."""
    return 1.0 + torch.as_tensor(indices) / 64  # exact in float32


def assert_scores_are_of_their_examples(table) -> None:
    for index, score in enumerate(table.scores):
        assert score in (0, scores_of(index).item()), index

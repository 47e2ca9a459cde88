"""Loaders whose samples several processes share, chosen in every way that there is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from determined import pytorch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, WeightedRandomSampler

from tests.parity.modules import SAMPLES, dataset, loaders

Data = dict[str, Any]


def training(**options: Any) -> Data:
    """Makes the usual loaders, the one for training with other options."""
    options = {"batch_size": 3, **options}
    return {**loaders(), "train_dataloaders": DataLoader(dataset(), **options)}


class ByItself(Sampler[int]):
    """Draws from two generators of its own, tells the epochs apart, and counts."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self.samples = samples
        self.generator = np.random.default_rng(4)
        self.holder = [torch.Generator().manual_seed(5)]
        self.epoch = self.passes = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        order = (self.generator.permutation(self.samples) + self.epoch + self.passes) % self.samples
        shuffled = torch.randperm(self.samples, generator=self.holder[0])
        return iter(order[shuffled.numpy()].tolist())

    def __len__(self) -> int:
        return self.samples


class Sizes(BatchSampler):
    """Batches of given sizes in turn; its constructor is not the one that BatchSampler has."""

    def __init__(self, sizes: list[int], sampler: Any) -> None:
        super().__init__(sampler, batch_size=1, drop_last=False)
        self.sizes = sizes

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        while order:
            for size in self.sizes:
                yield order[:size]
                del order[:size]

    def __len__(self) -> int:
        # One batch of each size a round; the last round may have empty ones, which nobody is to ask for.
        full, rest = divmod(len(self.sampler), sum(self.sizes))
        assert rest == 0
        return full * len(self.sizes)


class Pairs(BatchSampler):
    """Has the constructor that BatchSampler has, and other batches."""

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            yield batch[::-1]


class Repeats(DataLoader[Any]):
    """A loader whose constructor hides what it is made with."""

    def __init__(self, samples: int, *, repeats: int, **options: Any) -> None:
        self.rows = [row for row in dataset(samples) for _ in range(repeats)]
        super().__init__(self.rows, **options)  # type: ignore[arg-type]


class NoBatches:
    """Batches that Lightning has no way to share."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([0, 1, 2], [3, 4])

    def __len__(self) -> int:
        return 2


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        yield from itertools.cycle(range(SAMPLES))


def without_length() -> DataLoader[Any]:
    return DataLoader(dataset(), sampler=Endless())


def weights() -> WeightedRandomSampler:
    return WeightedRandomSampler(range(1, SAMPLES + 1), 17)


def determineds_loader() -> pytorch.DataLoader:
    """Makes a loader of the same arguments as the one with weights in ``HOOKS``."""
    return pytorch.DataLoader(dataset(), batch_size=3, sampler=weights(), drop_last=True)


DATA: dict[str, Callable[[], Data]] = {
    "weights": lambda: training(sampler=weights()),
    "own sampler": lambda: training(sampler=ByItself()),
    "replacement": lambda: training(sampler=RandomSampler(dataset(), replacement=True, num_samples=9)),
    "batch sampler": lambda: training(batch_size=1, batch_sampler=Pairs(RandomSampler(dataset()), 4, drop_last=True)),
    "loader": lambda: {**loaders(), "train_dataloaders": type("Own", (DataLoader,), {})(dataset(), batch_size=4)},
}
"""What is passed to ``fit``."""

HOOKS: dict[str, Callable[[], DataLoader[Any]]] = {
    "batch sampler of a hook": lambda: DataLoader(dataset(), batch_sampler=Sizes([4, 5, 2], RandomSampler(dataset()))),
    "loader of a hook": lambda: Repeats(12, repeats=2, batch_size=4, shuffle=True),
    "weights of a hook": lambda: DataLoader(dataset(), batch_size=3, sampler=weights(), drop_last=True),
    "in order": lambda: DataLoader(dataset(), batch_size=4),
}
"""What ``train_dataloader`` returns."""

"""Plain values that the user's datasets, samplers and loaders remember go on after a pause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from determined import pytorch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler, Subset

from tests.parity.oracle import Case
from tests.resume.conftest import Resumes
from tests.resume.test_loaders import OnlyTraining

WORKERS = {"num_workers": 1}


class OfItsEpoch(Dataset[Any]):
    """Gives other samples in each epoch, of which it is told."""

    epoch = 0
    share: float | None = None

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        inputs = torch.randn(5, generator=torch.Generator().manual_seed(index + 1000 * self.epoch))
        return inputs * (self.share or 1.0), inputs.sum().reshape(1), self.epoch


class Tells(OnlyTraining):
    """Tells the dataset in the usual way; a wrapped one is found in its wrappers."""

    def on_train_epoch_start(self) -> None:
        found = [self.trainer.train_dataloader.dataset]
        while found:
            dataset = found.pop()
            if isinstance(dataset, OfItsEpoch):
                dataset.epoch = self.current_epoch
                # Back to what it was at first, and away from it.
                dataset.share = None if self.current_epoch == 2 else 0.5
            found += getattr(dataset, "datasets", [])
            found += [dataset.dataset] if hasattr(dataset, "dataset") else []


class Counting(IterableDataset[Any]):
    """Counts what it has given, over all passes."""

    given = 0

    def __iter__(self) -> Iterator[Any]:
        for _ in range(8):
            self.given += 1
            yield torch.full((5,), self.given / 100), torch.ones(1), self.given


class Alternating(Sampler[int]):
    """Changes its direction in each pass."""

    direction = "up"

    def __iter__(self) -> Iterator[int]:
        self.direction = "down" if self.direction == "up" else "up"
        yield from range(8) if self.direction == "up" else reversed(range(8))

    def __len__(self) -> int:
        return 8


class Growing(DataLoader[Any]):
    """Scales its batches by the number of the pass."""

    factor = 0.0

    def __iter__(self) -> Any:
        self.factor += 0.5
        inputs: Tensor
        for inputs, targets, epoch in super().__iter__():
            yield inputs * self.factor, targets, epoch


def _subset_of_two() -> Any:
    return Subset(ConcatDataset([OfItsEpoch(), OfItsEpoch()]), list(range(3, 13)))


LOADERS: dict[str, Callable[[], Any]] = {
    "dataset": lambda: DataLoader(OfItsEpoch(), batch_size=3),
    "dataset in workers": lambda: DataLoader(OfItsEpoch(), batch_size=3, **WORKERS),
    "dataset in others": lambda: DataLoader(_subset_of_two(), batch_size=3),
    "stream": lambda: DataLoader(Counting(), batch_size=3),
    "sampler": lambda: DataLoader(OfItsEpoch(), batch_size=3, sampler=Alternating()),
    "loader": lambda: Growing(OfItsEpoch(), batch_size=3),
}


@pytest.mark.parametrize("name", LOADERS)
def test_after_each_batch(resumes: Resumes, name: str) -> None:
    # A stream has no length, by which Determined could count epochs.
    options = {"max_length": pytorch.Batch(7), "validation_period": pytorch.Batch(7)} if name == "stream" else {}
    resumes.everywhere(Case(Tells, lambda: {"train_dataloaders": LOADERS[name]()}, max_epochs=3), **options)

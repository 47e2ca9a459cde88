"""Containers, arrays and objects that the user's datasets, samplers and loaders remember go on after a pause."""

from __future__ import annotations

import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate

from lightning_shim import DifferenceWarning
from lightning_shim.checkpoint import attributes
from lightning_shim.session.fingerprints import Bound
from tests.parity.oracle import Case, assert_equal_ends, run_determined, run_lightning
from tests.resume.conftest import Resumes, checkpoints
from tests.resume.test_loaders import OnlyTraining

SAMPLES = 8


class Store:
    """An object of the user's, with what is remembered in it."""

    def __init__(self) -> None:
        self.totals: dict[int, list[float]] = {}

    def add(self, index: int, number: float) -> float:
        self.totals.setdefault(index % 2, []).append(number)
        return sum(self.totals[index % 2])


class Remembers(Dataset[Any]):
    """Gives samples that depend on all that it has given before."""

    def __init__(self) -> None:
        self.newest: deque[float] = deque(maxlen=3)
        self.seen: set[int] = set()
        self.average = torch.zeros(5)
        self.counts = np.zeros(SAMPLES)
        self.store = Store()
        self.alias = self.newest
        self.best: Any = None

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        inputs = torch.randn(5, generator=torch.Generator().manual_seed(index))
        self.newest.append(index / 10)
        self.seen.add(index)
        self.average.mul_(0.5).add_(inputs, alpha=0.5)
        self.counts[index] += 1
        self.best = (index, self.best[0] if self.best else 0)
        inputs = inputs + self.average + sum(self.alias) + len(self.seen) / 10 + float(self.counts.sum()) / 50
        return inputs + self.store.add(index, 0.01), inputs.sum().reshape(1), self.best[1]


class Shuffles(Sampler[int]):
    """Shuffles its order once more in each pass, the order of the pass before."""

    def __init__(self) -> None:
        self.order = list(range(SAMPLES))
        self.array = np.arange(SAMPLES)

    def __iter__(self) -> Iterator[int]:
        random.shuffle(self.order)
        np.random.shuffle(self.array)
        # Not lazily: what is there later is restored as well.
        yield from [self.order[index] for index in self.array]

    def __len__(self) -> int:
        return SAMPLES


class Prioritised(Sampler[list[int]]):
    """Gives batches of the samples that the dataset has seen least."""

    def __init__(self, dataset: Remembers) -> None:
        self.dataset = dataset
        self.chosen: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        order = np.argsort(self.dataset.counts + np.random.rand(SAMPLES)).tolist()[: SAMPLES - 2]
        self.chosen = [order[at : at + 2] for at in range(0, len(order), 2)]
        yield from self.chosen

    def __len__(self) -> int:
        return 3


class Collates:
    """Makes batches that depend on the one before."""

    def __init__(self) -> None:
        self.history: list[Tensor] = [torch.zeros(())]

    def __call__(self, samples: list[Any]) -> Any:
        inputs, *rest = default_collate(samples)
        self.history = [*self.history[-1:], inputs.mean()]
        return [inputs + self.history[0], *rest]


class Keeps(DataLoader[Any]):
    """Scales its batches by what it has in a list."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.factors = [1.0]
        super().__init__(*args, **options)

    def __iter__(self) -> Any:
        self.factors.append(self.factors[-1] * 0.9)
        inputs: Tensor
        for inputs, *rest in super().__iter__():
            yield [inputs * self.factors[-1], *rest]


class FromBuffer(IterableDataset[Any]):
    """Samples from the module's buffer of experience."""

    def __init__(self, buffer: deque[Tensor]) -> None:
        self.buffer = buffer

    def __iter__(self) -> Iterator[Any]:
        chosen = np.random.permutation(len(self.buffer))[-6:]
        for inputs in [self.buffer[index] for index in chosen]:
            yield inputs, inputs.sum().reshape(1), len(self.buffer)


class Experiences(OnlyTraining):
    """Adds to the buffer that its dataset samples from."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = deque((torch.full((5,), index / 10) for index in range(6)), maxlen=20)

    def train_dataloader(self) -> Any:
        return DataLoader(FromBuffer(self.buffer), batch_size=2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.buffer.append(torch.randn(5))
        return super().training_step(batch, batch_idx)


class Reads(IterableDataset[Any]):
    """Reads on where it was; the first batch is fetched before training starts, since it has no length."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self.first: Any = None

    def __iter__(self) -> Iterator[Any]:
        self.first = self.first or [len(self.given)]
        for index in range(9):
            self.given = [*self.given, index]
            yield torch.full((5,), float(len(self.given))), torch.ones(1), self.first[0]


class StreamInWorkers(IterableDataset[Any]):
    def __init__(self) -> None:
        self.given: list[int] = []

    def __iter__(self) -> Iterator[Any]:
        for index in range(SAMPLES):
            self.given.append(index)
            yield torch.full((5,), float(len(self.given))), torch.ones(1), index


class TellsADict(OnlyTraining):
    """Tells the dataset in the main process, of which its workers get a copy in each epoch."""

    def on_train_epoch_end(self) -> None:
        self.trainer.train_dataloader.dataset.seen.add(100 + self.current_epoch)


class GivesTheSeen(Remembers):
    def __getitem__(self, index: int) -> Any:
        return torch.full((5,), float(index + sum(self.seen))), torch.ones(1), index


def _prioritised() -> DataLoader[Any]:
    dataset = Remembers()
    return DataLoader(dataset, batch_sampler=Prioritised(dataset))


def _all_parts() -> DataLoader[Any]:
    return Keeps(Remembers(), batch_size=3, sampler=Shuffles(), collate_fn=Collates())


LOADERS: dict[str, Callable[[], Any]] = {
    "all parts": _all_parts,
    "prioritised": _prioritised,
}

SIX_BATCHES = {"max_length": pytorch.Batch(6), "validation_period": pytorch.Batch(6)}
"""The length of a stream, by which Determined cannot count epochs."""


def everywhere(resumes: Resumes, case: Case, **options: Any) -> None:
    """Continues from each checkpoint; nobody is warned; and compares with Lightning."""
    assert_equal_ends(run_lightning(case), run_determined(case, resumes.mocker, **options))
    resumes.everywhere(case, **options)


@pytest.mark.parametrize("name", LOADERS)
def test_after_each_batch(resumes: Resumes, name: str) -> None:
    everywhere(resumes, Case(OnlyTraining, lambda: {"train_dataloaders": LOADERS[name]()}, max_epochs=2))


def test_set_in_the_main_process_for_workers(resumes: Resumes) -> None:
    def data() -> dict[str, Any]:
        return {"train_dataloaders": DataLoader(GivesTheSeen(), batch_size=3, num_workers=1)}

    everywhere(resumes, Case(TellsADict, data, max_epochs=2))


@pytest.mark.parametrize("workers", [0, 1])
def test_stream(resumes: Resumes, workers: int) -> None:
    def data() -> dict[str, Any]:
        dataset = StreamInWorkers() if workers else Reads()
        return {"train_dataloaders": DataLoader(dataset, batch_size=3, num_workers=workers)}

    everywhere(resumes, Case(OnlyTraining, data, max_epochs=2), **SIX_BATCHES)


def test_buffer_shared_with_the_module(resumes: Resumes) -> None:
    everywhere(resumes, Case(Experiences, dict, max_epochs=2), **SIX_BATCHES)


def test_reloaded_in_each_epoch(resumes: Resumes) -> None:
    class Reloads(OnlyTraining):
        def train_dataloader(self) -> Any:
            return _all_parts()

    everywhere(resumes, Case(Reloads, dict, max_epochs=2, options={"reload_dataloaders_every_n_epochs": 1}))


class Lot(Remembers):
    """Has samples in a list and a tensor, of which it changes nothing, and reads a file that is opened when needed."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = [(f"{index}.png", index) for index in range(5_000)]
        self.images = torch.ones(1_000_000)
        self.file: Any = None

    def __getitem__(self, index: int) -> Any:
        if self.file is None:
            self.file = mmap(-1, 10)
        return super().__getitem__(index)


class Adds(Remembers):
    """Changes what is too large to be kept, and has an iterator."""

    def __init__(self) -> None:
        super().__init__()
        self.cached = list(range(5_000))
        self.images = np.ones(1_000_000)
        self.store.samples = list(range(5_000))  # type: ignore[attr-defined]
        self.numbers = (number for number in range(3))
        self.function: Any = None

    def __getitem__(self, index: int) -> Any:
        self.cached.append(index)
        self.images += 1
        self.numbers = (number for number in range(index))
        self.function = lambda: index
        return super().__getitem__(index)


def _warnings_of(train_dataloaders: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mocker: Any) -> list[str]:
    """Trains for two checkpoints, and returns the warnings that name attributes."""
    monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(tmp_path))
    case = Case(OnlyTraining, lambda: {"train_dataloaders": train_dataloaders}, max_epochs=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_determined(case, mocker, checkpoint_period=pytorch.Batch(1), max_length=pytorch.Batch(2))
    return [str(entry.message) for entry in caught if issubclass(entry.category, DifferenceWarning)]


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowers the bound from which values are large."""
    monkeypatch.setattr(attributes, "IN_CHECKPOINTS", Bound(1_000, 1024**2))


@pytest.mark.usefixtures("small_bounds")
def test_one_warning_names_what_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mocker: MockerFixture
) -> None:
    (message,) = _warnings_of(DataLoader(Adds(), batch_size=3), monkeypatch, tmp_path, mocker)
    assert message.startswith(
        "Checkpoints do not hold "
        "Adds.store of the training loader (it is larger than 1,000 objects or 1 MiB), "
        "Adds.cached of the training loader (it is larger than 1,000 objects or 1 MiB), "
        "Adds.images of the training loader (it is larger than 1,000 objects or 1 MiB), "
        "Adds.numbers of the training loader (it cannot be pickled), "
        "Adds.function of the training loader (it cannot be pickled). After a pause it is as __init__ and the hooks"
    )


@pytest.mark.usefixtures("small_bounds")
def test_what_is_large_and_unchanged_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mocker: MockerFixture
) -> None:
    assert _warnings_of(DataLoader(Lot(), batch_size=3), monkeypatch, tmp_path, mocker) == []
    sizes = [(folder / "state_dict.pth").stat().st_size for folder in checkpoints(tmp_path).values()]
    assert len(sizes) == 2
    assert max(sizes) < 100_000


def test_one_warning_names_what_changes_in_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mocker: MockerFixture
) -> None:
    loader = DataLoader(Remembers(), batch_size=3, num_workers=1, collate_fn=Collates())
    (message,) = _warnings_of(loader, monkeypatch, tmp_path, mocker)
    names = ("alias", "average", "best", "counts", "newest", "seen", "store")
    listed = [f"Remembers.{name} of the training loader (it changes in data workers)" for name in names]
    listed.append("Collates.history of the training loader (it changes in data workers)")
    named = message.removeprefix("Checkpoints do not hold ").partition(". After a pause")[0].split(", ")
    assert sorted(named) == sorted(listed)

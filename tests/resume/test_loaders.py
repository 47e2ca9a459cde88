"""A trial goes on in the middle of an epoch with the samples that it would have trained on."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    get_worker_info,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_shim import ConfigurationError, DifferenceWarning
from tests.parity.modules import Regression
from tests.parity.oracle import Case, assert_same
from tests.resume.conftest import Resumes, checkpoints, is_left_out

SAMPLES = 14

pytestmark = [
    # torchdata tells PyTorch that its loader is used, in a way that PyTorch deprecates.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous collection:UserWarning"),
]


class Noisy(Dataset[Any]):
    """Draws from every generator there is, and has some of its own; says which sample it gave."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self.samples = samples
        self.generator = torch.Generator().manual_seed(1)
        self.transform = Shift()
        self.later: np.random.Generator | None = None

    def __getitem__(self, index: int) -> Any:
        if self.later is None:
            self.later = np.random.default_rng(torch.initial_seed() % 1000)
        inputs = torch.randn(5) + random.random() + float(np.random.rand())
        inputs += torch.rand(1, generator=self.generator) + float(self.later.random())
        return self.transform(inputs), inputs.sum().reshape(1), index

    def __len__(self) -> int:
        return self.samples


class Shift:
    def __init__(self) -> None:
        self.random = random.Random(2)
        self.states = [np.random.RandomState(3)]

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs + self.random.random() + float(self.states[0].rand())


class Module(Regression):
    """Draws from every generator between the batches."""

    def __init__(self) -> None:
        super().__init__()
        # A batch may have one sample.
        self.layers[1] = nn.Identity()

    def loss(self, batch: Any) -> Tensor:
        inputs, targets = batch[:2]
        batch = [inputs.reshape(-1, 5), targets.reshape(-1, 1)]
        return super().loss(batch) + 0.01 * (random.random() + float(np.random.rand()))


def noisy(**options: Any) -> DataLoader[Any]:
    options = {"batch_size": 3, **options}
    return DataLoader(Noisy(), **options)


class OnlyTraining(Module):
    validation_step = pl.LightningModule.validation_step


class FromNumPy(Sampler[int]):
    """Draws the order from a global generator, and another number of samples in each pass."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        yield from np.random.permutation(SAMPLES)[: 8 + self.passes % 2].tolist()

    def __len__(self) -> int:
        return 9


class ByItself(Sampler[int]):
    """Draws each index when it is asked for, and never one twice, from a generator of its own; not lazily."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(4)

    def __iter__(self) -> Iterator[int]:
        return self.draw(list(range(self.generator.integers(8, 12))))

    def draw(self, left: list[int]) -> Iterator[int]:
        while left:
            yield left.pop(int(self.generator.integers(len(left))))

    def __len__(self) -> int:
        return 12


class Batches(Sampler[list[int]]):
    """Batches of different sizes, drawn as it is iterated."""

    def __iter__(self) -> Iterator[list[int]]:
        order = random.sample(range(SAMPLES), SAMPLES)
        yield from (order[:1], order[1:5], order[5:7], order[7:])

    def __len__(self) -> int:
        return 4


OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "shuffle": lambda: {"shuffle": True},
    "in order": dict,
    "numpy": lambda: {"sampler": FromNumPy()},
    "own": lambda: {"sampler": ByItself()},
    "replacement": lambda: {"sampler": RandomSampler(range(SAMPLES), replacement=True, num_samples=8)},
    "batches": lambda: {"batch_sampler": Batches(), "batch_size": 1},
    "no batches": lambda: {"batch_size": None, "sampler": ByItself()},
}
WORKERS = {"num_workers": 2}
PERSISTENT = {"num_workers": 2, "persistent_workers": True}


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        *((name, {}) for name in OPTIONS),
        *((name, WORKERS) for name in ("shuffle", "own", "batches")),
        *((name, PERSISTENT) for name in ("shuffle", "numpy", "no batches")),
    ],
)
def test_map_style(resumes: Resumes, name: str, workers: dict[str, Any]) -> None:
    def data() -> dict[str, Any]:
        return {"train_dataloaders": noisy(**workers, **OPTIONS[name]()), "val_dataloaders": noisy(**workers)}

    length = len(data()["train_dataloaders"]) if workers else None
    resumes.everywhere(Case(Module, data, max_epochs=2), every_other_of=length)


@pytest.mark.parametrize("workers", [{}, WORKERS, PERSISTENT])
def test_epochs_are_cut_short(resumes: Resumes, workers: dict[str, Any]) -> None:
    """Workers have then made batches that nobody takes."""

    def data() -> dict[str, Any]:
        return {"train_dataloaders": noisy(shuffle=True, **workers), "val_dataloaders": noisy(**workers)}

    options = {"limit_train_batches": 2, "limit_val_batches": 1}
    resumes.everywhere(Case(Module, data, max_epochs=3, options=options), every_other_of=2 if workers else None)


@pytest.mark.parametrize("options", [{"shuffle": True}, {"sampler": ByItself(), **WORKERS}])
def test_loader_of_determineds(resumes: Resumes, options: dict[str, Any]) -> None:
    def data() -> dict[str, Any]:
        loader = pytorch.DataLoader(Noisy(), batch_size=3, **copy.deepcopy(options))
        return {"train_dataloaders": loader, "val_dataloaders": pytorch.DataLoader(Noisy(), batch_size=3)}

    resumes.everywhere(Case(Module, data, max_epochs=2), every_other_of=4 if "num_workers" in options else None)


class DrawsBeforeTheFirstBatch(OnlyTraining):
    """With workers the samples have been chosen by then."""

    def on_train_epoch_start(self) -> None:
        torch.rand(3)


@pytest.mark.parametrize(
    ("name", "before", "afterwards"),
    [
        ("shuffle", WORKERS, {}),
        ("shuffle", PERSISTENT, {}),
        ("shuffle", {}, WORKERS),
        ("shuffle", {}, PERSISTENT),
        ("shuffle", WORKERS, {"num_workers": 1}),
        ("shuffle", PERSISTENT, WORKERS),
        # How the workers were, and what draws the samples, do not meet: each once more, with and without workers.
        ("numpy", WORKERS, {}),
        ("numpy", {}, PERSISTENT),
        ("batches", PERSISTENT, {}),
        ("batches", {}, WORKERS),
    ],
)
def test_other_number_of_workers(
    resumes: Resumes, name: str, before: dict[str, Any], afterwards: dict[str, Any]
) -> None:
    """The running epoch goes on with the samples that are left of it."""
    data = TensorDataset(torch.randn(SAMPLES, 5), torch.zeros(SAMPLES, 1), torch.arange(SAMPLES))

    def case(workers: dict[str, Any]) -> Case:
        loader = lambda: DataLoader(data, **{"batch_size": 3, **OPTIONS[name](), **workers})  # noqa: E731
        return Case(DrawsBeforeTheFirstBatch, lambda: {"train_dataloaders": loader()}, max_epochs=2)

    folder = resumes.folders.mktemp("uninterrupted")
    whole = resumes.run(case(before), folder, checkpoint_period=pytorch.Batch(1)).seen.batches
    length = len(whole) // 2
    for batches, checkpoint in checkpoints(folder).items():
        # What follows after the end of an epoch is another order.
        if batches % length == 0 or is_left_out(batches, length):
            continue
        running = dataclasses.replace(case(afterwards), max_epochs=1 + batches // length)
        resumed = resumes.run(running, folder, latest_checkpoint=checkpoint).seen.batches
        assert_same(resumed, whole[batches : running.max_epochs * length], f"batches after {batches}")


class Loads(Dataset[Any]):
    """Writes down which samples are loaded, in whatever process."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __getitem__(self, index: int) -> Any:
        with self.file.open("a") as lines:
            lines.write(f"{index} ")
        return torch.randn(5), torch.zeros(1), index

    def __len__(self) -> int:
        return SAMPLES


@pytest.mark.parametrize(
    ("workers", "shuffle"), [({}, False), ({}, True), (WORKERS, False), (WORKERS, True), (PERSISTENT, True)]
)
def test_nothing_is_loaded_to_be_skipped(
    resumes: Resumes, tmp_path: Path, workers: dict[str, Any], shuffle: bool
) -> None:
    loaded = tmp_path / "loaded"
    loader = lambda: DataLoader(Loads(loaded), batch_size=3, shuffle=shuffle, **workers)  # noqa: E731
    case = Case(OnlyTraining, lambda: {"train_dataloaders": loader()}, max_epochs=1)
    folder = resumes.folders.mktemp("uninterrupted")
    resumes.run(case, folder, checkpoint_period=pytorch.Batch(1))
    for batches, checkpoint in checkpoints(folder).items():
        loaded.write_text("")
        resumed = resumes.run(case, folder, latest_checkpoint=checkpoint)
        trained_on = [int(index) for batch in resumed.seen.batches for index in batch[2]]
        assert len(trained_on) == max(0, SAMPLES - 3 * batches)
        assert sorted(map(int, loaded.read_text().split())) == sorted(trained_on)


class Stream(IterableDataset[Any]):
    """Each worker's share of some noise; the end is not known before it is reached."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self.samples = samples
        self.noisy = Noisy(samples)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, self.samples, step):
            yield self.noisy[index]


class StreamWithLength(Stream):
    def __len__(self) -> int:
        return self.samples


class StreamWithState(Stream):
    """Starts at the beginning, but for once where it was told to."""

    position = start = 0

    def __iter__(self) -> Iterator[Any]:
        self.position, self.start = self.start, 0
        return self.rest()

    def rest(self) -> Iterator[Any]:
        while self.position < self.samples:
            self.position += 1
            yield self.noisy[self.position - 1]
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = state["position"]


class StreamWithStateAndLength(StreamWithState, StreamWithLength):
    pass


class OwnLoader(StreamWithState):
    """A loader that is no DataLoader."""

    samples = 5

    def __iter__(self) -> Iterator[Any]:
        return ([part.unsqueeze(0) for part in sample[:2]] for sample in super().__iter__())


class OwnLoaderWithLength(OwnLoader):
    def __len__(self) -> int:
        return self.samples


class OwnIterator:
    """A loader that is its own iterator: it starts anew each time that it is iterated, with an order that it draws."""

    def __iter__(self) -> OwnIterator:
        self.order = torch.randperm(5).tolist()
        return self

    def __next__(self) -> Any:
        if not self.order:
            raise StopIteration
        return [torch.full((2, 5), float(self.order.pop())) + torch.randn(5), torch.randn(2, 1)]


class OwnIteratorWithLength(OwnIterator):
    def __len__(self) -> int:
        return 5


def with_workers(make: Callable[[], Any], length: int) -> int | None:
    return length if getattr(make(), "num_workers", 0) else None


def stateful(**options: Any) -> StatefulDataLoader[Any]:
    return StatefulDataLoader(Noisy(), batch_size=3, **options)


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined:UserWarning")
@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(StreamWithLength(), batch_size=3),
        lambda: DataLoader(StreamWithLength(), batch_size=3, **WORKERS),
        lambda: DataLoader(StreamWithLength(), batch_size=3, **PERSISTENT),
        lambda: DataLoader(StreamWithStateAndLength(), batch_size=3),
        lambda: stateful(shuffle=True),
        OwnLoaderWithLength,
        OwnIteratorWithLength,
    ],
)
def test_stream(resumes: Resumes, loader: Callable[[], Any]) -> None:
    case = Case(OnlyTraining, lambda: {"train_dataloaders": loader()}, max_epochs=2)
    resumes.everywhere(case, every_other_of=with_workers(loader, 5))


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(Stream(), batch_size=3),
        lambda: DataLoader(Stream(), batch_size=3, **WORKERS),
        lambda: DataLoader(StreamWithState(), batch_size=3),
        lambda: StatefulDataLoader(StreamWithState(), batch_size=3),
        OwnLoader,
        OwnIterator,
    ],
)
def test_stream_without_length(resumes: Resumes, loader: Callable[[], Any]) -> None:
    case = Case(OnlyTraining, lambda: {"train_dataloaders": loader()})
    resumes.everywhere(case, every_other_of=with_workers(loader, 6), max_length=pytorch.Batch(12))


@dataclass(eq=False)
class Pairs:
    """A batch of a class of the user's."""

    inputs: Tensor
    targets: Tensor
    names: np.ndarray[Any, Any]

    @classmethod
    def of(cls, samples: list[Any]) -> Pairs:
        inputs, targets, indices = zip(*samples, strict=True)
        return cls(torch.stack(inputs), torch.stack(targets), np.array(indices))

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Pairs)
        return torch.equal(self.inputs, other.inputs) and np.array_equal(self.names, other.names)


class OfPairs(OnlyTraining):
    def loss(self, batch: Any) -> Tensor:
        assert isinstance(batch.names, np.ndarray)
        return super().loss([batch.inputs, batch.targets])


def test_batch_of_the_users_class_that_is_fetched_ahead(resumes: Resumes) -> None:
    case = Case(OfPairs, lambda: {"train_dataloaders": DataLoader(Stream(), batch_size=3, collate_fn=Pairs.of)})
    options = {"max_length": pytorch.Batch(7)}
    resumes.everywhere(case, **options)
    folder = resumes.folders.mktemp("loaded by Lightning")
    resumes.run(case, folder, checkpoint_period=pytorch.Batch(2), **options)
    for checkpoint in checkpoints(folder).values():
        OfPairs.load_from_checkpoint(checkpoint / "state_dict.pth")


class Together(OnlyTraining):
    """Gets a batch of each of several loaders."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        losses = {name: self.loss(part) for name, part in batch.items() if part is not None}
        self.log_dict(losses, on_step=True, on_epoch=True)
        return sum(losses.values())


@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size", "max_size"])
@pytest.mark.parametrize(
    ("workers", "options"), [({}, {}), (WORKERS, {}), (PERSISTENT, {}), ({}, {"limit_train_batches": 4})]
)
def test_several_loaders(resumes: Resumes, mode: Any, workers: dict[str, Any], options: dict[str, Any]) -> None:
    def data() -> dict[str, Any]:
        together = {
            "long": noisy(shuffle=True),
            "short": DataLoader(Noisy(5), batch_size=3, shuffle=True, **workers),
            "stream": DataLoader(StreamWithState(8), batch_size=3),
            "own": OwnIterator(),
        }
        return {"train_dataloaders": CombinedLoader(together, mode)}

    case = Case(Together, data, options=options)
    length = 2 if mode == "min_size" else 5
    resumes.everywhere(case, every_other_of=length if workers else None, max_length=pytorch.Batch(9))


class AtEachIndex(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        left = list(range(SAMPLES))
        while left:
            yield left.pop(int(torch.randint(len(left), ())))

    def __len__(self) -> int:
        return SAMPLES


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("workers", [{}, WORKERS])
def test_sampler_that_cannot_be_repeated(resumes: Resumes, workers: dict[str, Any]) -> None:
    case = Case(OnlyTraining, lambda: {"train_dataloaders": noisy(sampler=AtEachIndex(), **workers)}, max_epochs=1)
    folder = resumes.folders.mktemp("uninterrupted")
    resumes.run(case, folder, checkpoint_period=pytorch.Batch(1))
    with pytest.warns(DifferenceWarning, match="AtEachIndex draws from the global random generator of torch each time"):
        resumes.run(case, folder, latest_checkpoint=checkpoints(folder)[2])


def test_stream_that_has_become_shorter(resumes: Resumes) -> None:
    samples = [SAMPLES, 4]
    case = Case(OnlyTraining, lambda: {"train_dataloaders": DataLoader(Stream(samples.pop(0)), batch_size=3)})
    folder = resumes.folders.mktemp("uninterrupted")
    length = pytorch.Batch(5)
    resumes.run(case, folder, max_length=length, checkpoint_period=pytorch.Batch(1))
    with pytest.raises(ConfigurationError, match="gave 2 batches, of which 4 had been taken before the pause"):
        resumes.run(case, folder, max_length=length, latest_checkpoint=checkpoints(folder)[3])


def test_other_number_of_loaders(resumes: Resumes) -> None:
    loaders = [noisy(), [noisy(), noisy()]]
    case = Case(OnlyTraining, lambda: {"train_dataloaders": loaders.pop(0)}, max_epochs=1)
    folder = resumes.folders.mktemp("uninterrupted")
    resumes.run(case, folder, checkpoint_period=pytorch.Batch(1))
    with pytest.raises(ConfigurationError, match="gave another number of loaders than before the pause: 2, not 1"):
        resumes.run(case, folder, latest_checkpoint=checkpoints(folder)[3])

"""Where batches come from: every kind of loader gives the batches that ``pl.Trainer`` would train on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

import lightning_shim
from tests.parity.modules import Regression, dataset, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.parity.runs import run_determined_by, run_lightning_by_steps

Data = dict[str, Any]


def assert_parity(mocker: MockerFixture, module: type, data: Callable[[], Data], **options: Any) -> None:
    case = Case(module, data, **options)
    assert_equal(run_lightning(case), run_determined(case, mocker))


def validation() -> DataLoader[Any]:
    loader: DataLoader[Any] = loaders()["val_dataloaders"]
    return loader


class BringsLoaders(Regression):
    def train_dataloader(self) -> Any:
        return loaders()["train_dataloaders"]

    def val_dataloader(self) -> Any:
        return [validation()]


def test_loaders_of_the_module(mocker: MockerFixture) -> None:
    assert_parity(mocker, BringsLoaders, dict)


def test_loaders_that_are_passed_come_first(mocker: MockerFixture) -> None:
    data = {"train_dataloaders": DataLoader(dataset(8), batch_size=2)}
    assert_parity(mocker, BringsLoaders, lambda: data)


class Recorder(pl.LightningDataModule):
    """Writes down what is called, by whom it is attached to, and has hooks of its own for the transfer."""

    calls: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def call(self, name: str, *args: Any) -> None:
        self.calls.append((name, self.trainer is not None and type(self.trainer.lightning_module).__name__, args))

    def prepare_data(self) -> None:
        self.call("prepare_data")

    def setup(self, stage: str) -> None:
        self.call("setup", stage)
        self.train, self.val = loaders().values()

    def train_dataloader(self) -> Any:
        self.call("train_dataloader", self.trainer.current_epoch)
        return self.train

    def val_dataloader(self) -> Any:
        self.call("val_dataloader", self.trainer.current_epoch)
        return self.val

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.call("on_before_batch_transfer", dataloader_idx, self.trainer.training)
        return [batch[0] + 0.5, batch[1]]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.call("transfer_batch_to_device", str(device), dataloader_idx)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.call("on_after_batch_transfer", dataloader_idx)
        return [batch[0] * 2, batch[1]]

    def teardown(self, stage: str) -> None:
        self.call("teardown", stage)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.call("load_state_dict", state_dict["calls"])


class OnlyAfterTransfer(Recorder):
    on_before_batch_transfer = pl.LightningDataModule.on_before_batch_transfer
    transfer_batch_to_device = pl.LightningDataModule.transfer_batch_to_device


@pytest.mark.filterwarnings("ignore:You have overridden `.*` in:UserWarning")
@pytest.mark.parametrize("datamodule", [Recorder, OnlyAfterTransfer])
@pytest.mark.parametrize("every_hook", [True, False])
def test_datamodule(mocker: MockerFixture, datamodule: type, every_hook: bool) -> None:
    made: list[Any] = []

    def data() -> Data:
        made.append(datamodule())
        return {"datamodule": made[-1]}

    assert_parity(mocker, Regression, data, every_hook=every_hook)
    assert made[1].calls == made[0].calls


@pytest.mark.usefixtures("patched")
def test_state_of_the_datamodule_is_in_the_checkpoint() -> None:
    trial = lightning_shim.fit(Regression(), datamodule=Recorder(), max_length=pytorch.Epoch(1))
    datamodule = Recorder()
    lightning_shim.fit(
        Regression(), datamodule=datamodule, max_length=pytorch.Epoch(2), latest_checkpoint=trial.checkpoint_path
    )
    names = [name for name, _, _ in datamodule.calls]
    assert names.index("setup") < names.index("load_state_dict") < names.index("on_before_batch_transfer")
    assert next(args for name, _, args in datamodule.calls if name == "load_state_dict")[0] > 0


class LogsInTwoHooks(Regression):
    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch))

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_batch", float(batch_idx))
        self.log(f"val_batch_{dataloader_idx}", float(batch_idx), add_dataloader_idx=False)


def test_several_validation_loaders(mocker: MockerFixture) -> None:
    def data() -> Data:
        return {**loaders(), "val_dataloaders": [validation(), validation()]}

    assert_parity(mocker, LogsInTwoHooks, data, every_hook=False)


class SeveralAtOnce(Regression):
    """Gets a batch of each of several training loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        parts = batch.items() if isinstance(batch, dict) else enumerate(batch)
        losses = {str(name): self.loss(part) for name, part in parts if part is not None}
        self.log_dict(losses, on_step=True, on_epoch=True)
        return sum(losses.values())


class TrainsAndValidatesOnSeveral(SeveralAtOnce):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        self.log("val_loss", self.loss(batch))


def two_loaders() -> dict[str, DataLoader[Any]]:
    return {
        "a": DataLoader(dataset(12), batch_size=4, shuffle=True),
        "b": DataLoader(dataset(15, seed=5), batch_size=3, shuffle=True),
    }


TOGETHER: list[Callable[[], Any]] = [
    lambda: list(two_loaders().values()),
    two_loaders,
    *(
        lambda mode=mode: CombinedLoader(two_loaders(), mode)  # type: ignore[misc]
        for mode in ("max_size_cycle", "min_size", "max_size")
    ),
]


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous collection:UserWarning")
@pytest.mark.parametrize("together", TOGETHER, ids=["list", "dict", "max_size_cycle", "min_size", "max_size"])
@pytest.mark.parametrize("limit", [1.0, 2])
def test_several_training_loaders(mocker: MockerFixture, together: Callable[[], Any], limit: float) -> None:
    def data() -> Data:
        return {"train_dataloaders": together(), "val_dataloaders": validation()}

    assert_parity(mocker, SeveralAtOnce, data, options={"limit_train_batches": limit})


OVERFITTED: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: DataLoader(dataset(), batch_size=4, shuffle=True),
    "sampler": lambda: DataLoader(dataset(), batch_size=4, sampler=range(7, 20)),
    "one of two": lambda: [validation(), DataLoader(dataset(15), batch_size=4, sampler=range(3, 15))],
}
IN_ORDER: dict[str, Callable[[], Any]] = {
    "as they are": validation,
    # Lightning looks at the sampler that the loader has beside it.
    "by a batch sampler": lambda: DataLoader(dataset(), batch_sampler=BatchSampler(RandomSampler(dataset()), 5, True)),
}


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous collection:UserWarning")
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled (train|val) dataloader shuffling:UserWarning")
@pytest.mark.parametrize("batches", [2, 0.4])
@pytest.mark.parametrize("overfitted", OVERFITTED)
def test_overfit_batches(mocker: MockerFixture, overfitted: str, batches: float) -> None:
    def data() -> Data:
        both = OVERFITTED[overfitted]
        return {"train_dataloaders": both(), "val_dataloaders": both()}

    module = TrainsAndValidatesOnSeveral if overfitted == "one of two" else Regression
    case = Case(module, data, options={"overfit_batches": batches}, max_epochs=3)
    with pytest.warns(lightning_shim.DifferenceWarning) as warned:
        ours = run_determined(case, mocker)
    said = {str(warning.message) for warning in warned if warning.category is lightning_shim.DifferenceWarning}
    assert [message.partition(" shuffling.")[0] for message in sorted(said)] == [
        "You requested to overfit but enabled train dataloader",
        "You requested to overfit but enabled val dataloader",
    ]
    assert_equal(run_lightning(case), ours)


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled:UserWarning")
@pytest.mark.parametrize("in_order", IN_ORDER)
def test_overfit_batches_that_go_in_order(mocker: MockerFixture, in_order: str) -> None:
    def data() -> Data:
        return {"train_dataloaders": IN_ORDER[in_order](), "val_dataloaders": IN_ORDER[in_order]()}

    assert_parity(mocker, Regression, data, options={"overfit_batches": 2})


class Opaque(DataLoader[Any]):
    """Does not say how it was made."""

    def __init__(self, size: int) -> None:
        super().__init__(dataset(), batch_size=size, shuffle=True)


@pytest.mark.usefixtures("patched")
def test_loader_that_cannot_be_overfitted() -> None:
    message = r"test_data.py:\d+: train_dataloaders gave a loader that cannot go through its dataset in order"
    with (
        pytest.warns(lightning_shim.DifferenceWarning, match="requested to overfit but enabled train"),
        pytest.raises(lightning_shim.ConfigurationError, match=message),
    ):
        lightning_shim.fit(WithoutValidation(), Opaque(4), overfit_batches=2, max_length=pytorch.Epoch(1))


class ByEpoch(Sampler[int]):
    """As DistributedSampler, draws from the epoch that it is told."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.epochs[-1] if self.epochs else 100)
        return iter(torch.randperm(self.length, generator=generator).tolist())

    def __len__(self) -> int:
        return self.length


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous collection:UserWarning")
def test_sampler_that_is_told_the_epoch(mocker: MockerFixture) -> None:
    made: list[ByEpoch] = []

    def data() -> Data:
        samplers = ByEpoch(22), ByEpoch(10), ByEpoch(22)
        made.extend(samplers)
        train, val, inner = samplers
        return {
            "train_dataloaders": [
                DataLoader(dataset(), batch_size=4, sampler=train),
                DataLoader(dataset(), batch_sampler=BatchSampler(inner, 4, drop_last=True)),
            ],
            "val_dataloaders": DataLoader(dataset(10), batch_size=4, sampler=val),
        }

    assert_parity(mocker, SeveralAtOnce, data)
    assert [sampler.epochs for sampler in made[3:]] == [sampler.epochs for sampler in made[:3]]


class TwoSizes(Sampler[list[int]]):
    """Batches of other sizes, in another order, each time; knows no ``batch_size`` and no ``drop_last``."""

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(22).tolist()
        yield from (order[:5], order[5:7], order[7:15], order[15:])

    def __len__(self) -> int:
        return 4


def test_batch_sampler(mocker: MockerFixture) -> None:
    def data() -> Data:
        return {"train_dataloaders": DataLoader(dataset(), batch_sampler=TwoSizes()), "val_dataloaders": validation()}

    assert_parity(mocker, Regression, data)


ARGUMENTS: list[Callable[[], dict[str, Any]]] = [
    lambda: {"batch_size": 4, "shuffle": True},
    lambda: {"batch_size": 4, "shuffle": True, "num_workers": 1, "persistent_workers": True},
    lambda: {"batch_size": 5, "sampler": RandomSampler(dataset(), replacement=True), "drop_last": True},
    lambda: {"batch_sampler": TwoSizes()},
    lambda: {"batch_size": 4, "generator": torch.Generator().manual_seed(3), "shuffle": True},
    lambda: {
        "collate_fn": lambda samples: [torch.stack(part) for part in zip(*samples[::-1], strict=True)],
        "batch_size": 4,
    },
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_loader_of_determineds(mocker: MockerFixture, arguments: Callable[[], dict[str, Any]]) -> None:
    """It is a recipe: what PyTorch's loader does with the same arguments is done."""

    def data(kind: Any) -> Data:
        return {
            "train_dataloaders": kind(dataset(), **arguments()),
            "val_dataloaders": [kind(dataset(10, seed=4), batch_size=4)],
        }

    lightning = run_lightning(Case(Regression, lambda: data(DataLoader)))
    assert_equal(lightning, run_determined(Case(Regression, lambda: data(pytorch.DataLoader)), mocker))


class Stream(IterableDataset[Any]):
    """Reads on where the pass before has ended."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        yield from dataset(self.samples, seed=self.passes)


class StreamWithLength(Stream):
    def __len__(self) -> int:
        return self.samples


class WithoutValidation(Regression):
    validation_step = pl.LightningModule.validation_step


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined:UserWarning")
def test_iterable_with_length(mocker: MockerFixture) -> None:
    assert_parity(
        mocker,
        Regression,
        lambda: {
            "train_dataloaders": DataLoader(StreamWithLength(11), batch_size=3),
            "val_dataloaders": DataLoader(StreamWithLength(4), batch_size=3),
        },
    )


@pytest.mark.parametrize("batches", [3, 4, 6, 10])
@pytest.mark.parametrize("samples", [11, 12])
def test_iterable_without_length(mocker: MockerFixture, batches: int, samples: int) -> None:
    """Passes of four batches, the last one complete or not."""
    data = lambda: {"train_dataloaders": DataLoader(Stream(samples), batch_size=3)}  # noqa: E731
    case = Case(WithoutValidation, data)
    lightning = run_lightning_by_steps(case, batches)
    assert_equal(lightning, run_determined_by(case, mocker, pytorch.Batch(batches)))


def test_validation_of_a_stream(mocker: MockerFixture) -> None:
    def data() -> Data:
        return {
            "train_dataloaders": DataLoader(Stream(11), batch_size=3),
            "val_dataloaders": DataLoader(Stream(5), batch_size=2),
        }

    case = Case(Regression, data, validation=4)
    lightning = run_lightning_by_steps(case, 16)
    assert_equal(lightning, run_determined_by(case, mocker, pytorch.Batch(16), pytorch.Batch(4)))


def test_limit_gives_a_stream_no_length(mocker: MockerFixture) -> None:
    data = lambda: {"train_dataloaders": DataLoader(Stream(11), batch_size=3)}  # noqa: E731
    case = Case(WithoutValidation, data, options={"limit_train_batches": 3})
    lightning = run_lightning_by_steps(case, 8)
    assert_equal(lightning, run_determined_by(case, mocker, pytorch.Batch(8)))


class Plain:
    """A loader that is no DataLoader, and may promise more batches than it has."""

    def __init__(self, promised: int, given: int) -> None:
        self.promised, self.given = promised, given

    def __iter__(self) -> Iterator[list[Tensor]]:
        for _ in range(self.given):
            yield [torch.randn(4, 5), torch.randn(4, 1)]

    def __len__(self) -> int:
        return self.promised


@pytest.mark.parametrize(("promised", "given"), [(4, 4), (3, 5)])
def test_plain_iterable(mocker: MockerFixture, promised: int, given: int) -> None:
    data = {"train_dataloaders": Plain(promised, given), "val_dataloaders": Plain(2, 2)}
    assert_parity(mocker, Regression, lambda: data)


class OwnIterator:
    """A loader that is its own iterator: it starts anew each time that it is iterated, with an order that it draws."""

    def __iter__(self) -> OwnIterator:
        self.order = torch.randperm(4).tolist()
        return self

    def __next__(self) -> list[Tensor]:
        if not self.order:
            raise StopIteration
        return [torch.full((4, 5), float(self.order.pop())), torch.randn(4, 1)]


class OwnIteratorWithLength(OwnIterator):
    def __len__(self) -> int:
        return 4


def test_loader_that_is_its_own_iterator(mocker: MockerFixture) -> None:
    data = lambda: {"train_dataloaders": OwnIteratorWithLength(), "val_dataloaders": OwnIterator()}  # noqa: E731
    assert_parity(mocker, Regression, data)


@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size", "max_size"])
def test_own_iterator_beside_another_loader(mocker: MockerFixture, mode: Any) -> None:
    def data() -> dict[str, Any]:
        together = {"a": OwnIteratorWithLength(), "b": Plain(6, 6)}
        return {"train_dataloaders": CombinedLoader(together, mode), "val_dataloaders": OwnIteratorWithLength()}

    assert_parity(mocker, SeveralAtOnce, data)


def test_loader_that_promises_too_much(mocker: MockerFixture) -> None:
    """Lightning ends such an epoch without a validation; Determined validates where the promised epoch ends."""
    data = {"train_dataloaders": Plain(5, 3)}
    case = Case(WithoutValidation, lambda: data)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    # Determined counts the batches that were promised as well.
    lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous collection:UserWarning")
@pytest.mark.parametrize("options", [{"drop_last": True}, {"batch_size": None}, {"collate_fn": lambda rows: rows}])
def test_options_of_the_loader(mocker: MockerFixture, options: dict[str, Any]) -> None:
    class Lenient(Regression):
        def loss(self, batch: Any) -> Tensor:
            if "collate_fn" in options:
                batch = [torch.stack([row[0] for row in batch]), torch.stack([row[1] for row in batch])]
            if "batch_size" in options:
                batch = [batch[0].expand(2, 5), batch[1].expand(2, 1)]
            return super().loss(batch)

    def data() -> Data:
        return {
            "train_dataloaders": DataLoader(dataset(), shuffle=True, **{"batch_size": 4, **options}),
            "val_dataloaders": DataLoader(dataset(10), **{"batch_size": 4, **options}),
        }

    assert_parity(mocker, Lenient, data, max_epochs=2)


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous collection:UserWarning")
def test_generator_of_its_own(mocker: MockerFixture) -> None:
    generators: list[torch.Generator] = []

    def data() -> Data:
        generators.extend(torch.Generator().manual_seed(seed) for seed in (11, 12))
        shuffled, sampled = generators[-2:]
        weights = RandomSampler(dataset(), replacement=True, num_samples=24, generator=sampled)
        return {
            "train_dataloaders": [
                DataLoader(dataset(), batch_size=4, shuffle=True, generator=shuffled),
                DataLoader(dataset(), batch_size=4, sampler=weights),
            ],
            "val_dataloaders": validation(),
        }

    assert_parity(mocker, SeveralAtOnce, data)
    for lightning, determined in zip(generators[:2], generators[2:], strict=True):
        assert torch.equal(determined.get_state(), lightning.get_state())


class Augmented(Dataset[Any]):
    """Draws from every generator of the worker."""

    def __getitem__(self, index: int) -> Any:
        inputs = torch.randn(5) + float(np.random.rand())
        return inputs, inputs.sum().reshape(1)

    def __len__(self) -> int:
        return 12


def seed_worker(worker: int) -> None:
    np.random.seed(50 + worker)


@pytest.mark.parametrize("worker_init_fn", [None, seed_worker])
@pytest.mark.parametrize("workers", [True, False])
def test_random_numbers_in_workers(mocker: MockerFixture, workers: bool, worker_init_fn: Any) -> None:
    seed_everything = pl.seed_everything
    mocker.patch.object(pl, "seed_everything", lambda seed, **options: seed_everything(seed, workers, **options))

    def data() -> Data:
        loader = DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=2, worker_init_fn=worker_init_fn)
        return {"train_dataloaders": loader}

    assert_parity(mocker, WithoutValidation, data, max_epochs=2)


def test_workers_of_a_pass_end_before_the_next_begins(patched: None) -> None:
    others = set(multiprocessing.active_children())
    running: list[int] = []

    class Looks(SequentialSampler):
        def __iter__(self) -> Iterator[int]:
            # A loader starts its worker before it iterates its sampler.
            running.append(len(set(multiprocessing.active_children()) - others))
            return super().__iter__()

    def loader() -> DataLoader[Any]:
        return DataLoader(dataset(), batch_size=4, sampler=Looks(dataset()), num_workers=1)

    options: dict[str, Any] = {"checkpoint_policy": "none", "num_sanity_val_steps": 0, "seed": 0}
    lightning_shim.fit(Regression, loader(), loader(), max_length=pytorch.Epoch(3), **options)
    # Its own and the other stage's.
    assert running == [1, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("limit", [1, 4, 6, 100, 0.5, 0.2, 1.0])
def test_limit(mocker: MockerFixture, limit: float) -> None:
    def data() -> Data:
        return {
            "train_dataloaders": DataLoader(dataset(), batch_size=4, shuffle=True),
            "val_dataloaders": validation(),
        }

    assert_parity(mocker, Regression, data, options={"limit_train_batches": limit})

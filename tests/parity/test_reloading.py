"""``reload_dataloaders_every_n_epochs``: loaders are asked for when ``pl.Trainer`` asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, random_split

import lightning_shim
from tests.parity.modules import Regression, dataset
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.parity.runs import run_determined_by, run_lightning_by_steps
from tests.support.lightning_trainer import fit_by_lightning


def of_epoch(epoch: int, samples: int = 22, shuffle: bool = True) -> DataLoader[Any]:
    """Makes a loader of other samples in each epoch, chosen by chance."""
    chosen, _ = random_split(dataset(samples + 6, seed=3 + epoch), [samples, 6])
    return DataLoader(chosen, batch_size=4, shuffle=shuffle)


class Reloads(Regression):
    def train_dataloader(self) -> Any:
        return of_epoch(self.trainer.current_epoch)

    def val_dataloader(self) -> Any:
        return [of_epoch(10 + self.trainer.current_epoch, samples=10, shuffle=False)]


class Data(pl.LightningDataModule):
    """Gives a loader whose workers run on, time and again, and another one for validation each time."""

    def setup(self, stage: str) -> None:
        self.train = DataLoader(dataset(), batch_size=4, shuffle=True, num_workers=1, persistent_workers=True)

    def train_dataloader(self) -> Any:
        return self.train

    def val_dataloader(self) -> Any:
        return of_epoch(self.trainer.current_epoch, samples=10, shuffle=False)


@pytest.mark.filterwarnings("ignore:You have overridden `.*` in:UserWarning")
@pytest.mark.parametrize("period", [1, 2, 3])
@pytest.mark.parametrize(("module", "data"), [(Reloads, dict), (Regression, lambda: {"datamodule": Data()})])
def test_every_few_epochs(mocker: MockerFixture, module: type, data: Callable[[], Any], period: int) -> None:
    case = Case(module, data, max_epochs=4, options={"reload_dataloaders_every_n_epochs": period})
    assert_equal(run_lightning(case), run_determined(case, mocker))


@pytest.mark.parametrize("period", [0, 1, 2])
def test_validation_every_other_epoch(mocker: MockerFixture, period: int) -> None:
    case = Case(Reloads, dict, max_epochs=4, options={"reload_dataloaders_every_n_epochs": period})
    lightning = run_lightning(case, check_val_every_n_epoch=2)
    assert_equal(lightning, run_determined(case, mocker, validation_period=pytorch.Epoch(2)))


class NotesEpochs(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[Any] = []

    def val_dataloader(self) -> Any:
        self.epochs.append((self.trainer.sanity_checking, self.trainer.current_epoch))
        return of_epoch(0, samples=8, shuffle=False)


@pytest.mark.parametrize(("every", "period"), [(3, 4), (2, 2), (1, 2), (2, 0)])
def test_loaders_of_a_sanity_check(every: int, period: int) -> None:
    """They last only if the epoch that begins is one with a validation."""
    epochs = []
    for trainer in (False, True):
        module = NotesEpochs()
        with lightning_shim.patched(trainer=trainer):
            fit_by_lightning(
                pl,
                module,
                of_epoch(0, samples=8),
                max_epochs=7,
                num_sanity_val_steps=1,
                check_val_every_n_epoch=every,
                reload_dataloaders_every_n_epochs=period,
            )
        epochs.append(module.epochs)
    assert epochs[0] == epochs[1]


def test_validation_within_epochs(mocker: MockerFixture) -> None:
    case = Case(Reloads, dict, max_epochs=4, options={"reload_dataloaders_every_n_epochs": 1}, validation=4)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class BecomesShorter(Reloads):
    def train_dataloader(self) -> Any:
        return of_epoch(self.trainer.current_epoch, samples=22 - 4 * self.trainer.current_epoch)


def test_shorter_epochs(mocker: MockerFixture) -> None:
    case = Case(BecomesShorter, dict, max_epochs=4, options={"reload_dataloaders_every_n_epochs": 1})
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    # Determined counts the batches of the first epoch in each.
    lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


class BecomesLonger(Reloads):
    def train_dataloader(self) -> Any:
        return of_epoch(self.trainer.current_epoch, samples=22 + 8 * self.trainer.current_epoch)


@pytest.mark.usefixtures("patched")
def test_longer_epochs_are_an_error() -> None:
    line = BecomesLonger.train_dataloader.__code__.co_firstlineno
    problem = rf"test_reloading.py:{line}: train_dataloader gave 8 batches in epoch 1, and 6 batches in the first"
    with pytest.raises(lightning_shim.ConfigurationError, match=problem):
        lightning_shim.fit(BecomesLonger, max_length=pytorch.Epoch(2), reload_dataloaders_every_n_epochs=1)


class Noise(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for _ in range(11):
            yield torch.randn(5), torch.randn(1)


class ReloadsStream(Regression):
    validation_step = pl.LightningModule.validation_step

    def train_dataloader(self) -> Any:
        return DataLoader(Noise(), batch_size=3)


@pytest.mark.parametrize("batches", [8, 10])
def test_stream(mocker: MockerFixture, batches: int) -> None:
    case = Case(ReloadsStream, dict, options={"reload_dataloaders_every_n_epochs": 1})
    lightning = run_lightning_by_steps(case, batches)
    assert_equal(lightning, run_determined_by(case, mocker, pytorch.Batch(batches)))


class KnowsLength(BecomesShorter):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log("batches", float(self.trainer.num_training_batches))
        self.log("period", float(self.trainer.reload_dataloaders_every_n_epochs))
        return super().training_step(batch, batch_idx)


def test_trainer_knows(mocker: MockerFixture) -> None:
    case = Case(KnowsLength, dict, max_epochs=2, options={"reload_dataloaders_every_n_epochs": 1})
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    assert determined.callback_metrics["batches"] == lightning.callback_metrics["batches"] == 5
    assert determined.callback_metrics["period"] == lightning.callback_metrics["period"] == 1


@pytest.mark.parametrize("period", [-1, 1.0, True, "1"])
def test_period_that_makes_no_sense(period: Any) -> None:
    with (
        lightning_shim.patched(),
        pytest.raises(lightning_shim.ConfigurationError, match="it is a number of epochs, or 0 for never"),
    ):
        lightning_shim.fit(Reloads, max_length=pytorch.Epoch(1), reload_dataloaders_every_n_epochs=period)

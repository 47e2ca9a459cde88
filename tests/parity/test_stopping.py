"""Stopping early, wherever it is asked for, and loaders whose epochs Determined cannot count."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import EarlyStopping
from torch.utils.data import DataLoader, IterableDataset

import lightning_shim
from tests.parity.modules import Regression, dataset, loaders
from tests.parity.oracle import Case, assert_equal, assert_same, run_determined, run_lightning
from tests.support.lightning_trainer import fit_by_lightning


class StopsAtStep(Regression):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.global_step == 9:
            self.trainer.should_stop = True


class StopsInStep(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trainer.should_stop = self.global_step >= 7
        return super().training_step(batch, batch_idx)


class StopsInValidation(Regression):
    def on_validation_epoch_end(self) -> None:
        self.trainer.should_stop = True


class StopsAtTheEndOfAnEpoch(Regression):
    def on_train_epoch_end(self) -> None:
        self.trainer.should_stop = self.current_epoch == 1


class StopsAtTheStartOfAnEpoch(Regression):
    def on_train_epoch_start(self) -> None:
        self.trainer.should_stop = self.current_epoch == 1


MODULES = [StopsAtStep, StopsInStep, StopsInValidation, StopsAtTheEndOfAnEpoch, StopsAtTheStartOfAnEpoch]


@pytest.mark.filterwarnings("ignore:The number of training batches .6. is smaller than the logging interval")
@pytest.mark.parametrize("period", [1, 100])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_should_stop(mocker: MockerFixture, module: type, period: int) -> None:
    case = Case(module, loaders, max_epochs=4, log_every_n_steps=period)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    # Lightning also logs the step at which it stops, Determined those of its period.
    lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(dataset())


def stream() -> dict[str, Any]:
    return {**loaders(), "train_dataloaders": DataLoader(Stream(), batch_size=4)}


@pytest.mark.parametrize("callbacks", [list, lambda: [EarlyStopping("val_loss", patience=5)]])
def test_loader_without_a_length(mocker: MockerFixture, callbacks: Any) -> None:
    pl.seed_everything(7)
    theirs = Regression()
    trainer = fit_by_lightning(pl, theirs, **stream(), max_steps=18, callbacks=callbacks())
    with lightning_shim.patched():
        pl.seed_everything(7)
        ours = Regression()
        trial = lightning_shim.fit(ours, **stream(), max_length=pytorch.Batch(18), callbacks=callbacks())
        metrics = {name: float(value) for name, value in trial.trainer.callback_metrics.items()}
    assert_same(ours.state_dict(), theirs.state_dict())
    assert_same(metrics, {name: float(value) for name, value in trainer.callback_metrics.items()})


class Wrapper:
    """A loader that is no DataLoader, but makes one."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Any:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


def test_loader_that_is_no_dataloader(mocker: MockerFixture) -> None:
    case = Case(Regression, lambda: {name: Wrapper(loader) for name, loader in loaders().items()})
    assert_equal(run_lightning(case), run_determined(case, mocker))


class Fails(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise MemoryError


class RecordsErrors(pl.Callback):
    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.ended = False

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.errors.append(exception)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.ended = True


@pytest.mark.usefixtures("patched")
def test_second_try_after_an_error() -> None:
    first, second = RecordsErrors(), RecordsErrors()
    try:
        lightning_shim.fit(Fails(), **loaders(), max_length=pytorch.Epoch(1), callbacks=first)
    except MemoryError:
        lightning_shim.fit(Regression(), **loaders(), max_length=pytorch.Epoch(1), callbacks=[second])
    assert [type(error) for error in first.errors] == [MemoryError]
    assert not first.ended
    assert second.ended
    assert not second.errors

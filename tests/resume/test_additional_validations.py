"""Validations that Lightning would not have had leave no trace in the training that goes on after them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.parity.oracle import Case, assert_same, run_determined, run_lightning
from tests.parity.runs import run_lightning_by_steps
from tests.resume.conftest import Resumes, checkpoints
from tests.resume.test_loaders import Noisy

pytestmark = pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled:UserWarning")


class Draws(pl.LightningModule):
    """Draws from every generator in training and in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(5, 1), torch.nn.Dropout(0.3))

    def loss(self, batch: Any) -> Tensor:
        drawn = float(torch.rand(1)) + random.random() + float(np.random.rand())
        return (self.layers(batch[0]) + drawn).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


def shared() -> dict[str, Any]:
    """Both loaders draw from the same generators."""
    dataset, generator = Noisy(), torch.Generator().manual_seed(3)
    # It makes the last of its generators for its first sample.
    dataset[0]
    train = DataLoader(dataset, batch_size=3, shuffle=True, generator=generator)
    val = DataLoader(dataset, batch_size=7, shuffle=True, generator=generator)
    return {"train_dataloaders": train, "val_dataloaders": val}


def test_training_to_a_batch_and_on(resumes: Resumes, tmp_path: Path) -> None:
    """The training to batch 7 ends with a validation within the second epoch."""
    case = Case(Draws, shared)
    at_once = resumes.run(case, tmp_path / "at once", max_length=pytorch.Batch(12))
    resumes.run(case, tmp_path / "first", max_length=pytorch.Batch(7))
    first = checkpoints(tmp_path / "first")[7]
    other = Case(Draws, shared, seed=1)
    on = resumes.run(other, tmp_path / "on", max_length=pytorch.Batch(12), latest_checkpoint=first)
    assert_same(on.seen.batches, at_once.seen.batches[7:])
    assert_same(on.recording.weights, at_once.recording.weights)
    assert_same(on.recording.random_state, at_once.recording.random_state)
    assert on.random_states == at_once.random_states


def test_validation_before_training(mocker: MockerFixture) -> None:
    """EarlyStopping does not count it, and the training is Lightning's."""

    def callbacks() -> list[Any]:
        return [pl.callbacks.EarlyStopping("val_loss", mode="max", check_on_train_epoch_end=False)]

    case = Case(Draws, shared, max_epochs=2, callbacks=callbacks, is_recorded=False)
    random.seed(0)
    np.random.seed(0)
    lightning = run_lightning(case)
    determined = run_determined(case, mocker, step_zero_validation=True)
    for name in ("weights", "random_state", "callback_states", "callback_metrics"):
        assert_same(getattr(determined, name), getattr(lightning, name), name)


def test_last_validation_draws_nothing(mocker: MockerFixture) -> None:
    """The random state at the end is Lightning's, which has no validation there."""
    case = Case(Draws, shared, is_recorded=False)
    lightning = run_lightning_by_steps(case, 7)
    determined = run_determined(case, mocker, max_length=pytorch.Batch(7))
    assert_same(determined.weights, lightning.weights)
    assert_same(determined.random_state, lightning.random_state)


class MonitorsByEpochs(Draws):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def test_last_validation_counts(mocker: MockerFixture) -> None:
    """It is the validation of the weights that remain: callbacks count it, and schedulers of epochs do not."""
    best, early = (
        pl.callbacks.ModelCheckpoint(monitor="val_loss", save_top_k=-1, save_on_train_epoch_end=False),
        pl.callbacks.EarlyStopping("val_loss", mode="min", min_delta=9e9, check_on_train_epoch_end=False),
    )
    case = Case(MonitorsByEpochs, shared, callbacks=lambda: [best, early], is_recorded=False)
    recording = run_determined(case, mocker, max_length=pytorch.Batch(7))
    # One after the epoch of five batches, and the last.
    assert (len(best.best_k_models), early.wait_count) == (2, 1)
    assert [scheduler["last_epoch"] for scheduler in recording.schedulers] == [1]


class EndsEarly(Draws):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None


@pytest.mark.filterwarnings("ignore:.*val_loss.*:UserWarning")
def test_epochs_that_end_early(mocker: MockerFixture) -> None:
    """Determined validates after them, and Lightning does not."""

    def data() -> dict[str, Any]:
        loader = DataLoader(TensorDataset(torch.randn(15, 5)), batch_size=3, shuffle=True)
        return {"train_dataloaders": loader, "val_dataloaders": loader}

    def callbacks() -> list[Any]:
        return [pl.callbacks.EarlyStopping("val_loss", patience=0, check_on_train_epoch_end=False)]

    case = Case(EndsEarly, data, max_epochs=3, callbacks=callbacks, is_recorded=False)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    for name in ("weights", "random_state"):
        assert_same(getattr(determined, name), getattr(lightning, name), name)
    assert determined.current_epoch == lightning.current_epoch == 3

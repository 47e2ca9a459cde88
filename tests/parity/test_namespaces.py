"""The other namespace that Lightning is published under, and both in one process, with ``import monkey_patch``."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import lightning.pytorch
import pytest
import torch
import torchmetrics
from determined import pytorch
from lightning.pytorch.callbacks import EarlyStopping
from pytest_mock import MockerFixture
from torch import Tensor, nn

import lightning_shim
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.support.lightning_trainer import fit_by_lightning


class Data(lightning.pytorch.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.loaders = loaders()

    def train_dataloader(self) -> Any:
        return self.loaders["train_dataloaders"]

    def val_dataloader(self) -> Any:
        return self.loaders["val_dataloaders"]

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> Any:
        return [batch[0] * 1.5, batch[1]]


class Counts(lightning.pytorch.Callback):
    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, lightning.pytorch.LightningModule)
        self.batches += 1
        pl_module.log("counted", float(self.batches), on_step=True, on_epoch=True, reduce_fx="max")


class Everything(lightning.pytorch.LightningModule):
    """A module with hyperparameters, a schedule, torchmetrics, callbacks of its own, and a part with a trainer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 1))
        self.error = torchmetrics.MeanSquaredError()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.layers(inputs), targets)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({"epoch_so_far": float(self.current_epoch), "rate": self.lr_schedulers().get_last_lr()[0]})
        return {"loss": loss, "predictions": 1}

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        self.error(self.layers(inputs), targets)
        self.log("val_error", self.error)

    def on_validation_epoch_end(self) -> None:
        self.log("val_width", float(self.hparams.width))
        assert self.logger is self.trainer.logger
        assert self.trainer.datamodule is not None

    def configure_callbacks(self) -> Any:
        return [EarlyStopping("val_error", patience=1, min_delta=1e9)]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


EVERYTHING = Case(
    Everything,
    lambda: {"datamodule": Data()},
    max_epochs=4,
    options={"gradient_clip_val": 0.5},
    callbacks=lambda: [Counts()],
    namespace="lightning.pytorch",
    every_hook=False,
)


@pytest.fixture
def monkey_patch() -> Iterator[None]:
    """Imports the module for the first time, as a user's script does."""
    sys.modules.pop("monkey_patch", None)
    importlib.import_module("monkey_patch")
    assert lightning_shim.is_patched()
    yield
    lightning_shim.unpatch()


def test_lightning_pytorch(mocker: MockerFixture) -> None:
    assert_equal(run_lightning(EVERYTHING), run_determined(EVERYTHING, mocker))


@pytest.mark.filterwarnings("ignore:You have overridden `.*` in:UserWarning")
def test_every_hook_of_lightning_pytorch(mocker: MockerFixture) -> None:
    case = dataclasses.replace(EVERYTHING, every_hook=True)
    assert_equal(run_lightning(case), run_determined(case, mocker))


@pytest.mark.usefixtures("monkey_patch")
def test_both_in_one_process(mocker: MockerFixture) -> None:
    """A patch in force changes nothing for ``pl.Trainer``, before or after a trial, in either namespace."""
    other = Case(Regression, loaders)
    expected = run_lightning(EVERYTHING), run_lightning(other)
    trained = run_determined(EVERYTHING, mocker), run_determined(other, mocker)
    again = run_lightning(EVERYTHING), run_lightning(other)
    for lightning_run, determined_run, last in zip(expected, trained, again, strict=True):
        assert_equal(lightning_run, determined_run)
        assert_equal(lightning_run, last)
    lightning_shim.unpatch()
    assert_equal(expected[0], run_lightning(EVERYTHING))


@pytest.mark.usefixtures("monkey_patch")
def test_trained_by_both_in_turn() -> None:
    """One module goes from Lightning's Trainer to Determined and back."""
    weights = []
    for order in ("lightning lightning lightning", "lightning determined lightning"):
        lightning.pytorch.seed_everything(7)
        module = Everything()
        module.on_validation_epoch_end = lambda: None  # type: ignore[method-assign]
        for trainer in order.split():
            if trainer == "lightning":
                fit_by_lightning(lightning.pytorch, module, **loaders(), max_epochs=2)
            else:
                lightning_shim.fit(module, **loaders(), max_length=pytorch.Epoch(2), checkpoint_policy="none")
        weights.append({name: value.clone() for name, value in module.state_dict().items()})
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name

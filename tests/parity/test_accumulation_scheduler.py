"""GradientAccumulationScheduler, and callbacks of the user's own that set ``trainer.accumulate_grad_batches``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import GradientAccumulationScheduler

import lightning_shim
from tests.parity.modules import Regression, StepsByHand, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.support.places import place_in


class Scheduled(Regression):
    def on_train_batch_end(self, *_: Any) -> None:
        self.log("accumulate", float(self.trainer.accumulate_grad_batches), on_step=True)
        self.log("estimate", float(self.trainer.estimated_stepping_batches), on_step=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2), "interval": "step"}]


class SetsByItself(pl.Callback):
    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        trainer.accumulate_grad_batches = trainer.current_epoch + 1


class SetsWithinEpochs(pl.Callback):
    """Sets it before a batch, after one, and between validation and the next batch."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            trainer.accumulate_grad_batches = 3

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            trainer.accumulate_grad_batches = 2

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        trainer.accumulate_grad_batches = 1 + trainer.current_epoch


@pytest.mark.parametrize(
    "callback",
    [
        lambda: GradientAccumulationScheduler({0: 2, 1: 1, 3: 4}),
        lambda: GradientAccumulationScheduler({1: 5}),
        SetsByItself,
        SetsWithinEpochs,
    ],
)
def test_accumulation(mocker: MockerFixture, callback: Any) -> None:
    case = Case(Scheduled, loaders, max_epochs=4, callbacks=lambda: [callback()], every_hook=False, log_every_n_steps=6)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    # Lightning logs after a number of steps, Determined after a number of batches.
    lightning.logged = determined.logged = {}
    assert lightning.global_step < 24
    assert_equal(lightning, determined)


@pytest.mark.usefixtures("patched")
def test_conflict() -> None:
    with pytest.raises(ValueError, match="You have set `accumulate_grad_batches` and are using"):
        lightning_shim.fit(
            Regression(),
            **loaders(),
            max_length=pytorch.Epoch(1),
            accumulate_grad_batches=2,
            callbacks=GradientAccumulationScheduler({0: 2}),
        )


class Sets(pl.Callback):
    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        trainer.accumulate_grad_batches = self.batches  # here: sets


class ManualRegression(StepsByHand, Regression):
    pass


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize(
    ("module", "batches", "problem"),
    [
        (Regression, 0, "accumulate_grad_batches=0 makes no sense; it is a number of batches, at least 1."),
        (Regression, 2.0, "accumulate_grad_batches=2.0 makes no sense; it is a number of batches, at least 1."),
        (
            ManualRegression,
            2,
            "Automatic gradient accumulation is not supported for manual optimization, which ManualReg",
        ),
    ],
)
def test_what_cannot_be_set(module: type, batches: Any, problem: str) -> None:
    with pytest.raises(lightning_shim.ConfigurationError) as caught:
        lightning_shim.fit(module(), **loaders(), max_length=pytorch.Epoch(1), callbacks=Sets(batches))
    assert str(caught.value).startswith(f"{place_in(Path(__file__), 'sets')}: {problem}")

"""GradientAccumulationScheduler, and callbacks of the user's own that set ``trainer.accumulate_grad_batches``."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import GradientAccumulationScheduler

import lightning_shim
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning


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


@pytest.mark.parametrize(
    "callback",
    [
        lambda: GradientAccumulationScheduler({0: 2, 1: 1, 3: 4}),
        lambda: GradientAccumulationScheduler({1: 5}),
        SetsByItself,
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

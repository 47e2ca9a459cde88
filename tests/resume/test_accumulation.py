"""Callbacks that set ``trainer.accumulate_grad_batches`` within an epoch, in trials that are continued anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytorch_lightning.callbacks import StochasticWeightAveraging

import lightning_shim
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case
from tests.parity.test_accumulation_scheduler import SetsWithinEpochs
from tests.resume.conftest import Resumes
from tests.support.user_files import load


class SetsOnce(pl.Callback):
    """Sets it in the middle of the first epoch; those that follow have it as it then was."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            trainer.accumulate_grad_batches = 3


class SetsAfterBatch(pl.Callback):
    """Decides anew after each batch."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.accumulate_grad_batches = (3, 1, 4, 2, 1, 1)[batch_idx]


CALLBACKS: dict[str, Callable[[], Any]] = {
    "once": SetsOnce,
    "before and after batches": SetsWithinEpochs,
    "after each batch": SetsAfterBatch,
}


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}], ids=["validation", "no validation"])
def test_set_within_an_epoch(resumes: Resumes, name: str, options: dict[str, Any]) -> None:
    case = Case(Regression, loaders, 2, options=options, callbacks=lambda: [CALLBACKS[name]()], every_hook=False)
    assert resumes.everywhere(case) == list(range(1, 13))


@pytest.mark.parametrize("name", CALLBACKS)
def test_beside_averaging(resumes: Resumes, name: str) -> None:
    """The epoch that StochasticWeightAveraging adds accumulates all of its batches unless others set it."""
    callbacks = lambda: [StochasticWeightAveraging(0.04, 1), CALLBACKS[name]()]  # noqa: E731
    case = Case(Regression, loaders, 2, callbacks=callbacks, every_hook=False)
    assert resumes.everywhere(case) == list(range(1, 19))


USERS_MODEL = """
    import torch
    from pytorch_lightning import LightningModule

    class Lit(LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = True
            self.layer = torch.nn.Linear(5, 1)

        def training_step(self, batch, batch_idx):
            return (self.layer(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)
"""
ACCUMULATES = """
        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx == 4:
                self.trainer.accumulate_grad_batches = 2
"""
SWITCHES = """
        def on_train_batch_start(self, batch, batch_idx):
            self.automatic_optimization = batch_idx != 4
"""


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize(
    ("setting", "is_kept"),
    [("", False), (ACCUMULATES, True), (SWITCHES, True)],
    ids=["neither", "accumulates", "switches"],
)
def test_gradients_are_kept_where_they_may_be_used(tmp_path: Path, setting: str, is_kept: bool) -> None:
    module = load(tmp_path / "users_model.py", USERS_MODEL + setting).Lit()
    train_dataloaders = loaders()["train_dataloaders"]
    trial = lightning_shim.fit(module, train_dataloaders, max_length=pytorch.Batch(3))
    saved = torch.load(trial.checkpoint_path / "state_dict.pth", weights_only=False)
    (process,) = saved["lightning_shim"]["processes"]
    assert bool(process["gradients"]) is is_kept

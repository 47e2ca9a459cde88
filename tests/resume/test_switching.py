"""Modules that turn automatic optimization on and off within an epoch, in trials that are continued anywhere."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case
from tests.parity.test_manual import SwitchesEachBatch
from tests.resume.conftest import Resumes


class ReleasesAfterwards(Regression):
    """Steps by hand with what automatic optimization has left of the batch before."""

    def on_train_batch_start(self, batch: list[Tensor], batch_idx: int) -> None:
        self.automatic_optimization = batch_idx % 2 == 0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return loss


class ReleasesAfterwardsInEpochs(ReleasesAfterwards):
    on_train_batch_start = Regression.on_train_batch_start

    def on_train_epoch_start(self) -> None:
        self.automatic_optimization = self.current_epoch == 0


@pytest.mark.parametrize("module", [SwitchesEachBatch, ReleasesAfterwards, ReleasesAfterwardsInEpochs])
def test_every_checkpoint(resumes: Resumes, module: type) -> None:
    case = Case(module, loaders, 2, options={"limit_val_batches": 0}, every_hook=False)
    assert resumes.everywhere(case) == list(range(1, 13))

"""Without an optimizer nobody releases the gradients: they are in every checkpoint."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_same, run_determined
from tests.resume.conftest import after, checkpoints


class StepsOnceAnEpoch(Regression):
    validation_step = pl.LightningModule.validation_step

    def on_after_backward(self) -> None:
        self.log("gradient", self.layers[0].weight.grad.norm())

    def on_train_epoch_end(self) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`:UserWarning")
def test_every_checkpoint(
    mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = Case(StepsOnceAnEpoch, lambda: {"train_dataloaders": loaders()["train_dataloaders"]}, max_epochs=2)
    folder = tmp_path_factory.mktemp("uninterrupted")
    monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(folder))
    whole = run_determined(case, mocker, checkpoint_period=pytorch.Batch(1))
    monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(tmp_path_factory.mktemp("resumed")))
    for batches, checkpoint in sorted(checkpoints(folder).items()):
        resumed = run_determined(case, mocker, latest_checkpoint=checkpoint)
        assert resumed.global_step == whole.global_step == 12
        assert_same(resumed.weights, whole.weights, f"weights after {batches}")
        assert_same(after(resumed, batches), after(whole, batches), f"logged after {batches}")

"""Lightning's callbacks that run, and a user's own."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import EarlyStopping, LambdaCallback, Timer
from torch import Tensor

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning


class Counts(pl.Callback):
    """Has a state, logs, and looks at the trainer and the module."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches += 1
        pl_module.log("batches_counted", float(self.batches))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("val_loss_seen", trainer.callback_metrics["val_loss"])

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


class ConfiguresCallbacks(Regression):
    def configure_callbacks(self) -> Any:
        assert (self.current_epoch, self.global_step) == (0, 0)
        return [EarlyStopping("loss_epoch", patience=0, min_delta=100.0), Counts()]


class Improves(Regression):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", 10.0 - self.current_epoch if self.current_epoch < 2 else 20.0)


CALLBACKS: list[Any] = [
    lambda: [Counts()],
    lambda: [EarlyStopping("val_loss", patience=1)],
    lambda: [EarlyStopping("loss_epoch", patience=0, min_delta=100.0, check_on_train_epoch_end=True)],
    lambda: [EarlyStopping("plain", divergence_threshold=0.0), Counts()],
    lambda: [LambdaCallback(on_train_epoch_end=lambda trainer, module: module.log("from_lambda", 1.0))],
    lambda: [Timer("00:01:00:00")],
]


@pytest.mark.parametrize("callbacks", CALLBACKS)
@pytest.mark.parametrize("module", [Improves, ConfiguresCallbacks])
def test_callbacks(mocker: MockerFixture, module: type, callbacks: Any) -> None:
    case = Case(module, loaders, max_epochs=5, callbacks=callbacks)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class Logs(pl.Callback):
    """Logs by itself, which Lightning's Trainer makes possible."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("callback_loss", outputs["loss"], on_step=True, on_epoch=True)

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        self.log_dict({"callback_epoch": float(trainer.current_epoch)})


def test_callback_logs(mocker: MockerFixture) -> None:
    case = Case(Regression, loaders, callbacks=lambda: [Logs()])
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    assert {"callback_loss_epoch", "callback_epoch"} <= lightning.callback_metrics.keys()
    assert_equal(lightning, determined)

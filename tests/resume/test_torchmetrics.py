"""torchmetrics objects go on with what they had, whoever updates, computes and resets them."""

from __future__ import annotations

from typing import Any

import pytest
import torchmetrics
from torch import Tensor

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case
from tests.resume.conftest import Resumes


def errors() -> torchmetrics.MetricCollection:
    """Metrics that share their states after the first update."""
    return torchmetrics.MetricCollection(
        {
            "mse": torchmetrics.MeanSquaredError(),
            "rmse": torchmetrics.MeanSquaredError(squared=False),
            "mae": torchmetrics.MeanAbsoluteError(),
        }
    )


class Collects(Regression):
    """Computes collections by hand, in training and in validation, and logs what comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.validated = errors(), errors()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        self.trained.update(self(inputs), targets)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log_dict({f"train_{name}": value for name, value in self.trained.compute().items()})
        self.trained.reset()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        self.validated.update(self(inputs), targets)
        return super().validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.validated.compute())
        self.validated.reset()


class CollectsOverEpochs(Collects):
    """Resets in every second epoch, so that checkpoints between two epochs have states too."""

    def on_train_epoch_end(self) -> None:
        self.log_dict({f"train_{name}": value for name, value in self.trained.compute().items()})
        if self.current_epoch % 2:
            self.trained.reset()


class Tracks(Regression):
    """Compares each epoch with those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = torchmetrics.MetricTracker(torchmetrics.MeanSquaredError(), maximize=False)

    def on_train_epoch_start(self) -> None:
        self.tracker.increment()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        self.tracker.update(self(inputs), targets)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log("best_error", self.tracker.best_metric())
        self.log_dict({f"error_{index}": value for index, value in enumerate(self.tracker.compute_all())})


@pytest.mark.parametrize("module", [Collects, CollectsOverEpochs, Tracks])
def test_every_checkpoint(resumes: Resumes, module: type) -> None:
    assert resumes.everywhere(Case(module, loaders, max_epochs=3)) == list(range(1, 19))

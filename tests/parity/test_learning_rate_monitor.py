"""LearningRateMonitor: Lightning's names and values reach Determined's metrics and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import LearningRateMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.support.recording import Recording


class SeveralGroups(Regression):
    def configure_optimizers(self) -> Any:
        groups = [{"params": self.layers[0].parameters(), "lr": 0.1}, {"params": self.layers[4].parameters()}]
        optimizer = torch.optim.AdamW(groups, lr=0.01)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2), "interval": "step"}]


class TwoSchedules(Regression):
    """Steps one scheduler for each step and a named one for each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        for optimizer, scheduler in zip(self.optimizers(), self.lr_schedulers(), strict=False):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            scheduler.step()

    def configure_optimizers(self) -> Any:
        optimizers = [
            torch.optim.SGD(self.layers[0].parameters(), lr=0.1, momentum=0.9),
            torch.optim.SGD(self.layers[1].parameters(), lr=0.2, momentum=0.8),
            torch.optim.Adam(self.layers[4].parameters(), lr=0.01),
        ]
        schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 2) for optimizer in optimizers[:2]]
        return optimizers, [{"scheduler": schedules[0], "interval": "step"}, {"scheduler": schedules[1], "name": "own"}]


def both(
    module: type, mocker: MockerFixture, settings: dict[str, Any], **case_options: Any
) -> tuple[Recording, Recording]:
    case = Case(module, loaders, callbacks=lambda: [LearningRateMonitor(**settings)], **case_options)
    return run_lightning(case), run_determined(case, mocker)


@pytest.mark.parametrize("log_every_n_steps", [1, 4])
@pytest.mark.parametrize("interval", [None, "step", "epoch"])
@pytest.mark.parametrize("module", [Regression, SeveralGroups, TwoSchedules])
def test_values(mocker: MockerFixture, module: type, interval: str | None, log_every_n_steps: int) -> None:
    settings = {"logging_interval": interval, "log_momentum": True, "log_weight_decay": True}
    lightning, determined = both(module, mocker, settings, log_every_n_steps=log_every_n_steps)
    # Without an interval Lightning logs an optimizer that has no scheduler twice at the start of an epoch.
    lightning.logged = {step: list(dict.fromkeys(values)) for step, values in lightning.logged.items()}
    assert_equal(lightning, determined)


def test_names(mocker: MockerFixture) -> None:
    _, determined = both(SeveralGroups, mocker, {"logging_interval": "step", "log_momentum": True})
    names = {"lr-AdamW/pg1", "lr-AdamW/pg2", "lr-AdamW/pg1-momentum", "lr-AdamW/pg2-momentum"}
    assert names <= determined.callback_metrics.keys()
    (folder,) = Path("lightning_logs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert names <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("lr-AdamW/pg1")] == list(range(18))


def test_accumulating(mocker: MockerFixture) -> None:
    """Lightning logs the same step several times; Determined's master takes a name once."""
    settings = {"logging_interval": "step"}
    lightning, determined = both(SeveralGroups, mocker, settings, options={"accumulate_grad_batches": 3})

    def rates(recording: Recording) -> list[tuple[int, str, float]]:
        return [
            (step, name, value)
            for step, values in sorted(recording.logged.items())
            for name, value in values
            if name.startswith("lr-")
        ]

    assert len(rates(lightning)) == 3 * len(rates(determined))
    assert rates(determined) == list(dict.fromkeys(rates(lightning)))

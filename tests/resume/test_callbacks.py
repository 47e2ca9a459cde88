"""Lightning's callbacks, in trials that are continued from any of their checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
)

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case
from tests.resume.conftest import Resumes

CALLBACKS: dict[str, Any] = {
    "EarlyStopping": lambda: EarlyStopping("val_loss", patience=1, min_delta=100.0),
    "GradientAccumulationScheduler": lambda: GradientAccumulationScheduler({0: 4, 1: 1, 2: 3}),
    "LearningRateMonitor": lambda: LearningRateMonitor(log_momentum=True),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_checkpoint(resumes: Resumes, name: str) -> None:
    case = Case(Regression, loaders, max_epochs=3, callbacks=lambda: [CALLBACKS[name]()], every_hook=False)
    # As in Lightning, a trial that has stopped early goes on if it is told to continue from its end.
    batches, last = (12, 11) if name == "EarlyStopping" else (18, 18)
    assert resumes.everywhere(case, last=last) == list(range(1, batches + 1))

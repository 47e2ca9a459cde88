"""Callbacks that average the weights of several steps."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_mock import MockerFixture

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.support.installed_versions import has_lightning

AVERAGING: dict[str, Any] = {}

if has_lightning(">=2.6"):
    from pytorch_lightning.callbacks import EMAWeightAveraging, WeightAveraging

    class OfEpochs(WeightAveraging):
        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            return epoch_idx is not None and epoch_idx >= 1

    AVERAGING = {
        "WeightAveraging": WeightAveraging,
        "without buffers": lambda: WeightAveraging(use_buffers=False),
        "of epochs": OfEpochs,
        "EMAWeightAveraging": lambda: EMAWeightAveraging(decay=0.5, update_every_n_steps=2, update_starting_at_step=3),
    }


@pytest.mark.parametrize("validation", [None, 4])
@pytest.mark.parametrize("name", AVERAGING)
def test_averaging(mocker: MockerFixture, name: str, validation: int | None) -> None:
    case = Case(
        Regression,
        loaders,
        max_epochs=4,
        callbacks=lambda: [AVERAGING[name]()],
        validation=validation,
        every_hook=False,
    )
    assert_equal(run_lightning(case), run_determined(case, mocker))

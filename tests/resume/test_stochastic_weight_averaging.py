"""StochasticWeightAveraging in trials that are continued from any checkpoint, those of the added epoch among them."""

from __future__ import annotations

from typing import Any

import pytest
from pytorch_lightning.callbacks import StochasticWeightAveraging

from tests.parity.modules import loaders
from tests.parity.oracle import Case
from tests.parity.test_stochastic_weight_averaging import MODULES
from tests.resume.conftest import Resumes

BATCHES = 6


@pytest.mark.parametrize(
    ("module", "averaging", "options"),
    [
        ("LambdaLR", {}, {}),
        ("batch norm", {"annealing_strategy": "linear", "annealing_epochs": 2}, {}),
        ("ReduceLROnPlateau", {"device": None}, {"accumulate_grad_batches": 4}),
        # The gradients of the last batch are there when the added epoch takes its one step.
        ("StepLR", {}, {"limit_val_batches": 0}),
        ("no batch norm", {}, {}),
        ("two groups", {}, {"limit_val_batches": 0, "accumulate_grad_batches": 4}),
    ],
)
def test_every_checkpoint(resumes: Resumes, module: str, averaging: dict[str, Any], options: dict[str, Any]) -> None:
    callbacks = lambda: [StochasticWeightAveraging(0.04, 2, **averaging)]  # noqa: E731
    case = Case(MODULES[module], loaders, 3, options=options, callbacks=callbacks, every_hook=False)
    epochs = 3 + (module != "no batch norm")
    assert resumes.everywhere(case) == list(range(1, epochs * BATCHES + 1))

"""Lightning's precisions on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_mock import MockerFixture

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed", 32, "64"])
def test_precision(mocker: MockerFixture, precision: Any) -> None:
    case = Case(Regression, loaders, options={"precision": precision, "gradient_clip_val": 0.5})
    assert_equal(run_lightning(case), run_determined(case, mocker))


@pytest.mark.filterwarnings("ignore:You passed `Trainer.accelerator='cpu', precision='16-mixed'.`")
@pytest.mark.filterwarnings("ignore:precision='16-mixed' needs a GPU")
def test_half_precision_becomes_bfloat16(mocker: MockerFixture) -> None:
    case = Case(Regression, loaders, options={"precision": "16-mixed"})
    assert_equal(run_lightning(case), run_determined(case, mocker))

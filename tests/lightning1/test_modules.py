"""Modules of Lightning 1.x do under Determined what they did under the Trainer of Lightning 1.9."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from determined import pytorch
from pytest_mock import MockerFixture

import lightning_shim
from tests.lightning1.modules import MODULES
from tests.lightning1.recorded import recorded
from tests.parity.oracle import assert_equal_ends, assert_same, reports_recorded
from tests.support.lightning_trainer import NO_SANITY_CHECK
from tests.support.recording import Recording

pytestmark = pytest.mark.xdist_group("Lightning 1.9")


def run(module_class: Any, mocker: MockerFixture, seed: int = 7, **fit_options: Any) -> Recording:
    """Trains a module as ``lightning_1.py`` does, unless the options of ``fit`` say otherwise."""
    recording = Recording()
    with reports_recorded(recording, mocker), lightning_shim.patched():
        pl.seed_everything(seed)
        module = recorded(module_class, recording)()
        options = {
            "max_length": pytorch.Epoch(3),
            "reporting_period": pytorch.Batch(module_class.options.get("accumulate_grad_batches", 1)),
            "checkpoint_policy": "none",
            **NO_SANITY_CHECK,
            **module_class.options,
        }
        lightning_shim.fit(module, **{**options, **fit_options})
        recording.finish(module)
    return recording


# A module with optimizers in turn skips one of them so; Lightning 1.9 warns as well.
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("name", MODULES)
def test_module(lightning_1: dict[str, Recording], mocker: MockerFixture, name: str) -> None:
    expected, actual = lightning_1[name], run(MODULES[name], mocker)
    for index, (theirs, ours) in enumerate(zip(expected.events, actual.events, strict=False)):
        assert ours == theirs, f"event {index}"
    assert len(actual.events) == len(expected.events)
    assert actual.learning_rates == expected.learning_rates
    # Lightning logs under the number of batches that have stepped, Determined under that of all batches.
    accumulate = MODULES[name].options.get("accumulate_grad_batches", 1)
    assert_same(
        {step: sorted(values, key=str) for step, values in actual.logged.items()},
        {(step + 1) * accumulate - 1: sorted(values, key=str) for step, values in expected.logged.items()},
    )
    assert_equal_ends(expected, actual)

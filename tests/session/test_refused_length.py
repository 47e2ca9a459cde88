"""A length or a period that makes no sense is refused before training."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from determined import pytorch

import lightning_shim
from lightning_shim import ConfigurationError
from tests.support.places import place_in
from tests.support.refusals import FIT_CALL, refuse, trains
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


class TestLength:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (5, "max_length is 5"),
            ("5", "max_length is '5'"),
            (pytorch.Epoch([1, 2]), r"max_length is .*\[1, 2\]"),
            (pytorch.Batch([10]), r"max_length is .*\[10\]"),
            (pytorch.Epoch(1.5), r"max_length is .*1\.5"),  # type: ignore[arg-type]
            (pytorch.TrainUnit(5), "max_length is "),
            (pytorch.Epoch, "max_length is "),
        ],
        ids=["int", "string", "list of epochs", "list of batches", "float", "no unit", "class"],
    )
    def test_is_wrong(self, pl: ModuleType, value: Any, expected: str) -> None:
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, loader(), max_length=value)
        assert message.startswith(f"{FIT_CALL}: max_length is ")
        assert re.search(expected, message)
        assert "max_length=determined.pytorch.Epoch(5) or determined.pytorch.Batch(1000)" in message
        trains(module)

    @pytest.mark.parametrize(
        ("value", "number"),
        [(pytorch.Epoch(0), "Epoch(0)"), (pytorch.Batch(-1), "Batch(-1)")],
        ids=["zero", "negative"],
    )
    def test_is_too_short(self, pl: ModuleType, value: Any, number: str) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), loader(), max_length=value)
        assert message == f"{FIT_CALL}: max_length is {number}; it has to be at least 1."

    def test_is_missing(self, pl: ModuleType) -> None:
        module = tiny(pl)()
        with pytest.raises(ConfigurationError) as caught:
            lightning_shim.fit(module, loader())  # here: without max_length
        assert str(caught.value).startswith(f"{place('without max_length')}: max_length is missing.")
        assert "max_length=determined.pytorch.Epoch(5)" in str(caught.value)
        assert module.steps == 0
        trains(module)

    def test_of_a_trial_is_wrong(self, pl: ModuleType) -> None:
        with (
            pytorch.init() as context,
            pytest.raises(ConfigurationError, match=r"max_length is 5.*determined.pytorch.Epoch"),
        ):
            lightning_shim.LightningTrial(context, tiny(pl)(), train_dataloaders=loader(), max_length=5)

    @pytest.mark.parametrize("period", ["validation_period", "checkpoint_period", "reporting_period"])
    @pytest.mark.parametrize("value", [1, "epoch"], ids=repr)
    def test_period_is_wrong(self, pl: ModuleType, period: str, value: Any) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), loader(), **{period: value})
        assert f"{period} is {value!r}" in message
        assert FIT_CALL in message

    @pytest.mark.parametrize("period", ["validation_period", "checkpoint_period", "reporting_period"])
    def test_period_may_be_a_schedule(self, pl: ModuleType, period: str) -> None:
        trains(tiny(pl)(), loader(), **{period: pytorch.Batch([2, 3])})

    def test_length_of_a_trial_is_no_schedule(self, pl: ModuleType) -> None:
        with pytorch.init() as context, pytest.raises(ConfigurationError, match=r"max_length is .*\[10\]"):
            lightning_shim.LightningTrial(
                context, tiny(pl)(), train_dataloaders=loader(), max_length=pytorch.Batch([10])
            )

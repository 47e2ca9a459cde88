"""A ``training_step`` that forgets to return its loss: a warning at its line, once, as in Lightning."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from determined import pytorch

from lightning_shim import DifferenceWarning
from tests.support.lightning_trainer import fit_by_lightning
from tests.support.places import place_in
from tests.support.refusals import train
from tests.support.tiny import loader, tiny

place = functools.partial(place_in, Path(__file__))


@pytest.mark.usefixtures("patched")
def test_it_is_said_once(pl: ModuleType) -> None:
    class Module(tiny(pl)):
        def training_step(self, batch: Any, batch_idx: int) -> None:  # here: step
            super().training_step(batch, batch_idx)

    said = []
    for fit in (
        lambda: fit_by_lightning(pl, Module(), loader(), max_epochs=2),
        lambda: train(Module(), loader(), max_length=pytorch.Epoch(2)),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit()
        said.append([warning for warning in caught if "`training_step` returned `None`" in str(warning.message)])
    lightnings, ours = said
    assert len(lightnings) == len(ours) == 1
    assert ours[0].category is DifferenceWarning
    assert f"{ours[0].filename}:{ours[0].lineno}" == place("step")

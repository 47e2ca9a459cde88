"""Trainings that are refused, or warned of: by an error or warning of ours, before the first step."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from determined import pytorch

import lightning_shim
from lightning_shim import LightningShimError, LightningShimWarning
from tests.support.places import place_in
from tests.support.tiny import loader


def checkpoints() -> list[Path]:
    return list(Path("determined_checkpoints").absolute().glob("*"))


def train(module: Any, train_dataloaders: Any = None, val_dataloaders: Any = None, **options: Any) -> Any:
    options.setdefault("max_length", pytorch.Batch(1))
    return lightning_shim.fit(module, train_dataloaders, val_dataloaders, **options)  # here: fit


FIT_CALL = place_in(Path(__file__), "fit")
"""The line that starts every training of this file."""


def refuse(
    error: type[LightningShimError],
    module: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    **options: Any,
) -> str:
    """Has an input refused: by an error of ours, before the first step, and without a trace on disk."""
    before = checkpoints()
    with pytest.raises(error) as caught:
        train(module, train_dataloaders, val_dataloaders, **options)
    assert isinstance(caught.value, LightningShimError)
    assert getattr(module, "steps", 0) == 0, "the module has been trained before the input was refused"
    assert checkpoints() == before, "a checkpoint was left behind"
    return str(caught.value)


def trains(module: Any, *args: Any, **options: Any) -> None:
    """Proves that a module is as good as new: Determined trains it."""
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    steps = module.steps
    train(module, *(args or (loader(),)), **options)
    assert module.steps > steps
    assert any(not torch.equal(parameter, before[name]) for name, parameter in module.named_parameters())


@contextlib.contextmanager
def warns(category: type[LightningShimWarning], at: str, expected: str) -> Iterator[None]:
    """Expects one warning of ours, and at the user's line."""
    with pytest.warns(category, match=expected) as caught:
        yield
    ours = [warning for warning in caught if issubclass(warning.category, LightningShimWarning)]
    assert [(f"{warning.filename}:{warning.lineno}", warning.category) for warning in ours] == [(at, category)]


@contextlib.contextmanager
def no_warnings_of_ours() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LightningShimWarning)
        yield

"""A module that cannot be trained is refused before training, with the line of its class."""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_shim import ConfigurationError, RefusedMemberError
from lightning_shim.members.member import Kind, Support
from lightning_shim.members.query import members
from tests.support.places import place_in
from tests.support.refusals import FIT_CALL, refuse, trains
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


class TestModule:
    def test_without_training_step(self, lightning: ModuleType) -> None:
        class Untrained(lightning.LightningModule):  # here: without training_step
            def configure_optimizers(self) -> Any:
                return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

        message = refuse(ConfigurationError, Untrained(), loader())
        assert message.startswith(place("without training_step"))
        assert "No `training_step()` method defined in " in message
        trains(tiny(lightning)())

    def test_without_configure_optimizers(self, lightning: ModuleType) -> None:
        class Unoptimized(lightning.LightningModule):  # here: without configure_optimizers
            steps = 0

            def training_step(self, batch: Any, batch_idx: int) -> None:
                self.steps += 1

        message = refuse(ConfigurationError, Unoptimized(), loader())
        assert message.startswith(place("without configure_optimizers"))
        assert "No `configure_optimizers()` method defined in " in message
        trains(tiny(lightning)())

    def test_optimizer_idx_with_manual_optimization(self, lightning: ModuleType) -> None:
        class Old(tiny(lightning)):
            automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> None:  # here: optimizer_idx
                self.steps += 1

        message = refuse(ConfigurationError, Old(), loader())
        assert message.startswith(place("optimizer_idx"))
        assert "Remove it" in message

    @pytest.mark.parametrize(
        "name", [row.name for row in members("LightningModule", Support.REFUSED) if row.kind is Kind.HOOK]
    )
    def test_refused_hook(self, pl: ModuleType, name: str) -> None:
        def hook(self: Any, *args: Any) -> None:  # here: refused hook
            raise AssertionError(f"{name} was called")

        module = type("Old", (tiny(pl),), {name: hook})()
        message = refuse(RefusedMemberError, module, loader())
        (row,) = [row for row in members("LightningModule") if row.name == name]
        assert message == f"{place('refused hook')}: {type(module).__qualname__}.{name} is refused: {row.sentence}"

    @pytest.mark.parametrize(
        ("module", "expected"),
        [
            (None, "there is no module"),
            (object(), "builtins.object is neither a LightningModule"),
            ("LitModel", "builtins.str is neither a LightningModule"),
            (torch.nn.Linear(3, 1), "Linear is neither a LightningModule"),
            (torch.nn.ReLU, "ReLU is neither a LightningModule"),
            (lambda: None, "NoneType is neither a LightningModule"),
        ],
        ids=["nothing", "object", "string", "torch module", "torch class", "function that returns nothing"],
    )
    def test_is_no_lightning_module(self, module: Any, expected: str) -> None:
        message = refuse(ConfigurationError, module, loader())
        assert expected in message
        assert FIT_CALL in message

    def test_datamodule_in_the_place_of_the_module(self, pl: ModuleType) -> None:
        datamodule = pl.LightningDataModule.from_datasets(TensorDataset(torch.randn(16, 3)), batch_size=4)
        message = refuse(ConfigurationError, datamodule)
        assert "LightningDataModule" in message
        assert "training_step" not in message, "it is no module that merely lacks a training_step"

"""Optimizers that get parameter groups while they train, in trials that are continued anywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from torch import Tensor

from tests.parity.modules import Regression, StepsByHand, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.resume.conftest import Resumes


class Unfreezes(Regression):
    """Trains its last layer first, then the others too, one in each epoch, with a learning rate of their own."""

    def on_fit_start(self) -> None:
        for layer in self.layers[:-1]:
            layer.requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        layers = [layer for layer in self.layers[:-1] if list(layer.parameters())]
        if 0 < self.current_epoch <= len(layers):
            layer = layers[-self.current_epoch].requires_grad_(True)
            self.optimizers().add_param_group({"params": layer.parameters(), "lr": 0.01 / self.current_epoch})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.layers[-1].parameters(), lr=0.02)


class UnfreezesOneOfTwo(StepsByHand, Unfreezes):
    """Has two optimizers, the second of which gets a group."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            bias = self.layers[0].requires_grad_(True).bias
            self.optimizers()[1].add_param_group({"params": [bias], "momentum": 0.5})

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> Any:
        last = self.layers[-1]
        return [torch.optim.Adam([last.weight], lr=0.02), torch.optim.SGD([last.bias], lr=0.02, momentum=0.9)]


@pytest.mark.parametrize("module", [Unfreezes, UnfreezesOneOfTwo])
def test_every_checkpoint(resumes: Resumes, module: type) -> None:
    case = Case(module, loaders, 3, every_hook=False)
    assert resumes.everywhere(case) == list(range(1, 19))


@pytest.mark.parametrize("module", [Unfreezes, UnfreezesOneOfTwo])
def test_is_lightnings(mocker: MockerFixture, module: type) -> None:
    case = Case(module, loaders, 3, every_hook=False)
    assert_equal(run_lightning(case), run_determined(case, mocker))

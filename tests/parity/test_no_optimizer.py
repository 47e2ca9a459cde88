"""Training without any optimizer: ``configure_optimizers`` returns None."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from torch import Tensor

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning

pytestmark = [
    pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`:UserWarning"),
]


class Untrained(Regression):
    """Its buffers change, its parameters get gradients, which nobody releases before a validation."""

    def on_after_backward(self) -> None:
        self.log("gradient", self.layers[0].weight.grad.norm(), on_step=True, on_epoch=True)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("groups", float(len(optimizer.param_groups)))

    def configure_optimizers(self) -> None:
        return None


class StepsByHand(Untrained):
    """Changes its parameters where an optimizer would."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter -= 0.01 * parameter.grad
                parameter.grad = None


class StepsThroughTheHook(Untrained):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
        assert optimizer is self.optimizers()
        loss = optimizer_closure()
        self.log("closure", loss, on_epoch=True)
        optimizer.step()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        assert optimizer is self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.zero_grad()


class Manual(Regression):
    """Takes its steps with what ``self.optimizers()`` gives, which count, and change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.log("loss", loss, on_epoch=True)
        optimizer.zero_grad()
        self.manual_backward(loss)
        if batch_idx % 2:
            optimizer.step()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.99)

    def configure_optimizers(self) -> None:
        return None


MODULES = [Untrained, StepsByHand, StepsThroughTheHook, Manual]


@pytest.mark.parametrize("every_hook", [True, False], ids=["every hook overridden", "own hooks only"])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_module(mocker: MockerFixture, module: type, every_hook: bool) -> None:
    case = Case(module, loaders, every_hook=every_hook)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    assert lightning.global_step == (9 if module is Manual else 18)
    assert_equal(lightning, determined)


@pytest.mark.filterwarnings("ignore:`parameters` is an empty generator, no gradient clipping will occur:UserWarning")
@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 4}, {"gradient_clip_val": 0.1}], ids=str)
def test_options(mocker: MockerFixture, options: dict[str, Any]) -> None:
    case = Case(Untrained, loaders, options=options)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    if "accumulate_grad_batches" in options:
        # Lightning logs under the number of steps, Determined under the number of batches.
        lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)

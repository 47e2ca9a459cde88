"""Manual optimization."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from torch import Tensor, nn

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning


class Manual(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        optimizer.step()
        return loss


class ManualWithClosure(Manual):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            loss = self.loss(batch)
            self.log("loss", loss)
            optimizer.zero_grad()
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)


class ManualAccumulation(Manual):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        self.manual_backward(self.loss(batch) / 2)
        if batch_idx % 2 == 1 or self.trainer.is_last_batch:
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


class Adversarial(Manual):
    """Two optimizers that take turns, as a GAN's do."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(1, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        generator, critic = self.optimizers()
        generator_schedule, critic_schedule = self.lr_schedulers()
        inputs, targets = batch

        self.toggle_optimizer(generator)
        loss = -self.critic(self(inputs)).mean()
        self.log("generator_loss", loss, prog_bar=True)
        self.manual_backward(loss)
        generator.step()
        generator.zero_grad()
        self.untoggle_optimizer(generator)

        with critic.toggle_model():
            loss = self.critic(self(inputs).detach()).mean() - self.critic(targets).mean()
            self.log("critic_loss", loss, on_epoch=True)
            self.manual_backward(loss)
            critic.step()
            critic.zero_grad()
        if self.trainer.is_last_batch:
            generator_schedule.step()
            critic_schedule.step()
        return {"critic": loss.detach()}

    def configure_optimizers(self) -> Any:
        generator = torch.optim.Adam(self.layers.parameters(), lr=0.01, betas=(0.5, 0.9))
        critic = torch.optim.Adam(self.critic.parameters(), lr=0.02, betas=(0.5, 0.9))
        schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in (generator, critic)]
        return [generator, critic], schedules


@pytest.mark.parametrize("module", [Manual, ManualWithClosure, ManualAccumulation, Adversarial])
@pytest.mark.parametrize("every_hook", [True, False], ids=["every hook overridden", "own hooks only"])
def test_module(mocker: MockerFixture, module: type, every_hook: bool) -> None:
    case = Case(module, loaders, every_hook=every_hook)
    assert_equal(run_lightning(case), run_determined(case, mocker))

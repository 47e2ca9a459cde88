"""Manual optimization."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from torch import Tensor, nn

from tests.parity.modules import Regression, StepsWithClosure, loaders
from tests.parity.oracle import WAYS_TO_RECORD, Case, assert_equal, run_determined, run_lightning


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


class ManualWithClosure(StepsWithClosure, Regression):
    pass


class ClosureWithoutGradients(ManualWithClosure):
    """An optimizer turns gradients on around its closure."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        with torch.no_grad():
            self.log("returned", super().training_step(batch, batch_idx))


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


class ClipsByValue(Manual):
    """Goes backward twice through one graph."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss, retain_graph=True)
        self.manual_backward(loss * 2)
        self.clip_gradients(optimizer, gradient_clip_val=0.01, gradient_clip_algorithm="value")
        optimizer.step()


class FollowsMetric(Manual):
    def on_train_epoch_end(self) -> None:
        self.lr_schedulers().step(self.trainer.callback_metrics["val_loss"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1.0)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class StepsInAnotherHook(Manual):
    """Lightning counts the steps in ``training_step`` only."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        assert self.lr_schedulers() is None
        self.manual_backward(self.loss(batch))
        if batch_idx == 3:
            self.optimizers().step()

    def on_train_batch_end(self, *args: Any) -> None:
        self.optimizers().step()
        self.optimizers().zero_grad()
        self.log("steps", float(self.global_step))


class SharesParameters(Manual):
    """Toggles two optimizers that share parameters, some of which need no gradients anyway."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
        self.layers[0].bias.requires_grad_(False)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        first, second = self.optimizers()
        for index, optimizer in enumerate((first, second)):
            self.toggle_optimizer(optimizer)
            self.log_flags(f"toggled_{index}")
            loss = nn.functional.mse_loss(self.heads[index](self(inputs)), targets)
            self.log(f"loss_{index}", loss)
            self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            self.untoggle_optimizer(optimizer)
        self.log_flags("untoggled")
        # Lightning has it since 2.5.2.
        with self.toggled_optimizer(second) if hasattr(self, "toggled_optimizer") else contextlib.nullcontext():
            self.log_flags("toggled_again")
        self.log_flags("untoggled_again")

    def log_flags(self, name: str) -> None:
        flags = [parameter.requires_grad for parameter in self.parameters()]
        self.log(name, float(sum(2**index for index, flag in enumerate(flags) if flag)))

    def configure_optimizers(self) -> Any:
        parameters = [[*self.layers.parameters(), *head.parameters()] for head in self.heads]
        return [torch.optim.SGD(of_one, lr=0.01, momentum=0.9) for of_one in parameters]


class SwitchesEachEpoch(Regression):
    """Lightning counts the steps of each kind of optimization for itself, and steps no schedulers in manual."""

    def on_train_epoch_start(self) -> None:
        self.automatic_optimization = self.current_epoch != 1

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("steps", float(self.global_step))
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        by_epoch, by_step = (torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma) for gamma in (0.5, 0.9))
        return [optimizer], [by_epoch, {"scheduler": by_step, "interval": "step"}]


class SwitchesEachBatch(SwitchesEachEpoch):
    on_train_epoch_start = Regression.on_train_epoch_start

    def on_train_batch_start(self, batch: list[Tensor], batch_idx: int) -> None:
        self.automatic_optimization = batch_idx % 2 == 0


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


MODULES = [
    Manual,
    ManualWithClosure,
    ClosureWithoutGradients,
    ManualAccumulation,
    ClipsByValue,
    FollowsMetric,
    StepsInAnotherHook,
    SharesParameters,
    SwitchesEachEpoch,
    SwitchesEachBatch,
    Adversarial,
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
@pytest.mark.parametrize("way", WAYS_TO_RECORD.values(), ids=WAYS_TO_RECORD)
def test_module(mocker: MockerFixture, module: type, way: dict[str, bool]) -> None:
    case = Case(module, loaders, **way)  # type: ignore[arg-type]
    assert_equal(run_lightning(case), run_determined(case, mocker))

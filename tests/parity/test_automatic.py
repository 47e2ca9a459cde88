"""Automatic optimization: the same hooks, metrics, learning rates and weights as under ``pl.Trainer``."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from torch import Tensor

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import WAYS_TO_RECORD, Case, assert_equal, run_determined, run_lightning


class ReturnsDictionary(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "extra": torch.tensor(float(batch_idx))}


class ReturnsPredictions(Regression):
    """Its outputs have a graph, which they keep until ``on_train_batch_end``."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        predictions = self(inputs)
        loss = torch.nn.functional.mse_loss(predictions, targets)
        return {"loss": loss, "predictions": predictions, "nested": {"list": [predictions, 1], "nothing": None}}


class ReturnsOneElement(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx).reshape(1, 1)


class SkipsSomeBatches(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


class WithoutBatchIdx(Regression):
    def training_step(self, batch: list[Tensor]) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor]) -> Any:
        self.log("val_loss", self.loss(batch))


class WarmsUp(Regression):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any]) -> None:
        optimizer.step(closure=optimizer_closure)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * min(1.0, (self.trainer.global_step + 1) / 8)


class SkipsOptimizerSteps(Regression):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any]) -> None:
        if batch_idx % 2 == 0:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


class LimitedMemory(Regression):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class HasHooksOfTheStep(Regression):
    """What an optimizer's own hooks get."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        optimizer.register_step_post_hook(lambda _, args, kwargs: self.log("closure", float("closure" in kwargs)))
        return optimizer


class ReplacesTheStep(Regression):
    """An optimizer has a ``step`` of its own, which a scheduler wraps in another one."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        step = optimizer.step

        def own_step(self: Any, closure: Callable[[], Any]) -> Any:
            before = [parameter.grad is None for group in self.param_groups for parameter in group["params"]]
            loss = step(closure)
            for group in self.param_groups:
                group["lr"] *= 0.9 if any(before) else 0.99
            return loss

        optimizer.step = MethodType(own_step, optimizer)  # type: ignore[method-assign]
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


class OwnBackward(Regression):
    def backward(self, loss: Tensor) -> None:
        (loss * 2).backward()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)

    def on_after_backward(self) -> None:
        norm = torch.stack([parameter.grad.norm() for parameter in self.parameters()]).norm()
        self.log("gradient_norm", norm)


class OwnClipping(Regression):
    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        value = 0.5 / (1 + self.current_epoch)
        self.clip_gradients(optimizer, gradient_clip_val=value, gradient_clip_algorithm="norm")


class ClipsGradientsItself(Regression):
    def clip_gradients(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.log("clip_gradients", 1.0)
        torch.nn.utils.clip_grad_norm_(self.parameters(), 0.1)


class DrawsRandomNumbersInHooks(Regression):
    def on_train_start(self) -> None:
        torch.rand(3)

    def on_train_epoch_start(self) -> None:
        torch.rand(1 + self.current_epoch)

    def on_train_epoch_end(self) -> None:
        torch.rand(2)

    def on_validation_epoch_end(self) -> None:
        torch.rand(5)


class TransfersByItself(Regression):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] + 0.1, batch[1]]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 1.1, batch[1]] if self.trainer.training else batch


class EndsEpochsEarly(Regression):
    """Ends its epochs at the batches that a test chooses; None leaves an epoch its length."""

    # Determined validates at the end of each epoch, Lightning does not validate one that ended early.
    validation_step = Regression.__mro__[1].validation_step  # type: ignore[attr-defined]
    ends: tuple[int | None, int | None, int | None]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == self.ends[self.current_epoch] else None

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        by_epoch, by_step = (torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma) for gamma in (0.5, 0.9))
        return [optimizer], [by_epoch, {"scheduler": by_step, "interval": "step"}]


MODULES = [
    Regression,
    ReturnsDictionary,
    ReturnsPredictions,
    ReturnsOneElement,
    WithoutBatchIdx,
    WarmsUp,
    SkipsOptimizerSteps,
    LimitedMemory,
    HasHooksOfTheStep,
    ReplacesTheStep,
    OwnBackward,
    OwnClipping,
    ClipsGradientsItself,
    DrawsRandomNumbersInHooks,
    TransfersByItself,
]


@pytest.mark.parametrize("way", WAYS_TO_RECORD.values(), ids=WAYS_TO_RECORD)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_module(mocker: MockerFixture, module: type, way: dict[str, bool]) -> None:
    case = Case(module, loaders, **way)  # type: ignore[arg-type]
    assert_equal(run_lightning(case), run_determined(case, mocker))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_skipped_batches(mocker: MockerFixture) -> None:
    case = Case(SkipsSomeBatches, loaders)
    assert_equal(run_lightning(case), run_determined(case, mocker))


@pytest.mark.versions
# With an epoch that ends at once, a scheduler is stepped before its optimizer.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step..` before `optimizer.step..`:UserWarning")
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("ends", [(2, 3, 4), (0, 0, 0), (None, 0, None), (5, 5, 5), (1, None, 5)], ids=str)
def test_epochs_that_end_early(mocker: MockerFixture, ends: tuple[int | None, ...], accumulate: int) -> None:
    module = type("EndsEpochsEarly", (EndsEpochsEarly,), {"ends": ends})
    data = lambda: {"train_dataloaders": loaders()["train_dataloaders"]}  # noqa: E731
    case = Case(module, data, options={"accumulate_grad_batches": accumulate})
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    # Determined's epochs all have the same length, so that what is skipped is counted; and it counts no steps.
    for recording in (lightning, determined):
        values = [entry for values in recording.logged.values() for entry in values]
        recording.logged = {0: values if accumulate == 1 else []}
    assert_equal(lightning, determined)


OPTIONS: list[dict[str, Any]] = [
    {"accumulate_grad_batches": 2},
    {"accumulate_grad_batches": 4},
    {"gradient_clip_val": 0.5},
    {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
    {"accumulate_grad_batches": 4, "gradient_clip_val": 0.1},
    {"limit_train_batches": 4, "limit_val_batches": 2},
    {"limit_train_batches": 0.5, "limit_val_batches": 0.4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(mocker: MockerFixture, options: dict[str, Any]) -> None:
    case = Case(Regression, loaders, options=options)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    if "accumulate_grad_batches" in options:
        # Lightning logs under the number of steps, Determined under the number of batches.
        lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


@pytest.mark.parametrize("period", [1, 3, 6])
def test_reporting_period(mocker: MockerFixture, period: int) -> None:
    case = Case(Regression, loaders, log_every_n_steps=period)
    assert_equal(run_lightning(case), run_determined(case, mocker))


@pytest.mark.parametrize("persistent", [False, True])
def test_data_workers(mocker: MockerFixture, persistent: bool) -> None:
    case = Case(Regression, lambda: loaders(num_workers=2, persistent_workers=persistent), max_epochs=2)
    assert_equal(run_lightning(case), run_determined(case, mocker))

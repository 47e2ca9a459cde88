"""``self.log`` from everywhere, with every reduction and kind of value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from pytest_mock import MockerFixture
from torch import Tensor, nn

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import WAYS_TO_RECORD, Case, assert_equal, run_determined, run_lightning


class EveryReduction(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        for reduce_fx in ("mean", "sum", "min", "max", torch.mean, torch.sum, max, min, sum):
            name = reduce_fx if isinstance(reduce_fx, str) else f"{reduce_fx.__module__}.{reduce_fx.__name__}"
            self.log(name, loss + batch_idx, on_step=True, on_epoch=True, reduce_fx=reduce_fx)
        self.log("three", loss, on_epoch=True, batch_size=3)
        self.log("hidden", loss, on_epoch=True, logger=False, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = self.loss(batch)
        for reduce_fx in ("mean", "sum", "min", "max"):
            self.log(f"val_{reduce_fx}", loss, reduce_fx=reduce_fx)
            self.log(f"val_both_{reduce_fx}", loss, reduce_fx=reduce_fx, on_step=True, on_epoch=True)


class EveryHook(Regression):
    def on_train_start(self) -> None:
        self.log("on_train_start", 1.0)

    def on_train_epoch_start(self) -> None:
        self.log("on_train_epoch_start", float(self.current_epoch))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.log("on_train_batch_start", float(batch_idx), on_epoch=True)

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.log("on_before_zero_grad", self.global_step + 0.5)

    def on_before_backward(self, loss: Tensor) -> None:
        self.log("on_before_backward", loss, on_step=True, on_epoch=True)

    def on_after_backward(self) -> None:
        self.log("on_after_backward", self.layers[0].weight.grad.norm(), on_epoch=True)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("on_before_optimizer_step", optimizer.param_groups[0]["lr"])

    def configure_gradient_clipping(self, optimizer: Any, **kwargs: Any) -> None:
        self.log("configure_gradient_clipping", 2.0)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
        self.log("before_step", 3.0 + batch_idx, on_epoch=True)
        optimizer.step(closure=optimizer_closure)
        self.log("after_step", 4.0 + batch_idx, on_epoch=True)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("on_train_batch_end", outputs["loss"], on_step=True, on_epoch=True)

    def on_train_epoch_end(self) -> None:
        self.log("on_train_epoch_end", float(self.trainer.callback_metrics["val_loss"]))

    def on_validation_start(self) -> None:
        self.log("on_validation_start", 5.0)

    def on_validation_epoch_start(self) -> None:
        self.log("on_validation_epoch_start", 6.0)

    def on_validation_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.log("on_validation_batch_start", float(batch_idx))

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("on_validation_batch_end", float(batch_idx), on_step=True)

    def on_validation_epoch_end(self) -> None:
        self.log("on_validation_epoch_end", float(self.trainer.callback_metrics["val_loss"]) * 2, prog_bar=True)


class RemainingHooks(Regression):
    def backward(self, loss: Tensor) -> None:
        self.log("backward", loss, on_epoch=True)
        loss.backward()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.log("optimizer_zero_grad", float(epoch + batch_idx), on_epoch=True)
        optimizer.zero_grad()

    def clip_gradients(self, *args: Any, **kwargs: Any) -> None:
        self.log("clip_gradients", 1.0)


class SameNameInSeveralHooks(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("loss", self.loss(batch))
        self.log("loss_epoch", self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.log("loss", 3.0)


class SometimesAbsent(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        if batch_idx % 2:
            self.log("odd", loss, on_step=True, on_epoch=True)
        if self.current_epoch == 1:
            self.log("second_epoch", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        if batch_idx == 1:
            self.log("val_loss", self.loss(batch))


class LogsTwice(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("twice", loss, on_step=True, on_epoch=True)
        self.log("twice", loss * 3, on_step=True, on_epoch=True)
        return loss


class LogsBetweenHooks(Regression):
    """In the first batch of an epoch Lightning forgets a hook's values when it logs again after another hook."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.log("before", loss, on_step=True, on_epoch=True)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.log("after", loss * 2, on_step=True, on_epoch=True)
        optimizer.step()

    def on_after_backward(self) -> None:
        self.log("between", 1.0, on_epoch=True)


class Torchmetrics(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.train_error = torchmetrics.MeanSquaredError()
        self.val_error = torchmetrics.MeanAbsoluteError()
        metrics = {"mse": torchmetrics.MeanSquaredError(), "r2": torchmetrics.R2Score()}
        self.collection = torchmetrics.MetricCollection(metrics, prefix="val_")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        predictions = self(inputs)
        self.train_error(predictions, targets)
        self.log("train_error", self.train_error, on_step=True, on_epoch=True)
        return torch.nn.functional.mse_loss(predictions, targets)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        predictions = self(inputs)
        self.val_error.update(predictions, targets)
        self.log("val_error", self.val_error, prog_bar=True)
        self.collection.update(predictions, targets)
        self.log_dict(self.collection)

    def on_validation_epoch_end(self) -> None:
        self.log("val_error_computed", self.val_error.compute())


class EveryWayOfTorchmetrics(Regression):
    """Metrics in containers, in collections that share states, by step only, by name, computed and reset by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"list": nn.ModuleList([torchmetrics.MeanMetric()])})
        errors = {
            "mse": torchmetrics.MeanSquaredError(),
            "rmse": torchmetrics.MeanSquaredError(squared=False),
            "mae": torchmetrics.MeanAbsoluteError(),
        }
        self.train_errors = torchmetrics.MetricCollection(errors, prefix="train_")
        self.val_errors = self.train_errors.clone(prefix="val_", postfix="_error")
        self.sum = torchmetrics.SumMetric()
        self.largest = torchmetrics.MaxMetric()
        self.by_hand = torchmetrics.MinMetric()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        predictions = self(inputs)
        loss = nn.functional.mse_loss(predictions, targets)
        self.parts["list"][0](loss)
        self.log("in_container", self.parts["list"][0], on_step=True, on_epoch=True)
        self.train_errors(predictions, targets)
        self.log_dict(self.train_errors, on_step=True, on_epoch=True, prog_bar=True)
        self.sum(loss)
        self.log("by_step", self.sum, on_step=True, on_epoch=False)
        self.largest.update(loss)
        self.log("named", self.largest, on_step=False, on_epoch=True, metric_attribute="largest")
        self.by_hand.update(loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        values = self.val_errors(self(inputs), targets)
        self.log_dict(self.val_errors, on_epoch=True)
        self.log_dict({f"{name}_of_batch": value for name, value in values.items()})

    def on_train_epoch_end(self) -> None:
        self.log("by_hand", self.by_hand.compute())
        self.by_hand.reset()


class EveryType(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        values = {
            "int": batch_idx,
            "float": 0.1 + batch_idx,
            "bool": batch_idx % 2 == 0,
            "numpy": np.float32(0.3 * batch_idx),
            "float64": loss.double() / 3,
            "float16": loss.half(),
            "bfloat16": loss.bfloat16(),
            "parameter": self.layers[0].weight[0, 0],
            "numpy64": np.float64(batch_idx / 3),
            "int64": torch.tensor(batch_idx),
            "uint8": torch.tensor(200 + batch_idx, dtype=torch.uint8),
            "boolean": torch.tensor(batch_idx % 2 == 0),
            "one_element": loss.reshape(1, 1),
            "infinite": float("inf") if batch_idx == 2 else 1.0,
            "nan": float("nan") if self.current_epoch == 1 and batch_idx == 2 else 1.0,
        }
        for name, value in values.items():
            self.log(name, value, on_step=True, on_epoch=True)
        self.log("largest", values["nan"], on_step=False, on_epoch=True, reduce_fx="max")
        loss_to_change = loss.detach().clone()
        self.log("changed_later", loss_to_change, on_step=True, on_epoch=True)
        loss_to_change.add_(100)
        return loss


class EveryFlag(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("synchronised", loss, on_step=True, on_epoch=True, sync_dist=True)
        self.log("of_rank_zero", loss, on_step=True, on_epoch=True, rank_zero_only=True)
        self.log("with_graph", loss, on_step=True, on_epoch=True, enable_graph=True)
        self.log("not_logged", loss, logger=False)
        self.log("both_off_by_default", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=7)
        self.log_dict({"first": loss, "second": loss * 2}, on_epoch=True, reduce_fx="sum", sync_dist=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = self.loss(batch)
        self.log("val_synchronised", loss, sync_dist=True)
        self.log("val_of_rank_zero", loss, rank_zero_only=True)
        self.log("val_not_logged", loss, logger=False, prog_bar=True)


MODULES = [
    EveryFlag,
    EveryReduction,
    EveryHook,
    RemainingHooks,
    SameNameInSeveralHooks,
    SometimesAbsent,
    LogsTwice,
    LogsBetweenHooks,
    Torchmetrics,
    EveryWayOfTorchmetrics,
    EveryType,
]


def is_validation_step(name: str) -> bool:
    return name.startswith(("val_both", "on_validation_batch_end")) and name.endswith("_step")


# Both sides convert whole numbers, and say so.
@pytest.mark.filterwarnings("ignore:You called `self.log.* but the value needs to be floating")
@pytest.mark.filterwarnings("ignore:.*tensor is converted to torch.float:lightning_shim.DifferenceWarning")
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    ("period", "way"), [(1, "own hooks only"), (4, "own hooks only"), (1, "not recorded")], ids=str
)
def test_module(mocker: MockerFixture, module: type, period: int, way: str) -> None:
    case = Case(module, loaders, log_every_n_steps=period, **WAYS_TO_RECORD[way])
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    if module in (EveryReduction, EveryHook):
        # Lightning's loggers also get each validation batch, under the batch's index; Determined gets the epoch.
        lightning.logged = {
            step: kept
            for step, values in lightning.logged.items()
            if (kept := [(name, value) for name, value in values if not is_validation_step(name)])
        }
    assert_equal(lightning, determined)


class OneNameForBothStages(Regression):
    """Logs under one name in training and in validation, and has schedulers that follow it."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, prog_bar=True)
        self.log("mean", loss, on_step=False, on_epoch=True)
        self.log("both", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch) + 100.0 + self.current_epoch
        self.log_dict({"loss": loss, "mean": loss, "both": loss}, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        self.seen = dict(self.trainer.callback_metrics)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        schedulers = [
            {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0), "monitor": name}
            for name in ("loss", "mean")
        ]
        return [optimizer], schedulers


@pytest.mark.parametrize("validation", [None, 3])
def test_one_name_for_both_stages(mocker: MockerFixture, validation: int | None) -> None:
    case = Case(OneNameForBothStages, loaders, validation=validation, every_hook=False)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    assert len({rates[0] for rates in lightning.learning_rates}) > 1
    assert_equal(lightning, determined)

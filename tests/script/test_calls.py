"""Module, data module and callback are called as often as by Lightning's Trainer, and in its order."""

from __future__ import annotations

import functools
import inspect
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from tests.script.test_trainer_object import ARGUMENTS, loader

NO_HOOKS = {"log", "log_dict", "optimizers", "configure_sharded_model"} | {
    name for name, _ in inspect.getmembers(torch.nn.Module, inspect.isfunction)
} - {"zero_grad", "train", "state_dict", "load_state_dict"}


def tell_of_calls(instance: Any, base: type, calls: list[Any]) -> None:
    """Has the methods of an object that its base class has too tell of their calls."""
    for name, _ in inspect.getmembers(base, inspect.isroutine):
        if (
            not name.startswith("_")
            and name not in NO_HOOKS
            and not inspect.ismethod(inspect.getattr_static(base, name))
        ):
            setattr(instance, name, telling(f"{base.__name__}.{name}", getattr(instance, name), calls))


def telling(name: str, method: Any, calls: list[Any]) -> Any:
    @functools.wraps(method)
    def tell(*args: Any, **kwargs: Any) -> Any:
        calls.append((name, [type(each).__name__ for each in args], sorted(kwargs)))
        return method(*args, **kwargs)

    return tell


class Data(pl.LightningDataModule):
    """A data module with loaders, and a state."""

    def prepare_data(self) -> None:
        """Lightning 2.2 calls one that is not overridden as well."""

    def train_dataloader(self) -> Any:
        return loader(3)

    def val_dataloader(self) -> Any:
        return loader(2)

    def state_dict(self) -> dict[str, Any]:
        return {"is": "here"}


class Module(pl.LightningModule):
    """A module that optimizes automatically or by itself."""

    def __init__(self, automatic: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.automatic_optimization = automatic

    def prepare_data(self) -> None:
        """As that of the data module."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).square().mean()
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def fitted(calls: list[Any], automatic: bool, ckpt_path: Any = None, **options: Any) -> Any:
    module, data, callback = Module(automatic), Data(), pl.Callback()
    tell_of_calls(module, pl.LightningModule, calls)
    tell_of_calls(data, pl.LightningDataModule, calls)
    tell_of_calls(callback, pl.Callback, calls)
    arguments = {**ARGUMENTS, "reload_dataloaders_every_n_epochs": 1, **options}
    trainer = pl.Trainer(**arguments, callbacks=[callback])
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("automatic", [True, False])
def test_every_call(compared: Any, automatic: bool) -> None:
    def script() -> Any:
        calls: list[Any] = []
        fitted(calls, automatic).save_checkpoint("saved.ckpt")
        calls.append("a checkpoint is loaded")
        fitted(calls, automatic, "saved.ckpt", max_epochs=3)
        return calls

    calls = compared(script)
    names = [call[0] for call in calls]
    assert {"LightningModule.zero_grad", "LightningDataModule.state_dict", "Callback.state_dict"} <= set(names)


def test_callback_that_is_a_mock(compared: Any) -> None:
    """It is one by ``isinstance``, whatever its type, as is a proxy."""

    def script() -> Any:
        given, configured = (mock.Mock(spec=pl.Callback) for _ in range(2))

        class Configuring(Module):
            def configure_callbacks(self) -> Any:
                return configured

        module = Configuring(automatic=True)
        trainer = pl.Trainer(**ARGUMENTS, callbacks=[given])
        trainer.fit(module, loader(2), loader(1))
        names = [[name for name, *_ in each.method_calls] for each in (given, configured)]
        return names, trainer.callbacks[-1] is configured

    assert "on_train_batch_end" in compared(script)[0][0]


@pytest.mark.parametrize("failing", ["on_fit_start", "on_train_batch_start"])
def test_strategy_is_told_of_errors(compared: Any, failing: str) -> None:
    def script() -> Any:
        seen = []
        trainer = pl.Trainer(**ARGUMENTS)
        trainer.strategy.on_exception = lambda error: seen.append(repr(error))  # type: ignore[method-assign]
        module = Module(automatic=True)
        setattr(module, failing, mock.Mock(side_effect=RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            trainer.fit(module, loader(2), loader(1))
        return seen

    assert compared(script) == ["RuntimeError('out of memory')"]


def test_hooks_that_cannot_log(compared: Any) -> None:
    class Logging(Module):
        def cannot_log(self, hook: str, value: Any) -> Any:
            with pytest.raises(MisconfigurationException, match=rf"You can't `self.log\(\)` inside `{hook}`"):
                self.log("value", 1.0)
            return value

        def configure_callbacks(self) -> Any:
            return self.cannot_log("configure_callbacks", [])

        def train_dataloader(self) -> Any:
            return self.cannot_log("train_dataloader", loader(2))

        def val_dataloader(self) -> Any:
            return self.cannot_log("val_dataloader", loader(1))

    compared(lambda: pl.Trainer(**ARGUMENTS).fit(Logging(automatic=True)))

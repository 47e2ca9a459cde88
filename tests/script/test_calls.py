"""Module, data module and callback are called as often as by Lightning's Trainer, and in its order."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

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

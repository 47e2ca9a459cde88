"""Errors that end a training, before it starts as well: whoever is told of them under Lightning is told here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
from determined import pytorch

import lightning_shim
from tests.parity.modules import Regression, loaders
from tests.parity.test_stopping import RecordsErrors
from tests.support.lightning_trainer import fit_by_lightning

FAILING = (
    "prepare_data",
    "setup",
    "configure_model",
    "configure_optimizers",
    "on_fit_start",
    "train_dataloader",
    "val_dataloader",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "training_step",
    "validation_step",
    "on_train_epoch_end",
    "on_train_end",
)


def failing(hook: str) -> type:
    """Makes a module that has a hook which fails."""

    def fails(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise MemoryError(hook)

    return type("Fails", (Regression,), {hook: fails})


class Data(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def train_dataloader(self) -> Any:
        return loaders()["train_dataloaders"]

    def val_dataloader(self) -> Any:
        return loaders()["val_dataloaders"]

    def on_exception(self, exception: BaseException) -> None:
        self.errors.append(str(exception))


def fit_lightning(module: Any, callback: Any, **data: Any) -> None:
    fit_by_lightning(pl, module, **data, max_epochs=1, callbacks=[callback])


def fit_determined(module: Any, callback: Any, **data: Any) -> None:
    with lightning_shim.patched():
        lightning_shim.fit(module, **data, max_length=pytorch.Epoch(1), callbacks=[callback])


@pytest.mark.parametrize("hook", FAILING)
@pytest.mark.parametrize("fit", [fit_lightning, fit_determined])
def test_callbacks_are_told(fit: Callable[..., None], hook: str) -> None:
    callback = RecordsErrors()
    brought = {"train_dataloader": "train_dataloaders", "val_dataloader": "val_dataloaders"}.get(hook)
    with pytest.raises(MemoryError, match=hook):
        fit(failing(hook)(), callback, **{name: loader for name, loader in loaders().items() if name != brought})
    assert [str(error) for error in callback.errors] == [hook]


@pytest.mark.versions
@pytest.mark.parametrize("hook", ["setup", "configure_optimizers", "training_step"])
@pytest.mark.parametrize("fit", [fit_lightning, fit_determined])
def test_data_module_is_told_where_lightning_has_the_hook(fit: Callable[..., None], hook: str) -> None:
    data = Data()
    with pytest.raises(MemoryError, match=hook):
        fit(failing(hook)(), RecordsErrors(), datamodule=data)
    assert data.errors == ([hook] if hasattr(pl.LightningDataModule, "on_exception") else [])

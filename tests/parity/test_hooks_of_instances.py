"""Hooks that are set on a module, a callback or a data module itself: wrapped by tracers and timers, or set to None."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
from determined import pytorch

import lightning_shim
from lightning_shim.members.member import Kind, Support
from lightning_shim.members.query import members
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import NOT_COMPARED, assert_same
from tests.support.lightning_trainer import fit_by_lightning

pytestmark = [
    pytest.mark.usefixtures("patched"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`:UserWarning"),
]


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loaders()["train_dataloaders"]

    def val_dataloader(self) -> Any:
        return loaders()["val_dataloaders"]


Change = Callable[[Any, Any, Any], None]
"""What is done to a module, a callback and a data module before they are trained."""


def by_lightning(change: Change) -> dict[str, Any]:
    pl.seed_everything(3)
    module, callback, data = Regression(), pl.Callback(), Data()
    change(module, callback, data)
    trainer = fit_by_lightning(pl, module, datamodule=data, callbacks=[callback], max_epochs=2)
    return {"weights": module.state_dict(), "metrics": trainer.callback_metrics}


def by_fit(change: Change) -> dict[str, Any]:
    pl.seed_everything(3)
    module, callback, data = Regression(), pl.Callback(), Data()
    change(module, callback, data)
    trial = lightning_shim.fit(
        module,
        datamodule=data,
        callbacks=[callback],
        max_length=pytorch.Epoch(2),
        checkpoint_policy="none",
        num_sanity_val_steps=0,
    )
    return {"weights": module.state_dict(), "metrics": trial.trainer.callback_metrics}


def traced(owner: Any, kind: str, called: list[str]) -> None:
    """Wraps every hook, as those that do so to measure times; Lightning's defaults as well."""

    def wrapped(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(hook)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            called.append(f"{kind}.{name}")
            return hook(*args, **kwargs)

        return wrapper

    for row in members(kind, Support.CALLED):
        if row.kind is Kind.HOOK and row.name not in NOT_COMPARED and hasattr(owner, row.name):
            setattr(owner, row.name, wrapped(row.name, getattr(owner, row.name)))


@pytest.mark.lightning(">=2.3")  # Before, a data module's prepare_data was called even if it was Lightning's.
def test_wrapped_hooks_are_called() -> None:
    calls: list[list[str]] = [[], []]

    def change(called: list[str]) -> Change:
        def trace(module: Any, callback: Any, data: Any) -> None:
            traced(module, "LightningModule", called)
            traced(callback, "Callback", called)
            traced(data, "LightningDataModule", called)

        return trace

    assert_same(by_fit(change(calls[1])), by_lightning(change(calls[0])))
    expected, actual = ([name for name in called if "checkpoint" not in name] for called in calls)
    assert actual == expected
    assert {"LightningModule.optimizer_step", "Callback.on_train_end", "LightningDataModule.setup"} <= {*expected}


def test_wrapped_default_is_no_step() -> None:
    """A validation that does nothing takes no time under Lightning either."""

    def change(module: Any, callback: Any, data: Any) -> None:
        module.validation_step = functools.wraps(pl.LightningModule.validation_step)(lambda *_: None)

    lightning = by_lightning(change)
    assert_same(by_fit(change), lightning)
    assert "val_loss" not in lightning["metrics"]


@pytest.mark.parametrize(
    ("owner", "hook"),
    [
        (0, "validation_step"),
        (0, "on_train_epoch_end"),
        (0, "configure_model"),
        (0, "on_before_zero_grad"),
        (1, "on_train_batch_end"),
        (2, "on_after_batch_transfer"),
        (2, "prepare_data"),
    ],
)
def test_none_is_no_hook(owner: int, hook: str) -> None:
    def change(*owners: Any) -> None:
        setattr(owners[owner], hook, None)

    try:
        expected = by_lightning(change)
    except TypeError:
        pytest.fail(f"Lightning calls {hook}")
    assert_same(by_fit(change), expected)

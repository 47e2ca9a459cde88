"""Hooks and ``self.trainer`` have the script's own Trainer while it fits, as under Lightning."""

from __future__ import annotations

import copy
import importlib
import operator
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from tests.script.test_trainer_object import ARGUMENTS, Module, loader
from tests.support.namespaces import NAMESPACES


def parts(namespace: str, seen: list[Any]) -> tuple[Any, Any, Any, Any]:
    """Makes a Trainer of the script's own, a callback, a data module and a module, which tell what they are given."""
    lightning = importlib.import_module(namespace)

    class Own(lightning.Trainer):  # type: ignore[misc]  # it is not known before
        @property
        def doubled(self) -> int:
            return 2 * int(self.global_step)

        @property
        def current_epoch(self) -> int:
            return 100 + int(super().current_epoch)

        def say(self) -> str:
            return f"{self.global_step} {self.lightning_module.training}"

    class Watches(lightning.Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(("callback", trainer, pl_module.trainer, trainer.doubled, trainer.current_epoch, trainer.say()))
            trainer.epochs = getattr(trainer, "epochs", 0) + 1

    class Data(lightning.LightningDataModule):  # type: ignore[misc]
        def setup(self, stage: str) -> None:
            seen.append(("setup of data", self.trainer, str(self.trainer.state)))

        def train_dataloader(self) -> Any:
            seen.append(("train_dataloader", self.trainer))
            return loader(2)

    class OwnModule(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def configure_callbacks(self) -> Any:
            seen.append(("configure_callbacks", self.trainer))
            return []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(("training_step", self.trainer, self.current_epoch, isinstance(self.trainer, Own)))
            self.log("loss", self.layer(batch[0]).mean())
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            seen.append(("configure_optimizers", self.trainer, self.trainer.num_training_batches))
            return torch.optim.SGD(self.parameters(), 0.1)

    return Own, Watches(), Data(), OwnModule()


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_one_object(compared: Any, namespace: str) -> None:
    def script() -> Any:
        seen: list[Any] = []
        make, callback, data, module = parts(namespace, seen)
        trainer = make(**ARGUMENTS, callbacks=[callback])
        told_by_trainer, weak = {trainer: "the script's"}, weakref.ref(trainer)
        trainer.fit(module, datamodule=data)
        assert weak() is module.trainer is data.trainer is trainer
        told = [tuple(told_by_trainer.get(entry, entry) for entry in hook) for hook in seen]
        return told, trainer.epochs, trainer.current_epoch, dict(trainer.callback_metrics)

    told, epochs, *_ = compared(script)
    assert epochs == 2
    assert {entry[1] for entry in told} == {"the script's"}


def test_another_fit_within_a_hook(compared: Any) -> None:
    def script() -> Any:
        seen: list[Any] = []
        inner = pl.Trainer(**{**ARGUMENTS, "max_epochs": 1})

        def act(hook: str, module: Any) -> None:
            if hook == "on_train_epoch_end":
                seen.append((module.trainer is trainer, inner.global_step, trainer.global_step))
                inner.fit(
                    Module(lambda hook, module: seen.append((hook, module.trainer is inner))), loader(1), loader(1)
                )
                seen.append((module.trainer is trainer, inner.global_step, trainer.global_step))

        trainer = pl.Trainer(**{**ARGUMENTS, "max_epochs": 1})
        trainer.fit(Module(act), loader(), loader(1))
        return seen

    assert len(compared(script)) == 7


class Copies(pl.Callback):
    """Copies and pickles itself and the module in a hook."""

    def __init__(self, copied: Callable[[Any], Any]) -> None:
        self.copied = copied

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.trainer = trainer
        self.copies = [self.copied(pl_module), self.copied(self.trainer)]


def by_pickle(instance: Any) -> Any:
    return pickle.loads(pickle.dumps(instance))


@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle, copy.copy])
def test_copies_made_while_fitting(compared: Any, copied: Callable[[Any], Any]) -> None:
    def script() -> Any:
        callback = Copies(copied)
        trainer = pl.Trainer(**ARGUMENTS, callbacks=[callback])
        trainer.fit(Module(operator.is_), loader(2), loader(1))
        module, copied_trainer = callback.copies
        return (
            module._trainer is None,
            module.state_dict(),
            type(copied_trainer) is pl.Trainer,
            copied_trainer.max_epochs,
            copied_trainer.global_step,
        )

    compared(script)

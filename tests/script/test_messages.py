"""What Lightning says of a training, and trainings without batches, are Lightning's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch.utils.data import DataLoader, TensorDataset

from tests.script.test_trainer_object import ARGUMENTS, Module, attributes, loader

SAID = (
    "`Trainer.fit` stopped",
    "Restor",
    "shuffling enabled",
    "smaller than the logging interval",
    "across ranks is zero",
    "Trainer was signaled to stop",
)


def empty() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.zeros(0, 3)))


def used_up() -> Iterator[Any]:
    return iter([[torch.ones(1, 3)], [torch.zeros(1, 3)]])


def shuffled() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(6.0).view(-1, 3)), shuffle=True)


CASES: dict[str, tuple[dict[str, Any], Callable[[], tuple[Any, Any]]]] = {
    "max_epochs": ({}, lambda: (loader(), loader(2))),
    "no epochs": ({"max_epochs": 0}, lambda: (loader(), loader(2))),
    "max_steps": ({"max_steps": 3, "max_epochs": -1}, lambda: (loader(), loader(2))),
    "shuffled": ({"log_every_n_steps": 1}, lambda: (loader(), shuffled())),
    "logs seldom": ({"logger": True, "log_every_n_steps": 5}, lambda: (loader(), loader(2))),
    "logs seldom in a hurry": ({"logger": True, "fast_dev_run": True}, lambda: (loader(), loader(2))),
    "nothing to train": ({"limit_train_batches": 0}, lambda: (loader(), loader(2))),
    "nothing to train, and periods": (
        {"limit_train_batches": 0, "val_check_interval": 0.5},
        lambda: (loader(), loader(2)),
    ),
    "no part to train": ({"limit_train_batches": 0.0, "max_steps": 4}, lambda: (loader(), loader(2))),
    "empty": ({}, lambda: (empty(), loader(2))),
    "nothing to validate": ({}, lambda: (loader(), empty())),
    "empty stream": ({}, lambda: (iter([]), loader(2))),
    "used up": ({}, lambda: (used_up(), loader(2))),
    "stops early": (
        {"callbacks": lambda: [EarlyStopping("val_loss", stopping_threshold=1e9)]},
        lambda: (loader(), loader(2)),
    ),
    "stops too early": (
        {"min_epochs": 2, "callbacks": lambda: [EarlyStopping("val_loss", stopping_threshold=1e9)]},
        lambda: (loader(), loader(2)),
    ),
}


class Hooks(Module):
    """Notes the hooks around the batches."""

    def __init__(self, seen: list[Any]) -> None:
        super().__init__(lambda hook, module: seen.append((hook, module.current_epoch, module.global_step)))
        for name in (
            "on_fit_start",
            "on_train_start",
            "on_train_epoch_start",
            "on_train_end",
            "on_fit_end",
            "teardown",
        ):
            setattr(self, name, lambda *args, name=name, **kwargs: seen.append(name))


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX`")
@pytest.mark.parametrize("name", CASES)
def test_is_lightnings(compared: Any, caplog: pytest.LogCaptureFixture, name: str) -> None:
    given, data = CASES[name]

    def script() -> Any:
        caplog.clear()
        seen: list[Any] = []
        arguments = {key: value() if callable(value) else value for key, value in given.items()}
        with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG, "pytorch_lightning"):
            warnings.simplefilter("always")
            trainer = pl.Trainer(**{**ARGUMENTS, **arguments})
            module = Hooks(seen)
            trainer.fit(module, *data())
        said = [str(warning.message) for warning in caught] + caplog.messages
        return (
            sorted(message for message in said if any(text in message for text in SAID)),
            seen,
            module.state_dict(),
            attributes(trainer),
            torch.get_rng_state(),
        )

    said = compared(script)[0]
    assert said or name.startswith(("no part", "nothing to train"))


def test_restored_checkpoint(compared: Any, caplog: pytest.LogCaptureFixture) -> None:
    def script() -> Any:
        trainer = pl.Trainer(**ARGUMENTS)
        trainer.fit(Module(), loader(), loader(2))
        trainer.save_checkpoint("first.ckpt")
        caplog.clear()
        with caplog.at_level(logging.INFO):
            again = pl.Trainer(**{**ARGUMENTS, "max_epochs": 3})
            again.fit(Module(), loader(), loader(2), ckpt_path="first.ckpt")
        return [message for message in caplog.messages if any(text in message for text in SAID)]

    assert len(compared(script)) == 3

"""What the experiment's configuration asks of a script's Trainer, unless the script says it itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from determined import pytorch

from lightning_shim.trial.configuration import Configuration, warn_of_conflict


def _count(unit: pytorch.TrainUnit) -> int:
    # None that is read off a configuration is a schedule.
    assert isinstance(unit.value, int)
    return unit.value


def _length(unit: pytorch.TrainUnit, given: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(unit, pytorch.Epoch):
        return {"max_epochs": unit.value}
    # Lightning counts optimizer steps.
    return {"max_steps": max(1, _count(unit) // (given.get("accumulate_grad_batches") or 1))}


def _validation_period(unit: pytorch.TrainUnit, given: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(unit, pytorch.Epoch):
        return {"check_val_every_n_epoch": unit.value}
    # So that the batches are counted over all epochs.
    return {"val_check_interval": unit.value, "check_val_every_n_epoch": None}


def _reporting_period(unit: pytorch.TrainUnit, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"log_every_n_steps": unit.value}


_ARGUMENTS: Final[dict[str, tuple[tuple[str, ...], Callable[..., dict[str, Any]]]]] = {
    "max_length": (("max_epochs", "max_steps"), _length),
    "validation_period": (("val_check_interval", "check_val_every_n_epoch"), _validation_period),
    "reporting_period": (("log_every_n_steps", "barebones"), _reporting_period),
}
"""By the argument of ``fit``, the Trainer's arguments for the same, and what they are for what ``fit`` is given.

A barebones Trainer never reports.
"""


def asked_arguments(signature: inspect.Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a Trainer that a cluster's configuration gives; those of the script count."""
    asked: dict[str, Any] = {}
    wishes = Configuration.of_experiment().wishes
    for argument, (names, translate) in _ARGUMENTS.items():
        wish = wishes.get(argument)
        if wish is None:
            continue
        wanted = translate(wish.value, given)
        defaults = {name: signature.parameters[name].default for name in names}
        own = {name: given[name] for name in names if given.get(name, defaults[name]) != defaults[name]}
        if not own:
            asked |= wanted
        elif own != wanted:
            warn_of_conflict(f"Trainer({', '.join(f'{name}={value!r}' for name, value in own.items())})", wish)
    return asked

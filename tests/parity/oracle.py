"""Runs the same module under ``pl.Trainer`` and under ``lightning_shim.fit``, and records everything that can be seen.

The recording is done from outside, by a subclass of the module and a Lightning callback that override every hook, so
that neither side knows of it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from determined import core, pytorch
from pytest_mock import MockerFixture
from torch import Tensor, nn

import lightning_shim
from lightning_shim.facade.logger import METRIC_GROUP
from lightning_shim.members.member import Kind, Support
from lightning_shim.members.query import members
from tests.support.lightning_trainer import NO_SANITY_CHECK, fit_by_lightning
from tests.support.recording import Recording, recording_logger

# They are asked for by each side in its own time, or take part in no training.
NOT_COMPARED = frozenset({"configure_callbacks", "configure_sharded_model", "state_dict", "load_state_dict"})

# An override changes what Lightning does, even if it only calls the original.
CHANGES_IF_OVERRIDDEN = frozenset(
    {"validation_step", "on_validation_model_train", "configure_model", "train_dataloader", "val_dataloader"}
)


def summary(value: Any) -> Any:
    """Describes an argument of a hook without keeping it: shapes of tensors, names of classes, numbers."""
    if isinstance(value, Tensor):
        return (str(value.dtype), tuple(value.shape), value.requires_grad)
    if isinstance(value, Mapping):
        return {str(key): summary(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [summary(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str, torch.device)):
        return str(value)
    if isinstance(value, nn.Module):
        return "module"
    return type(value).__name__.removeprefix("Lightning").removeprefix("_")


def _hooks(owner: str) -> list[str]:
    return [
        row.name
        for row in members(owner, Support.CALLED)
        if row.kind is Kind.HOOK and row.name not in NOT_COMPARED and "<2" not in row.versions
    ]


def _recorded(hook: str, original: Callable[..., Any], recording: Recording, is_callback: bool) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = args[1] if is_callback else self
        state = (module.current_epoch, module.global_step, module.training) if module._trainer is not None else ()
        shown = args[2:] if is_callback else args
        # The checkpoint's keys are not the same on both sides.
        described = () if "checkpoint" in hook else (summary(shown), summary(kwargs))
        recording.events.append(("callback" if is_callback else "module", hook, state, described))
        if hook == "on_train_batch_end":
            recording.add_learning_rates(module.trainer)
        return original(self, *args, **kwargs)

    return method


def recorded_module(module_class: type, recording: Recording, every_hook: bool = True) -> type:
    """Makes a subclass of a module's class that records its hooks.

    Args:
        module_class: The user's class.
        recording: Where to.
        every_hook: Whether to override every hook, or only those that the class itself overrides. Overriding one that
            the class leaves alone can change what Lightning does.
    """
    base = next(parent for parent in module_class.__mro__ if parent.__name__ == "LightningModule")
    overrides = {}
    for hook in _hooks("LightningModule"):
        original = getattr(module_class, hook, None)
        is_default = inspect.getattr_static(module_class, hook, None) is inspect.getattr_static(base, hook, None)
        only_if_overridden = hook in CHANGES_IF_OVERRIDDEN or not every_hook
        if original is None or (only_if_overridden and is_default):
            continue
        overrides[hook] = _recorded(hook, original, recording, is_callback=False)
    # Their signatures, or where they are defined, are looked at.
    for hook in ("training_step", "validation_step", "configure_optimizers"):
        if hook in overrides:
            overrides[hook].__wrapped__ = getattr(module_class, hook)  # type: ignore[attr-defined]
    return type(module_class.__name__, (module_class,), overrides)


def recording_callback(namespace: str, recording: Recording) -> Any:
    """Makes a Lightning callback that records all its hooks."""
    base = importlib.import_module(namespace).Callback
    hooks = {
        hook: _recorded(hook, getattr(base, hook), recording, is_callback=True)
        for hook in _hooks("Callback")
        if hasattr(base, hook)
    }
    return type("RecordingCallback", (base,), hooks)()


@dataclass
class Case:
    """A module, its data and its options.

    Attributes:
        module: Makes the module, after seeding.
        data: Makes ``train_dataloaders``, ``val_dataloaders`` or ``datamodule``, as arguments of ``fit``.
        max_epochs: Epochs to train.
        options: Options that both sides have, by Lightning's names.
        validation: Batches between two validations, or None for one after each epoch.
        log_every_n_steps: Batches between two reports.
        callbacks: Makes further callbacks.
        namespace: Where the module's classes come from.
        seed: What both sides are seeded with.
        every_hook: Whether the recorded module overrides every hook, or only those that it overrides by itself.
        is_recorded: Whether hooks are recorded. Otherwise nobody has a hook but the module and its own callbacks, and
            what is logged and what is left at the end is compared.
    """

    module: type
    data: Callable[[], dict[str, Any]]
    max_epochs: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    validation: int | None = None
    log_every_n_steps: int = 1
    callbacks: Callable[[], list[Any]] = list
    namespace: str = "pytorch_lightning"
    seed: int = 7
    every_hook: bool = True
    is_recorded: bool = True

    def make_module(self, recording: Recording) -> Any:
        """Makes the module; it records its hooks, unless the case is not recorded."""
        module = recorded_module(self.module, recording, self.every_hook) if self.is_recorded else self.module
        return module()

    def make_callbacks(self, recording: Recording) -> list[Any]:
        """Makes the callbacks, with one that records all hooks unless the case is not recorded."""
        recorders = [recording_callback(self.namespace, recording)] if self.is_recorded else []
        return [*recorders, *self.callbacks()]


WAYS_TO_RECORD: dict[str, dict[str, bool]] = {
    "every hook overridden": {},
    "own hooks only": {"every_hook": False},
    "not recorded": {"is_recorded": False},
}
"""Options of a Case, by name. Whoever records has hooks; what is done where nobody has any is seen without it alone."""


def run_lightning(case: Case, **trainer_options: Any) -> Recording:
    """Runs a case under Lightning's own Trainer; ``trainer_options`` are added to what the case says."""
    recording = Recording()
    lightning = importlib.import_module(case.namespace)
    lightning.seed_everything(case.seed)
    module = case.make_module(recording)
    options = dict(case.options)
    if case.validation is not None:
        options.update(val_check_interval=case.validation, check_val_every_n_epoch=None)
    fit_by_lightning(
        lightning,
        module,
        **case.data(),
        max_epochs=case.max_epochs,
        logger=recording_logger(importlib.import_module(f"{case.namespace}.loggers").Logger, recording),
        log_every_n_steps=case.log_every_n_steps,
        callbacks=case.make_callbacks(recording),
        **options,
        **trainer_options,
    )
    recording.finish(module)
    return recording


def run_determined(case: Case, mocker: MockerFixture, **fit_options: Any) -> Recording:
    """Runs a case under Determined; ``fit_options`` take the place of what the case says."""
    recording = Recording()
    lightning = importlib.import_module(case.namespace)
    with reports_recorded(recording, mocker), lightning_shim.patched():
        lightning.seed_everything(case.seed)
        module = case.make_module(recording)
        options = {
            **case.options,
            "max_length": pytorch.Epoch(case.max_epochs),
            "validation_period": None if case.validation is None else pytorch.Batch(case.validation),
            "reporting_period": pytorch.Batch(case.log_every_n_steps),
            "checkpoint_policy": "none",
            "callbacks": case.make_callbacks(recording),
        }
        lightning_shim.fit(module, **case.data(), **{**NO_SANITY_CHECK, **options, **fit_options})
        recording.finish(module)
    return recording


@contextmanager
def reports_recorded(recording: Recording, mocker: MockerFixture) -> Iterator[None]:
    """Records what Determined is told, without changing it."""
    spy = mocker.spy(core.DummyTrainContext, "_report_trial_metrics")
    yield
    for call in spy.call_args_list:
        _, group, steps_completed, metrics = call.args[:4]
        # Lightning logs under the index of the batch, Determined under the number of batches; who calls the logger
        # says under what.
        recording.log(steps_completed - (group != METRIC_GROUP), metrics)
    mocker.stop(spy)


def assert_equal(lightning: Recording, determined: Recording) -> None:
    """Compares two recordings, to the last bit."""
    # A checkpoint is Determined's business, and so are the hooks that come with it.
    ours = [event for event in determined.events if "checkpoint" not in event[1]]
    theirs = [event for event in lightning.events if "checkpoint" not in event[1]]
    for index, (expected, actual) in enumerate(zip(theirs, ours, strict=False)):
        assert actual == expected, f"event {index}: {actual} is not {expected}, after {ours[max(0, index - 3) : index]}"
    assert len(ours) == len(theirs), (ours[len(theirs) :], theirs[len(ours) :])
    assert determined.learning_rates == lightning.learning_rates
    # Training and validation metrics are separate for Determined; for Lightning's loggers they follow each other.
    ours, theirs = (
        {step: sorted(values, key=str) for step, values in recording.logged.items()}
        for recording in (determined, lightning)
    )
    assert_same(ours, theirs)
    assert_equal_ends(lightning, determined)


def assert_equal_ends(lightning: Recording, determined: Recording) -> None:
    """Compares what two recordings have of the end of their runs, to the last bit."""
    for name in ("callback_metrics", "logged_metrics", "progress_bar_metrics"):
        assert_same(getattr(determined, name), getattr(lightning, name))
    assert (determined.global_step, determined.current_epoch) == (lightning.global_step, lightning.current_epoch)
    assert_same(determined.weights, lightning.weights)
    assert_same(determined.optimizers, lightning.optimizers)
    assert_same(determined.schedulers, lightning.schedulers)
    assert_same(determined.random_state, lightning.random_state)
    assert_same(determined.callback_states, lightning.callback_states)


def assert_same(actual: Any, expected: Any, path: str = "") -> None:
    """Compares nested values; tensors by ``torch.equal``, NaN equal to NaN."""
    if isinstance(expected, Tensor):
        assert isinstance(actual, Tensor), path
        assert actual.dtype == expected.dtype, path
        assert torch.equal(actual, expected) or bool(actual.isnan().all() and expected.isnan().all()), path
    elif isinstance(expected, Mapping):
        assert actual.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_same(actual[key], value, f"{path}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), path
        for index, value in enumerate(expected):
            assert_same(actual[index], value, f"{path}[{index}]")
    elif isinstance(expected, float) and expected != expected:
        assert actual != actual, path
    elif not callable(expected):
        assert actual == expected, f"{path}: {actual!r} != {expected!r}"

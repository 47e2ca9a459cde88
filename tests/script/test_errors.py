"""A script's ``except`` for Lightning's errors catches ours, and finds Lightning's sentence in the message."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

import lightning_shim
from lightning_shim import CheckpointError, ConfigurationError, LightningShimError, MetricError
from tests.script.test_length import Stream
from tests.script.test_trainer_object import ARGUMENTS, Module, loader

SGD = torch.optim.SGD
Plateau = torch.optim.lr_scheduler.ReduceLROnPlateau


class Unsaved:
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


class Foreign(Unsaved):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def returns(make: Callable[[Any], Any]) -> Callable[[], Any]:
    """Makes a module whose configure_optimizers returns what is made of an optimizer."""

    def module() -> Any:
        made = Module()
        made.configure_optimizers = lambda: make(SGD(made.parameters(), 0.1))  # type: ignore[method-assign]
        return made

    return module


def with_member(name: str, value: Any) -> Callable[[], Any]:
    def module() -> Any:
        made = Module()
        setattr(made, name, value)
        return made

    return module


def logs(name: str, value: Any, hook: str = "on_train_batch_end", **arguments: Any) -> Callable[[], Any]:
    return lambda: Module(
        lambda now, module: (
            module.log(name, value() if callable(value) else value, **arguments) if now == hook else None
        )
    )


def logs_twice() -> Any:
    def act(hook: str, module: Any) -> None:
        module.log("same", 1.0, prog_bar=hook == "training_step")
        module.log("same", 1.0, prog_bar=False)

    return Module(act)


def with_metric(compute: Any) -> Callable[[], Any]:
    class Metric(MeanMetric):
        def compute(self) -> Any:
            return compute()

    def module() -> Any:
        made = Module(lambda hook, module: module.log("mean", module.metric) if hook == "on_train_epoch_end" else None)
        made.metric = Metric()
        made.metric.update(1.0)
        return made

    return module


def scheduler(make: Callable[[Any], Any], **settings: Any) -> Callable[[Any], Any]:
    return lambda optimizer: {"optimizer": optimizer, "lr_scheduler": {**make(optimizer), **settings}}


def step_lr(optimizer: Any) -> dict[str, Any]:
    return {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


Case = tuple[Callable[[], Any], str, dict[str, Any]]
CASES: dict[str, Case] = {
    "no optimizer": (returns(lambda optimizer: 1), "Unknown configuration for model optimizers", {}),
    "two optimizers": (
        returns(lambda optimizer: [optimizer, optimizer]),
        "Training with multiple optimizers is only supported with manual optimization",
        {},
    ),
    "plateau without a monitor": (
        returns(lambda optimizer: ([optimizer], [Plateau(optimizer)])),
        "`configure_optimizers` must include a monitor when a `ReduceLROnPlateau` scheduler is used",
        {},
    ),
    "plateau in a dictionary": (
        returns(scheduler(lambda optimizer: {"scheduler": Plateau(optimizer)})),
        "The lr scheduler dict must include a monitor when a `ReduceLROnPlateau` scheduler is used",
        {},
    ),
    "plateau of what is not logged": (
        returns(scheduler(lambda optimizer: {"scheduler": Plateau(optimizer)}, monitor="giraffe")),
        "ReduceLROnPlateau conditioned on metric giraffe which is not available",
        {},
    ),
    "dictionary without a scheduler": (
        returns(scheduler(lambda optimizer: {}, interval="step")),
        'The lr scheduler dict must have the key "scheduler" with its item being an lr scheduler',
        {},
    ),
    "interval": (
        returns(scheduler(step_lr, interval="hour")),
        'The "interval" key in lr scheduler dict must be "step" or "epoch" but is "hour"',
        {},
    ),
    "scheduler of another optimizer": (
        returns(lambda optimizer: ([optimizer], [step_lr(SGD([torch.zeros(1)], 0.1))["scheduler"]])),
        "attached with an optimizer that wasn't returned from `configure_optimizers`",
        {},
    ),
    "scheduler without a state": (
        returns(lambda optimizer: ([optimizer], [Unsaved(optimizer)])),
        "state_dict",
        {},
    ),
    "scheduler of somebody's own": (
        returns(lambda optimizer: ([optimizer], [Foreign(optimizer)])),
        "doesn't follow PyTorch's LRScheduler API. You should override the `LightningModule.lr_scheduler_step` hook",
        {},
    ),
    "number as the loss": (
        with_member("training_step", lambda batch, batch_idx: 5.0),
        "`training_step` must return a Tensor, a dict, or None",
        {},
    ),
    "dictionary without a loss": (
        with_member("training_step", lambda batch, batch_idx: {"a": 5.0}),
        "when `training_step` returns a dict, the 'loss' key needs to be present",
        {},
    ),
    "no closure": (with_member("optimizer_step", lambda *args: None), "The closure hasn't been executed.", {}),
    "no training_step": (with_member("training_step", None), "No `training_step()` method defined", {}),
    "no configure_optimizers": (
        with_member("configure_optimizers", None),
        "No `configure_optimizers()` method defined",
        {},
    ),
    "clips by itself": (
        with_member("automatic_optimization", False),
        "Automatic gradient clipping is not supported for manual optimization",
        {"gradient_clip_val": 0.5},
    ),
    "accumulates by itself": (
        with_member("automatic_optimization", False),
        "Automatic gradient accumulation is not supported for manual optimization",
        {"accumulate_grad_batches": 2},
    ),
    "no loader": (Module, "`train_dataloader` must be implemented to be used with the Lightning", {"data": None}),
    "no hook": (
        with_member("train_dataloader", None),
        "An invalid dataloader was passed to `Trainer.fit(train_dataloaders=...)`. Found None.",
        {"data": None},
    ),
    "object for a loader": (
        Module,
        "An invalid dataloader was passed to `Trainer.fit(train_dataloaders=...)`. Found 3.",
        {"data": 3},
    ),
    "object of a hook": (
        with_member("train_dataloader", lambda: 3),
        "An invalid dataloader was returned from `Module.train_dataloader()`. Found 3.",
        {"data": None},
    ),
    "one after the other": (
        Module,
        'FitLoop` does not support the `CombinedLoader(mode="sequential")` mode',
        {"data": lambda: CombinedLoader([loader()], "sequential")},
    ),
    "part of a stream": (
        Module,
        "When using an `IterableDataset`, `Trainer(limit_train_batches)` must be `1.0` or an int",
        {"data": lambda: DataLoader(Stream(), batch_size=None), "limit_train_batches": 0.5},
    ),
    "too small a part": (
        Module,
        "You requested to check 0.1 of the `train_dataloader` but 0.1 * 4 < 1.",
        {"limit_train_batches": 0.1},
    ),
    "interval of validations": (
        Module,
        "`val_check_interval` (5) must be less than or equal to the number of the training batches (4)",
        {"val_check_interval": 5},
    ),
    "part of a stream to validate after": (
        Module,
        "When using an IterableDataset for `train_dataloader`, `Trainer(val_check_interval)` must be ",
        {"data": lambda: DataLoader(Stream(), batch_size=None), "val_check_interval": 0.5},
    ),
    "checkpoint of another module": (
        with_member("layer", torch.nn.Linear(2, 2)),
        "size mismatch",
        {"ckpt_path": "other.ckpt"},
    ),
    "no checkpoint": (Module, "Checkpoint file not found: no.ckpt", {"ckpt_path": "no.ckpt"}),
    "text": (logs("x", "good"), "`self.log(x, good)` was called, but `str` values cannot be logged", {}),
    "vector": (logs("x", torch.ones(2)), "was called, but the tensor must have a single element", {}),
    "index in a name": (logs("x/dataloader_idx_0", 1.0), "You called `self.log` with the key `x/dataloader_idx_0`", {}),
    "neither": (logs("x", 1.0, on_step=False, on_epoch=False), "`self.log(on_step=False, on_epoch=False)`", {}),
    "reduction": (logs("x", 1.0, reduce_fx="median"), "Only `self.log(..., reduce_fx={min,max,mean,sum})`", {}),
    "step without a step": (
        logs("x", 1.0, "on_train_epoch_end", on_step=True),
        "You can't `self.log(on_step=True)` inside `on_train_epoch_end`",
        {},
    ),
    "metric of nobody": (
        logs("x", MeanMetric),
        "You can fix this by setting an attribute for the metric in your `LightningModule`",
        {},
    ),
    "name twice": (
        logs_twice,
        "You called `self.log(same, ...)` twice in `training_step` with different arguments",
        {},
    ),
    "metric without a tensor": (
        with_metric(lambda: (torch.ones(1), torch.ones(1))),
        "return of the metric logged as 'mean' must be a tensor",
        {},
    ),
}


def raised_by(make: Callable[[], Any], arguments: dict[str, Any]) -> Exception:
    given = {**ARGUMENTS, "max_epochs": 1, **arguments}
    if given.get("ckpt_path") == "other.ckpt":
        other = pl.Trainer(**ARGUMENTS)
        other.fit(Module(), loader(), loader(2))
        other.save_checkpoint("other.ckpt")
    data, ckpt_path = given.pop("data", loader), given.pop("ckpt_path", None)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        pl.Trainer(**given).fit(make(), data() if callable(data) else data, loader(2), ckpt_path=ckpt_path)
    return caught.value


@pytest.mark.parametrize("name", CASES)
def test_is_caught_as_lightnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make, sentence, arguments = CASES[name]
    monkeypatch.chdir(tmp_path)
    theirs = raised_by(make, arguments)
    assert sentence in str(theirs)
    with lightning_shim.patched(trainer=True):
        ours = raised_by(make, arguments)
    assert isinstance(ours, LightningShimError)
    assert isinstance(ours, type(theirs))
    assert sentence in str(ours)


def test_is_caught_in_both_namespaces() -> None:
    exceptions = pytest.importorskip("lightning.pytorch.utilities.exceptions")
    for error in (ConfigurationError("wrong"), MetricError("wrong"), CheckpointError("wrong")):
        assert isinstance(error, MisconfigurationException)
        assert isinstance(error, exceptions.MisconfigurationException)


def test_survives_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(CheckpointError("no file", FileNotFoundError)))
    assert isinstance(error, CheckpointError)
    assert isinstance(error, FileNotFoundError)
    assert not isinstance(error, MisconfigurationException)
    assert str(error) == "no file"

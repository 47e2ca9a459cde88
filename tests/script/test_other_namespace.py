"""Objects of ``lightning.pytorch`` given to a Trainer of ``pytorch_lightning``, and the other way round.

Lightning calls hooks by their names, whichever namespace a callback is of, and tells its own classes by ``isinstance``.
Before 2.6 its Trainer refuses callbacks of the other one.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as other
import pytest
import pytorch_lightning as pl
import torch
from lightning.pytorch import callbacks
from torch.utils.data import DataLoader, TensorDataset

from tests.script.test_trainer_object import ARGUMENTS, attributes, loader
from tests.support.installed_versions import has_lightning
from tests.support.namespaces import NAMESPACES

Made = Callable[[], Any]


class Watches(other.Callback):
    """A user's own: it logs, and has a hook that the namespaces' base classes have too."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.log("mean", float(trainer.global_step), on_epoch=True)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.seen.append(sorted(trainer.callback_metrics))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}


CALLBACKS: dict[str, Made] = {
    "a user's own": Watches,
    "LambdaCallback": lambda: callbacks.LambdaCallback(
        on_validation_end=lambda trainer, module: module.set_after.append(trainer.global_step)
    ),
    "ModelCheckpoint": lambda: callbacks.ModelCheckpoint("own", monitor="val_loss", save_top_k=2, save_last=True),
    "a second ModelCheckpoint": callbacks.ModelCheckpoint,
    "EarlyStopping": lambda: callbacks.EarlyStopping("val_loss", stopping_threshold=1e9),
    "EarlyStopping, in training": lambda: callbacks.EarlyStopping(
        "loss", stopping_threshold=1e9, check_on_train_epoch_end=True
    ),
    "StochasticWeightAveraging": lambda: callbacks.StochasticWeightAveraging(1e-2, swa_epoch_start=1),
    "LearningRateMonitor": lambda: callbacks.LearningRateMonitor("step"),
    "GradientAccumulationScheduler": lambda: callbacks.GradientAccumulationScheduler({0: 2}),
    "BackboneFinetuning": lambda: callbacks.BackboneFinetuning(1),
    "Timer": lambda: callbacks.Timer("00:00:00:00"),
    "TQDMProgressBar": callbacks.TQDMProgressBar,
    "BatchSizeFinder": callbacks.BatchSizeFinder,
}


def module_of(lightning: Any) -> Any:
    """Makes a module with batch normalization, whose backbone can be frozen."""

    class Layers(lightning.LightningModule):  # type: ignore[misc]  # it is not known before
        def __init__(self) -> None:
            super().__init__()
            self.backbone = torch.nn.Linear(3, 3)
            self.head = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
            self.set_after: list[int] = []
            self.lr = 0.05

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.head(self.backbone(batch[0])).square().mean()
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.head(self.backbone(batch[0])).mean())

        def configure_optimizers(self) -> Any:
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            optimizer = torch.optim.SGD(trained, self.lr)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    return Layers()


def pairs(batches: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(batches * 6.0).view(-1, 3) / 10), batch_size=2)


def outcome(lightning: Any, module: Any, callback: Any = None, **options: Any) -> Any:
    """Fits, and returns all that can be seen of it, or the error."""
    own: dict[str, Any] = {"enable_checkpointing": True, "logger": pl.loggers.CSVLogger("logs"), "max_epochs": 3}
    arguments = {**ARGUMENTS, **own, "log_every_n_steps": 1, **options}
    try:
        trainer = lightning.Trainer(**arguments, callbacks=[callback] if callback else None)
        trainer.fit(module, pairs(4), pairs(2))
    except Exception as error:
        return type(error).__name__, re.sub("0x[0-9a-f]+", "", str(error))
    table = Path("logs/lightning_logs/version_0/metrics.csv")
    return (
        attributes(trainer),
        module.state_dict(),
        module.set_after,
        [type(each).__name__ for each in trainer.callbacks],
        callback.state_dict() if isinstance(callback, (Watches, callbacks.EarlyStopping)) else None,
        sorted(str(path) for path in Path().rglob("*") if path.is_file()),
        table.read_text() if table.exists() else None,
        torch.get_rng_state(),
    )


@pytest.mark.parametrize("name", CALLBACKS)
def test_callback(compared: Any, name: str) -> None:
    seen = compared(lambda: outcome(pl, module_of(pl), CALLBACKS[name]()))
    failing = {"a second ModelCheckpoint", "GradientAccumulationScheduler", "BatchSizeFinder"}
    assert (len(seen) == 2) == (name in failing or not has_lightning(">=2.6"))


@pytest.mark.lightning(">=2.6")
def test_search_for_a_learning_rate(compared: Any) -> None:
    def script() -> Any:
        finder = callbacks.LearningRateFinder(num_training_steps=30, max_lr=0.5)
        module = module_of(pl)
        trainer = pl.Trainer(**ARGUMENTS, callbacks=[finder])
        trainer.fit(module, pairs(40), pairs(2))
        return module.lr, module.state_dict(), attributes(trainer), finder in trainer.callbacks

    assert compared(script)[0] != 0.05


@pytest.mark.lightning(">=2.6")
def test_callback_of_the_older_namespace(compared: Any) -> None:
    class Own(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            module.set_after.append(trainer.global_step)

    assert len(compared(lambda: outcome(other, module_of(other), Own()))[2]) == 12


@pytest.mark.parametrize("namespaces", [NAMESPACES, NAMESPACES[::-1]])
def test_module(compared: Any, namespaces: tuple[str, str]) -> None:
    of_trainer, of_module = map(importlib.import_module, namespaces)
    assert compared(lambda: outcome(of_trainer, module_of(of_module)))[0] == "TypeError"


@pytest.mark.parametrize("is_boring", [False, True])
def test_no_module(compared: Any, is_boring: bool) -> None:
    """One of Lightning's demonstrations gets a sentence about the import."""
    demonstration = importlib.import_module("lightning.pytorch.demos.boring_classes").BoringModel

    def script() -> Any:
        with pytest.raises(TypeError) as error:
            pl.Trainer(**ARGUMENTS).fit(demonstration() if is_boring else torch.nn.Linear(1, 1), loader())
        return str(error.value)

    compared(script)


@pytest.mark.parametrize(
    "options",
    [
        lambda: {"logger": other.loggers.CSVLogger("logs")},
        lambda: {"profiler": other.profilers.PassThroughProfiler()},
        lambda: {"plugins": [other.plugins.TorchCheckpointIO()]},
        lambda: {"plugins": [other.plugins.MixedPrecision("bf16-mixed", "cpu")]},
    ],
    ids=["logger", "profiler", "checkpoints", "precision"],
)
def test_argument(compared: Any, options: Made) -> None:
    compared(lambda: outcome(pl, module_of(pl), **options()))

"""How long training lasts, how often it validates, and what the trainer tells the module of it in every hook."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from torch.utils.data import DataLoader

from tests.parity.combined import Stream
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.parity.runs import forget_last_validation, keeping, run_determined_by, run_lightning_by_steps
from tests.support.hooks import HOOKS_OF_FIT
from tests.support.installed_versions import has_lightning

BATCHES_OF_AN_EPOCH = 6


class StepsSchedule(Regression):
    """Has what ends an epoch: a schedule by epoch, and values logged at its end."""

    def on_train_epoch_end(self) -> None:
        self.log("at_the_end", float(self.global_step))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        steps = self.trainer.estimated_stepping_batches
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps + 1),
                "interval": "step",
            },
        }


@pytest.mark.parametrize("batches", [1, 4, 7, 8, 17])
def test_ends_within_an_epoch(mocker: MockerFixture, batches: int) -> None:
    assert batches % BATCHES_OF_AN_EPOCH
    case = Case(StepsSchedule, loaders)
    lightning = run_lightning_by_steps(case, batches)
    determined = run_determined_by(case, mocker, pytorch.Batch(batches))
    forget_last_validation(lightning, determined)
    assert_equal(lightning, determined)


@pytest.mark.parametrize("batches", [6, 12])
def test_ends_with_an_epoch(mocker: MockerFixture, batches: int) -> None:
    case = Case(StepsSchedule, loaders)
    lightning = run_lightning_by_steps(case, batches)
    assert_equal(lightning, run_determined_by(case, mocker, pytorch.Batch(batches)))


class SchedulesByEpoch(Regression):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def test_schedule_by_epoch_of_an_epoch_cut_short(mocker: MockerFixture) -> None:
    case = Case(SchedulesByEpoch, loaders)
    lightning = run_lightning_by_steps(case, 8)
    determined = run_determined_by(case, mocker, pytorch.Batch(8))
    forget_last_validation(lightning, determined)
    assert_equal(lightning, determined)


@pytest.mark.parametrize(("batches", "steps"), [(8, 4), (12, 6)])
def test_accumulation(mocker: MockerFixture, batches: int, steps: int) -> None:
    """Lightning counts optimizer steps, Determined batches."""
    case = Case(StepsSchedule, loaders, options={"accumulate_grad_batches": 2})
    lightning = run_lightning_by_steps(case, steps)
    determined = run_determined_by(case, mocker, pytorch.Batch(batches))
    if batches % BATCHES_OF_AN_EPOCH:
        forget_last_validation(lightning, determined)
    # Lightning logs under the number of steps, Determined under the number of batches.
    lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


@pytest.mark.parametrize("epochs", [3, 4])
def test_validation_every_second_epoch(mocker: MockerFixture, epochs: int) -> None:
    lightning = run_lightning(Case(Regression, loaders, epochs, {"check_val_every_n_epoch": 2}))
    case = Case(Regression, loaders)
    determined = run_determined_by(case, mocker, pytorch.Epoch(epochs), validation_period=pytorch.Epoch(2))
    if epochs % 2:
        forget_last_validation(lightning, determined)
    assert_equal(lightning, determined)


@pytest.mark.parametrize("interval", [4, 5, 7])
def test_interval_that_does_not_divide_the_training(mocker: MockerFixture, interval: int) -> None:
    case = Case(Regression, loaders, validation=interval)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    forget_last_validation(lightning, determined)
    assert_equal(lightning, determined)


# What the module can ask its trainer, and has to get the same answer in every hook.
ANSWERS: dict[str, Callable[[Any], Any]] = {
    **{
        name: lambda trainer, name=name: getattr(trainer, name)  # type: ignore[misc]
        for name in (
            "max_epochs",
            "max_steps",
            "num_val_batches",
            "num_sanity_val_batches",
            "is_last_batch",
            "world_size",
            "num_nodes",
            "num_devices",
            "global_rank",
            "local_rank",
            "node_rank",
            "is_global_zero",
            "training",
            "validating",
            "testing",
            "predicting",
            "evaluating",
            "sanity_checking",
            "fast_dev_run",
            "should_stop",
            "current_epoch",
            "global_step",
            "default_root_dir",
            "accumulate_grad_batches",
            "gradient_clip_val",
            "limit_train_batches",
            "limit_val_batches",
            "val_check_interval",
            "check_val_every_n_epoch",
            # Before 2.6 Lightning's Trainer has it only when the loaders are there.
            *(["val_check_batch"] if has_lightning(">=2.6") else []),
            "precision",
            "datamodule",
            "enable_validation",
        )
    },
    "state.fn": lambda trainer: str(trainer.state.fn),
    "state.stage": lambda trainer: str(trainer.state.stage),
    "state.status": lambda trainer: str(trainer.state.status),
    "val_dataloaders": lambda trainer: type(trainer.val_dataloaders).__name__,
    "callbacks": lambda trainer: [type(callback).__name__ for callback in trainer.callbacks],
    "optimizers": lambda trainer: [type(optimizer).__name__ for optimizer in trainer.optimizers],
    "lr_scheduler_configs": lambda trainer: [config.interval for config in trainer.lr_scheduler_configs],
    "lightning_module": lambda trainer: type(trainer.lightning_module).__name__,
    "root_device": lambda trainer: str(trainer.strategy.root_device),
    "callback_metrics": lambda trainer: {key: float(value) for key, value in trainer.callback_metrics.items()},
    "logged_metrics": lambda trainer: {key: float(value) for key, value in trainer.logged_metrics.items()},
    "progress_bar_metrics": lambda trainer: dict(trainer.progress_bar_metrics),
    # Other objects on the two sides, but there on both.
    "logger": lambda trainer: trainer.logger is not None,
    "loggers": lambda trainer: len(trainer.loggers),
    "loggers[0]": lambda trainer: trainer.loggers[0] is trainer.logger,
}

Seen = list[tuple[str, dict[str, Any]]]


def asking(seen: Seen) -> type:
    """Makes a class that asks the trainer everything in every hook."""

    def method(hook: str) -> Callable[..., Any]:
        original = getattr(StepsSchedule, hook)

        @functools.wraps(original)
        def asks(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append((hook, {name: answer(self.trainer) for name, answer in ANSWERS.items()}))
            return original(self, *args, **kwargs)

        return asks

    return type("Asks", (StepsSchedule,), {hook: method(hook) for hook in HOOKS_OF_FIT})


LENGTHS: list[tuple[str, int, dict[str, Any]]] = [
    ("epochs", 2, {}),
    ("epochs", 2, {"accumulate_grad_batches": 4}),
    ("epochs", 2, {"limit_train_batches": 3, "limit_val_batches": 2}),
    ("batches", 12, {}),
]


@pytest.mark.parametrize(("unit", "length", "options"), LENGTHS, ids=str)
@pytest.mark.versions
def test_answers_of_the_trainer(mocker: MockerFixture, unit: str, length: int, options: dict[str, Any]) -> None:
    lightning: Seen = []
    determined: Seen = []
    for seen in (lightning, determined):
        case = Case(asking(seen), loaders, max_epochs=length, options=options, every_hook=False)
        if seen is lightning:
            run_lightning(case) if unit == "epochs" else run_lightning_by_steps(case, length)
        else:
            run_determined(case, mocker) if unit == "epochs" else run_determined_by(case, mocker, pytorch.Batch(length))
    assert [hook for hook, _ in determined] == [hook for hook, _ in lightning]
    different = [
        f"{name} in {hook} (hook {index}): {actual[name]!r} is not {expected[name]!r}"
        for index, ((hook, expected), (_, actual)) in enumerate(zip(lightning, determined, strict=True))
        for name in ANSWERS
        if actual[name] != expected[name] and (name, hook) != ("is_last_batch", "on_train_epoch_start")
    ]
    assert not different, "\n".join(different)


class AsksAboutBatches(Regression):
    """Makes its data in ``setup``, and asks about batches all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any, str]] = []

    def ask(self, hook: str) -> None:
        self.seen.append((hook, self.trainer.num_training_batches, type(self.trainer.train_dataloader).__name__))

    def prepare_data(self) -> None:
        self.ask("prepare_data")

    def setup(self, stage: str) -> None:
        self.ask("setup")
        self.data = loaders()

    def train_dataloader(self) -> Any:
        return self.data["train_dataloaders"]

    def val_dataloader(self) -> Any:
        return self.data["val_dataloaders"]

    def configure_model(self) -> None:
        self.ask("configure_model")

    def configure_optimizers(self) -> Any:
        self.ask("configure_optimizers")
        return super().configure_optimizers()

    def on_fit_start(self) -> None:
        self.ask("on_fit_start")

    def on_train_start(self) -> None:
        self.ask("on_train_start")

    def on_train_epoch_end(self) -> None:
        self.ask("on_train_epoch_end")

    def on_fit_end(self) -> None:
        self.ask("on_fit_end")


def test_loaders_are_not_asked_for_early(mocker: MockerFixture) -> None:
    made: list[Any] = []
    case = Case(keeping(AsksAboutBatches, made), dict, max_epochs=2, every_hook=False)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    assert made[1].seen == made[0].seen
    assert_equal(lightning, determined)


class AsksAboutSteps(Regression):
    validation_step = pl.LightningModule.validation_step

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.log("steps", float(self.trainer.estimated_stepping_batches))
        self.log("batches", float(self.trainer.num_training_batches))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_limit_of_a_loader_without_a_length(mocker: MockerFixture, accumulate: int) -> None:
    """The limit is then the number of batches of an epoch."""
    options = {"limit_train_batches": 4, "accumulate_grad_batches": accumulate}
    case = Case(AsksAboutSteps, lambda: {"train_dataloaders": DataLoader(Stream(), batch_size=4)}, 2, options)
    lightning = run_lightning(case, max_steps=8 if accumulate == 1 else 4)
    assert lightning.logged_metrics["batches"] == 4
    determined = run_determined_by(case, mocker, pytorch.Batch(8))
    # Lightning logs under the number of steps, Determined under the number of batches.
    lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


class EstimatesFirst(Regression):
    validation_step = pl.LightningModule.validation_step

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps + 1)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_estimate_of_a_loader_without_a_length(mocker: MockerFixture, accumulate: int) -> None:
    options = {"accumulate_grad_batches": accumulate}
    data = lambda: {"train_dataloaders": DataLoader(Stream(), batch_size=2)}  # noqa: E731
    case = Case(EstimatesFirst, data, options=options, every_hook=False)
    lightning = run_lightning_by_steps(case, 8 // accumulate)
    determined = run_determined_by(case, mocker, pytorch.Batch(8))
    lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


class AsksAtTheStartOfAnEpoch(Regression):
    def on_train_epoch_start(self) -> None:
        self.log("is_last_batch", float(self.trainer.is_last_batch))


def test_is_last_batch_at_the_start_of_an_epoch(mocker: MockerFixture) -> None:
    """It is what it was when the epoch before ended."""
    case = Case(AsksAtTheStartOfAnEpoch, loaders, every_hook=False)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class AsksForTheLeastLength(Regression):
    def on_train_epoch_start(self) -> None:
        assert self.trainer.min_steps is None
        self.log("at_least", float(self.trainer.min_epochs >= self.current_epoch))


def test_min_epochs(mocker: MockerFixture) -> None:
    case = Case(AsksForTheLeastLength, loaders, every_hook=False)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class AsksForFolders(Regression):
    def on_fit_start(self) -> None:
        self.log_dir = self.trainer.log_dir
        self.check()

    def on_train_epoch_start(self) -> None:
        self.check()

    def on_validation_epoch_end(self) -> None:
        self.check()

    def on_fit_end(self) -> None:
        self.check()

    def check(self) -> None:
        assert self.trainer.log_dir == self.log_dir
        assert self.trainer.default_root_dir == str(Path.cwd())
        assert self.trainer.logger.save_dir is None or isinstance(self.trainer.logger.save_dir, str)


def test_folders(mocker: MockerFixture) -> None:
    """They are others than Lightning's, but stay what they are while the training runs."""
    made: list[Any] = []
    run_determined(Case(keeping(AsksForFolders, made), loaders, every_hook=False), mocker)
    assert Path(made[0].log_dir).is_dir()

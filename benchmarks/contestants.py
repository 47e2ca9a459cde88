"""The contestants: each trains, or validates, on batches that note when they are fetched."""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytorch_lightning as pl
import torch
from determined import pytorch
from torch import nn
from torch.utils.data import DataLoader

import lightning_shim
from benchmarks.models import Batch, BenchmarkModule, LossModule, Subject, ValidatedModule, names_of, optimizer_of

REPORTING_PERIOD: Final = 100
"""Steps between two reports, of those that report."""


class TimedBatches:
    """Batches in memory, given in turn; each notes when it is asked for.

    Args:
        batches: The batches.
        count: How many are given in one pass.

    Attributes:
        times: When they were asked for in the last pass, in nanoseconds.
    """

    def __init__(self, batches: Sequence[Batch], count: int) -> None:
        self._batches = batches
        self._count = count
        self.times: array[int] = array("q")

    def one(self) -> TimedBatches:
        """Returns a loader of the first batch alone, whose times nobody looks at."""
        return TimedBatches(self._batches, 1)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        self.times = array("q")
        number = len(self._batches)
        for index in range(self._count):
            self.times.append(time.perf_counter_ns())
            yield self._batches[index % number]


@dataclass(frozen=True)
class Task:
    """One run of a contestant.

    Attributes:
        subject: What is trained.
        logs: Values that are logged in a step.
        timed: The batches that note the times: of training, or of validation.
        validates: Which of the two it is.
    """

    subject: Subject
    logs: int
    timed: TimedBatches
    validates: bool

    @property
    def training_batches(self) -> TimedBatches:
        """The batches to train on: one, where validation is what is timed."""
        return self.timed.one() if self.validates else self.timed

    @property
    def validation_batches(self) -> TimedBatches:
        """The batches to validate on: one, where training is what is timed."""
        return self.timed if self.validates else self.timed.one()

    def lightning_module(self) -> pl.LightningModule:
        """Makes the LightningModule."""
        return (ValidatedModule if self.validates else BenchmarkModule)(self.subject, self.logs)


def run_plain(task: Task) -> None:
    """Runs a loop as one writes it by hand, which sums up what it logs on the device."""
    model = LossModule(task.subject)
    optimizer = optimizer_of(model)
    names = names_of(task.logs)
    totals: dict[str, Any] = dict.fromkeys(names, 0.0)
    if task.validates:
        model.eval()
        with torch.no_grad():
            for batch in task.timed:
                loss = model(batch)
                for name in names:
                    totals[name] += loss
        return
    for batch in task.timed:
        optimizer.zero_grad()
        loss = model(batch)
        loss.backward()
        optimizer.step()
        for name in names:
            totals[name] += loss.detach()


class _Forever:
    """What Determined iterates: batches without end, of which an epoch has as many as are timed."""

    def __init__(self, batches: TimedBatches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self._batches


class _ValidationLoader(DataLoader[Any]):
    """Determined insists on a DataLoader."""

    def __init__(self, batches: TimedBatches) -> None:
        super().__init__([], batch_size=None)  # type: ignore[arg-type]
        self._batches = batches

    def __iter__(self) -> Any:
        return iter(self._batches)


class HandWrittenTrial(pytorch.PyTorchTrial):
    """A PyTorchTrial as Determined's documentation writes it.

    Args:
        context: Determined's trial context.
        task: What is trained.
    """

    def __init__(self, context: pytorch.PyTorchTrialContext, task: Task) -> None:
        self._context = context
        self._task = task
        self._names = names_of(task.logs)
        context.experimental.disable_dataset_reproducibility_checks()
        self._model: nn.Module = context.wrap_model(LossModule(task.subject))
        self._optimizer = context.wrap_optimizer(optimizer_of(self._model))

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        """Trains on a batch."""
        loss = self._model(batch)
        self._context.backward(loss)
        self._context.step_optimizer(self._optimizer)
        return dict.fromkeys(self._names, loss)

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Validates a batch."""
        loss = self._model(batch)
        return dict.fromkeys(self._names, loss)

    def build_training_data_loader(self) -> Any:
        """Gives the batches of training."""
        return _Forever(self._task.training_batches)

    def build_validation_data_loader(self) -> Any:
        """Gives the batches of validation."""
        return _ValidationLoader(self._task.validation_batches)


class FloorTrial(HandWrittenTrial):
    """The plain loop's step in Determined's own loop, without the help of Determined's context: the least it costs."""

    def __init__(self, context: pytorch.PyTorchTrialContext, task: Task) -> None:
        super().__init__(context, task)
        context.experimental.disable_auto_to_device()
        self._totals: dict[str, Any] = dict.fromkeys(self._names, 0.0)

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        """Trains on a batch."""
        self._optimizer.zero_grad()
        loss = self._model(batch)
        loss.backward()
        self._optimizer.step()
        for name in self._names:
            self._totals[name] += loss.detach()
        return {}

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Validates a batch."""
        loss = self._model(batch)
        for name in self._names:
            self._totals[name] += loss
        return {}


def _length(task: Task) -> pytorch.Batch:
    return pytorch.Batch(len(task.training_batches))


def _run_trial(trial_class: Callable[[Any, Task], pytorch.PyTorchTrial], task: Task) -> None:
    with pytorch.init() as context:
        context.set_enable_tensorboard_logging(False)
        trial = trial_class(context, task)
        pytorch.Trainer(trial, context).fit(
            max_length=_length(task),
            reporting_period=pytorch.Batch(REPORTING_PERIOD),
            checkpoint_policy="none",
        )


def run_hand_written(task: Task) -> None:
    """Runs a PyTorchTrial that is written by hand."""
    _run_trial(HandWrittenTrial, task)


def run_floor(task: Task) -> None:
    """Runs the plain loop's step in Determined's loop."""
    _run_trial(FloorTrial, task)


def _lightning_trial(context: pytorch.PyTorchTrialContext, task: Task) -> lightning_shim.LightningTrial:
    return lightning_shim.LightningTrial(
        context,
        task.lightning_module(),
        train_dataloaders=task.training_batches,
        val_dataloaders=task.timed if task.validates else None,
        max_length=_length(task),
        reporting_period=pytorch.Batch(REPORTING_PERIOD),
    )


def run_lightning_trial(task: Task) -> None:
    """Runs LightningTrial."""
    with lightning_shim.patched():
        _run_trial(_lightning_trial, task)


def run_lightning(task: Task) -> None:
    """Runs Lightning's own Trainer, with everything off that is optional."""
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        log_every_n_steps=REPORTING_PERIOD,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task.lightning_module(), task.training_batches, task.timed if task.validates else None)


CONTESTANTS: Final[dict[str, Callable[[Task], None]]] = {
    "plain loop": run_plain,
    "PyTorchTrial": run_hand_written,
    "LightningTrial": run_lightning_trial,
    "pl.Trainer": run_lightning,
    "floor": run_floor,
}
"""By the names of the table: (a) to (d) of the comparison, and what Determined's loop costs by itself."""


def silence() -> None:
    """Keeps what the contestants say of a training out of the table."""
    for name in ("pytorch_lightning", "lightning.pytorch", "determined", "lightning_shim"):
        logging.getLogger(name).setLevel(logging.ERROR)

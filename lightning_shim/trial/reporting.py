"""The reports to Determined: step values at its reporting period, and an epoch's values at the epoch's end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from determined import pytorch

from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.loop.epoch_outputs import StepOutputs
from lightning_shim.loop.optimization import Optimization
from lightning_shim.loop.runtime import Runtime
from lightning_shim.metrics.lightning_loggers import Loggers
from lightning_shim.metrics.shown_values import ShownValues
from lightning_shim.session.progress_bar import ProgressBar
from lightning_shim.trial.journal import Entry, Journal
from lightning_shim.upstream.determined.context import report_training_metrics

_DETERMINED_COUNTS: Final = frozenset({"batches", "epochs"})
"""The counts that Determined adds to every report."""

_SECONDS_BETWEEN_LOOKS: Final = 1.0
"""How old the values behind the progress bar become before newer ones are fetched."""


class Reports:
    """Reports the metrics of a trial.

    Attributes:
        metrics: The newest value of each reported metric, by name.
    """

    def __init__(self, runtime: Runtime, loggers: Loggers, optimization: Optimization, journal: Journal) -> None:
        session = runtime.session
        self.metrics: Final[dict[str, float]] = {}
        self._session: Final = session
        self._context: Final = session.context
        self._controller: Final = session.controller
        self._progress: Final = session.progress
        self._store: Final = runtime.metrics
        self._loggers: Final = loggers
        self._optimization: Final = optimization
        self._journal: Final = journal
        self._device: Final = runtime.strategy.root_device
        self._shown: ShownValues | None = None
        self._is_trained = False
        self._next_look = 0.0
        self._is_alone: Final = session.world_size == 1
        self._reported: frozenset[str] = frozenset()
        training = _Reducer(self.step_values, self.reduce_step_values)
        self._context.wrap_reducer(training, for_validation=False)
        validation = _Reducer(self.validation_values, self.reduce_validation_values)
        self._context.wrap_reducer(validation, for_training=False)

    def show_progress(self) -> None:
        """Shows a progress bar until :meth:`hide_progress` is called."""
        self._session.progress_bar = ProgressBar()
        self._shown = ShownValues(self._device)

    def hide_progress(self) -> None:
        """Closes the progress bar if there is one."""
        if self._session.progress_bar is not None:
            self._session.progress_bar.close()
        self._session.progress_bar = self._shown = None

    def end_batch(self, outputs: StepOutputs, is_trained: bool) -> dict[str, Any]:
        """Ends a training batch: advances the progress bar, and gives Lightning's loggers their values.

        It returns the metrics for Determined, which are none, so that nothing is copied to the host. With several
        processes Determined cannot average an empty dictionary, so it gets its own count of batches, whose average
        :meth:`reduce_step_values` corrects in the report. A batch that is not trained on is only counted, in an epoch
        that has ended.
        """
        if self._shown is not None:
            self._show(self._shown, outputs)
        self._is_trained = is_trained
        if self._loggers.loggers and is_trained and self._progress.batch_end_is_due and self._is_logging_time():
            self._loggers.log_metrics(self._store.training.collect(on_step=True).logged)
        return {} if self._is_alone else {"batches": self._controller.batches_trained + 1}

    def _show(self, shown: ShownValues, outputs: StepOutputs) -> None:
        """Shows the batch in the progress bar, with the values of a batch that the device is done with."""
        bar = self._session.progress_bar
        assert bar is not None
        now = time.monotonic()
        if now >= self._next_look and outputs and not shown.is_under_way:
            self._next_look = now + _SECONDS_BETWEEN_LOOKS
            shown.send({**self._loss_in(outputs), **self._store.training.shown_step_values()})
        if shown.is_under_way:
            values = shown.take()
            if values is not None:
                bar.show(values)
        bar.advance(self._progress.batch_idx + 1)

    def _loss_in(self, outputs: StepOutputs) -> dict[str, Any]:
        """Returns the loss of the batch's last split and optimizer that had one, as ``training_step`` returned it."""
        losses = [output["loss"] for split in outputs for output in split if output and "loss" in output]
        # By automatic optimization it has been divided, for the gradients.
        is_divided = self._session.module.automatic_optimization
        divisor = self._optimization.accumulate_grad_batches if is_divided else 1
        return {"loss": losses[-1] * divisor if divisor > 1 else losses[-1]} if losses else {}

    def _is_logging_time(self) -> bool:
        """Whether Lightning would pass the values of the last step to its loggers."""
        if self._session.module.automatic_optimization and self._optimization.should_accumulate():
            return False
        return bool(self._session.trainer._logger_connector.should_update_logs)

    def remember(self, entry: Entry, metrics: Mapping[str, Any]) -> None:
        """Keeps and shows what has been reported."""
        values = {name: float(value) for name, value in metrics.items() if name not in _DETERMINED_COUNTS}
        self.metrics.update(values)
        if self._shown is not None:
            bar = self._session.progress_bar
            assert bar is not None
            # Those on the way are older.
            self._shown.drop()
            bar.show(self._session.trainer.progress_bar_metrics)
        # Determined also asks where nothing is to be reported, and validates modules that have no validation.
        if values or (entry is Entry.VALIDATION and self._progress.has_validated):
            self._journal.values(entry, values)

    def report_epoch(self) -> None:
        """Reduces and reports the values of a training epoch.

        Determined has reported the last step's values before the validation, so this is a second report for the same
        batch. It takes each name once: a name that is in both reports goes to TensorBoard only, with a warning.
        """
        collector = self._store.training
        self._store.synchronise()
        views = collector.collect(on_step=False)
        self._store.views.update(views)
        # The next step has been counted already, but Lightning logs an epoch's values under the epoch's last one.
        self._loggers.log_metrics(views.logged, steps_back=1)
        values = {name: float(value) for name, value in views.logged.items()}
        if self._session.global_rank == 0:
            report_training_metrics(self._context, self._controller.batches_trained, values, self._reported)
        twice = sorted(values.keys() & self._reported)
        if twice:
            warn_at_caller(
                f"{', '.join(twice)}: logged for each step and again at the end of the epoch under the same name. "
                "Determined takes one value per name and batch, and gets the step's; the epoch's goes to TensorBoard "
                "only. Give it a name of its own."
            )
        self.remember(Entry.EPOCH, {name: value for name, value in values.items() if name not in self._reported})

    def step_values(self) -> Any:
        """Returns this process's step values at the end of a reporting period, otherwise none."""
        # Determined asks whenever it leaves the batches, so also before a validation or a checkpoint.
        if not self._progress.batch_end_is_due:
            # The epoch has ended early, and Determined only counts the rest of its batches.
            return {}
        if not self._controller.is_reporting_time(self._is_trained, self._progress.is_last_batch):
            return {}
        return self._store.training.step_values()

    def reduce_step_values(self, shares: list[Any]) -> dict[str, float]:
        """Returns the step values to report, which are those of rank 0, as in Lightning."""
        # Values with sync_dist=True have been reduced over the processes when they were logged.
        values: dict[str, Any] = dict(shares[0])
        self._reported = frozenset(values)
        if not self._is_alone:
            values["batches"] = self._controller.batches_trained
        return values

    def validation_values(self) -> Any:
        """Returns this process's share of the values of a validation."""
        return self._store.returned.collector.partial_epoch_values(only_synchronised=False)

    def reduce_validation_values(self, shares: list[Any]) -> dict[str, float]:
        """Reduces the shares of all processes, and makes the results visible to module and callbacks."""
        collector = self._store.returned.collector
        if len(shares) > 1:
            collector.merge_epoch_values(shares)
        views = collector.collect(on_step=False, every_dataloader=True)
        # Otherwise the values are what validation_step returned, which Lightning neither shows nor logs.
        if collector is self._store.collector:
            self._store.views.update(views)
            # Under the step of the last batch, which has been counted if its epoch ended early.
            self._loggers.log_metrics(views.logged, steps_back=self._progress.counts_last_batch)
        return {name: float(value) for name, value in views.logged.items()}


class _Reducer(pytorch.MetricReducer):
    """Reports values when Determined reports: those that ``train_batch`` returns are copied to the host each time."""

    def __init__(self, share: Callable[[], Any], reduce: Callable[[list[Any]], dict[str, float]]) -> None:
        self._share = share
        self._reduce = reduce

    def reset(self) -> None:
        """Does nothing, since the values are those of Lightning's epoch rather than of Determined's report."""

    def per_slot_reduce(self) -> Any:
        return self._share()

    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> dict[str, float]:
        return self._reduce(per_slot_metrics)

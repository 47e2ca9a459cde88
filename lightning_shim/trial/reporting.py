"""What is reported to Determined: step values at its reports, an epoch's values when the epoch has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from determined import pytorch

from lightning_shim.diagnostics.errors import DifferenceWarning
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.loop.optimization import Optimization
from lightning_shim.loop.runtime import Runtime
from lightning_shim.metrics.lightning_loggers import Loggers
from lightning_shim.session.progress_bar import ProgressBar
from lightning_shim.upstream.determined.context import report_training_metrics

_DETERMINED_COUNTS: Final = frozenset({"batches", "epochs"})
"""What Determined adds to every report."""


class Reports:
    """Reports the metrics of a trial.

    Args:
        runtime: The parts, of which the metrics are reported.
        loggers: Lightning's own loggers, which get the same.
        optimization: Knows whether a batch has only added to the gradients.

    Attributes:
        metrics: The newest value of everything that was reported, by name.
    """

    def __init__(self, runtime: Runtime, loggers: Loggers, optimization: Optimization) -> None:
        session = runtime.session
        self.metrics: Final[dict[str, float]] = {}
        self._session: Final = session
        self._context: Final = session.context
        self._controller: Final = session.controller
        self._progress: Final = session.progress
        self._store: Final = runtime.metrics
        self._loggers: Final = loggers
        self._optimization: Final = optimization
        self._is_alone: Final = session.world_size == 1
        self._reported: frozenset[str] = frozenset()
        self._context.wrap_reducer(_TrainingReducer(self), for_validation=False)
        self._context.wrap_reducer(_ValidationReducer(self), for_training=False)

    def show_progress(self, total: int | None) -> None:
        """Shows a progress bar until :meth:`hide_progress` is called.

        Args:
            total: The number of batches of the whole training, or None if it is not known.
        """
        self._session.progress_bar = ProgressBar(total)

    def hide_progress(self) -> None:
        """Closes the progress bar if there is one."""
        if self._session.progress_bar is not None:
            self._session.progress_bar.close()
        self._session.progress_bar = None

    def end_batch(self) -> dict[str, Any]:
        """Counts a training batch in the progress bar.

        Returns:
            What ``train_batch`` has to return: nothing, so that nothing is copied to the host. With several processes
            Determined cannot average nothing; it gets its own count, which :meth:`reduce_step_values` puts right in
            the report.
        """
        if self._session.progress_bar is not None:
            self._session.progress_bar.advance()
        if self._loggers.loggers and self._progress.batch_end_is_due and self._is_logging_time():
            self._loggers.log_metrics(self._store.training.collect(on_step=True).logged)
        return {} if self._is_alone else {"batches": self._controller.batches_trained + 1}

    def _is_logging_time(self) -> bool:
        """Tells whether Lightning would give its loggers the values of the step that has been trained last."""
        if self._session.module.automatic_optimization and self._optimization.should_accumulate():
            return False
        return bool(self._session.trainer._logger_connector.should_update_logs)

    def remember(self, metrics: Mapping[str, Any]) -> None:
        """Keeps and shows what has been reported.

        Args:
            metrics: The numbers by name, with Determined's own counts among them.
        """
        values = {name: float(value) for name, value in metrics.items() if name not in _DETERMINED_COUNTS}
        self.metrics.update(values)
        if self._session.progress_bar is not None:
            self._session.progress_bar.show(
                self._controller.batches_trained, self._session.trainer.progress_bar_metrics
            )

    def report_epoch(self) -> None:
        """Reduces and reports the values of a training epoch.

        Determined has reported the last step's values before its validation; this is a second report for the same
        batch, with other names. A name that both have cannot be reported twice: it goes to TensorBoard, with a warning.
        """
        collector = self._store.training
        self._store.synchronise()
        views = collector.collect(on_step=False)
        self._store.views.update(views)
        # The step has been counted, and Lightning logs an epoch's values under its last one.
        self._loggers.log_metrics(views.logged, steps_back=1)
        values = {name: float(value) for name, value in views.logged.items()}
        if self._session.global_rank == 0:
            report_training_metrics(self._context, self._controller.batches_trained, values, self._reported)
        twice = sorted(values.keys() & self._reported)
        if twice:
            warn_at_caller(
                f"{', '.join(twice)}: logged for each step and again at the end of the epoch under the same name. "
                "Determined takes one value of a name for a batch, and has the step's; the epoch's is in TensorBoard "
                "only. Give it a name of its own.",
                DifferenceWarning,
            )
        self.remember({name: value for name, value in values.items() if name not in self._reported})

    def step_values(self) -> Any:
        """Returns this process's step values if Lightning would log now; Determined also asks before validations."""
        if not self._progress.batch_end_is_due:
            # The batch was only counted, as the rest of an epoch that ended early.
            return {}
        if not self._controller.is_reporting_time(self._progress.is_last_batch):
            return {}
        return self._store.training.step_values()

    def reduce_step_values(self, shares: list[Any]) -> dict[str, float]:
        """Chooses the step values to report: rank 0's, as in Lightning; what is to be synchronised has been.

        Args:
            shares: What :meth:`step_values` returned on each process, by rank.

        Returns:
            The values to report, by name.
        """
        values: dict[str, Any] = dict(shares[0])
        self._reported = frozenset(values)
        if not self._is_alone:
            values["batches"] = self._controller.batches_trained
        return values

    def validation_values(self) -> Any:
        """Returns this process's share of the values of a validation."""
        return self._store.returned.collector.partial_epoch_values(only_synchronised=False)

    def reduce_validation_values(self, shares: list[Any]) -> dict[str, float]:
        """Reduces the shares of all processes, and shows the result to the module.

        Args:
            shares: What :meth:`validation_values` returned on each, by rank.

        Returns:
            The values to report, by name.
        """
        collector = self._store.returned.collector
        if len(shares) > 1:
            collector.merge_epoch_values(shares)
        views = collector.collect(on_step=False, every_dataloader=True)
        if collector is self._store.collector:
            self._store.views.update(views)
            # Under the step of the last batch, which has been counted if its epoch ended early.
            self._loggers.log_metrics(views.logged, steps_back=self._progress.counts_last_batch)
        return {name: float(value) for name, value in views.logged.items()}


class _Reducer(pytorch.MetricReducer):
    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def reset(self) -> None:
        """Does nothing: what is kept ends with Lightning's epoch, not with Determined's report."""


class _TrainingReducer(_Reducer):
    def per_slot_reduce(self) -> Any:
        return self._reports.step_values()

    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> dict[str, float]:
        return self._reports.reduce_step_values(per_slot_metrics)


class _ValidationReducer(_Reducer):
    def per_slot_reduce(self) -> Any:
        return self._reports.validation_values()

    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> dict[str, float]:
        return self._reports.reduce_validation_values(per_slot_metrics)

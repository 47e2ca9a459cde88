"""``self.logger`` on Determined: its TensorBoard writer and its metrics."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from lightning_shim.diagnostics.errors import MetricError, RefusedMemberError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.facade.delegation import delegates
from lightning_shim.members.query import find
from lightning_shim.session.session import Session
from lightning_shim.upstream.determined.context import (
    batches_trained,
    report_metrics,
    trial_id,
    write_tensorboard_files_to,
)
from lightning_shim.upstream.lightning import transferred_example

METRIC_GROUP: Final = "logger"
"""The group under which Determined shows the values of ``log_metrics``."""


class _SilentExperiment:
    """Replaces the writer on all ranks but the first, where Lightning's loggers write nothing either."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.numel() == 1)


@delegates({name: f"_places.{name}" for name in ("name", "version", "save_dir", "root_dir")})
class LoggerFacade:
    """Lightning's ``TensorBoardLogger``, backed by Determined, which writes for TensorBoard as well.

    It passes ``isinstance``, since modules check that before they call ``experiment.add_image`` and the like. Its files
    lie where those of Lightning's default logger would: in ``lightning_logs/version_N``. On a cluster ``N`` is the
    number of the trial, so that it is the same after a pause, and Determined keeps the files of TensorBoard elsewhere.
    """

    group_separator: Final = "/"

    def __init__(self, session: Session, default_root_dir: str) -> None:
        self._lightning: Final = session.lightning
        self._context: Final = session.context
        self._is_global_zero: Final = session.global_rank == 0
        # By name, the batch of the last report: Determined's master accepts a name once for each batch.
        self._reported: Final[dict[str, int]] = {}
        self._places: Final[Any] = session.lightning.TensorBoardLogger(default_root_dir, version=trial_id())
        if self._is_global_zero:
            write_tensorboard_files_to(session.context, self._places.log_dir)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self._lightning.TensorBoardLogger

    def __getattr__(self, name: str) -> Any:
        row = find("Logger", name)
        if row is None:
            raise AttributeError(
                f"{caller_location()}: the logger of a trial is Determined's TensorBoard, which has no {name!r}."
            )
        raise RefusedMemberError(f"{caller_location()}: logger.{name} is refused: {row.sentence}")

    @property
    def experiment(self) -> Any:
        """Determined's ``SummaryWriter``: ``add_figure``, ``add_image``, ``add_histogram``, ``add_text``, ...

        It also has ``log``, as wandb's experiments do, which records the numbers and warns about the rest.
        """
        if not self._is_global_zero:
            return _SilentExperiment()
        writer = self._context.get_tensorboard_writer()
        writer.log = self._log
        return writer

    def _log(self, data: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        values = {name: value for name, value in data.items() if _is_number(value)}
        lost = sorted(data.keys() - values.keys())
        warn_at_caller(
            "logger.experiment is TensorBoard's SummaryWriter, which has no log: the numbers are recorded"
            + (f", {', '.join(lost)} is lost; use experiment.add_image and its like." if lost else ".")
        )
        self.log_metrics(values, step)

    @property
    def log_dir(self) -> str | None:
        """The folder of the TensorBoard files; None on all ranks but the first."""
        return str(self.experiment.log_dir) if self._is_global_zero else None

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Reports numbers to Determined, in a group of their own, and to TensorBoard.

        A name that is logged again for the same batch, as while gradients are accumulated, goes to TensorBoard alone.

        Args:
            metrics: Numbers, or tensors of one element, by name.
            step: The batch to which they belong; by default the last one that was trained.
        """
        if not self._is_global_zero:
            return
        values: dict[str, float] = {}
        for name, value in metrics.items():
            if isinstance(value, Mapping):
                values.update((f"{name}{self.group_separator}{inner}", entry) for inner, entry in value.items())
            else:
                values[name] = value
        for name, value in values.items():
            if not _is_number(value):
                raise MetricError(
                    f"{caller_location()}: logger.log_metrics got {name}={value!r}; it takes numbers, and tensors of "
                    "one element."
                )
            values[name] = float(value)
        if values:
            step = batches_trained(self._context) if step is None else step
            fresh = {name: value for name, value in values.items() if self._reported.get(name) != step}
            if fresh:
                report_metrics(self._context, METRIC_GROUP, fresh, step)
                self._reported.update(dict.fromkeys(fresh, step))
            for name, value in values.items():
                self.experiment.add_scalar(name, value, step)

    def log_hyperparams(self, params: Any, metrics: Mapping[str, Any] | None = None, step: int | None = None) -> None:
        """Writes hyperparameters to TensorBoard as text. Determined itself shows those of the experiment.

        Args:
            params: A dictionary, a namespace, or None.
            metrics: Numbers by name, which are logged as well.
            step: The batch to which they belong.
        """
        if metrics:
            self.log_metrics(metrics, step)
        entries = params if isinstance(params, Mapping) else vars(params) if params is not None else {}
        rows = [f"| {name} | {value} |" for name, value in entries.items()]
        self.experiment.add_text("hyperparameters", "\n".join(["| name | value |", "| --- | --- |", *rows]))

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Writes the module's graph to TensorBoard.

        Args:
            model: The LightningModule.
            input_array: The argument of ``forward``; by default the module's ``example_input_array``.
        """
        example = model.example_input_array if input_array is None else input_array
        if example is not None and self._is_global_zero:
            self.experiment.add_graph(model, transferred_example(model, example))

    def save(self) -> None:
        """Does nothing: Determined saves the metrics."""

    def finalize(self, status: str) -> None:
        """Does nothing: Determined closes its writer."""

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Does nothing: Determined writes the checkpoints."""

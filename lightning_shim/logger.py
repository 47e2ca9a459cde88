"""What ``self.logger`` is on Determined: its TensorBoard writer and its metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from lightning_shim._determined import report_metrics, tensorboard_writer

METRIC_GROUP: Final = "logger"
"""The group under which Determined shows what ``log_metrics`` was given."""


class _SilentExperiment:
    """Stands in for the writer on all ranks but the first, where Lightning's loggers write nothing either."""

    def __getattr__(self, name: str) -> Any:
        return self._nothing

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        return None


class LoggerFacade:
    """Lightning's ``Logger``, answered by Determined.

    Args:
        context: Determined's trial context.
        is_global_zero: Whether this process writes.
    """

    name: Final = "determined"
    group_separator: Final = "/"

    def __init__(self, context: Any, is_global_zero: bool) -> None:
        self._context: Final = context
        self._is_global_zero: Final = is_global_zero

    @property
    def experiment(self) -> Any:
        """Determined's ``SummaryWriter``: ``add_figure``, ``add_image``, ``add_histogram``, ``add_text``, ..."""
        return tensorboard_writer(self._context) if self._is_global_zero else _SilentExperiment()

    @property
    def version(self) -> str:
        """The name of the folder in which the TensorBoard files are."""
        return os.path.basename(self.log_dir or "")

    @property
    def log_dir(self) -> str | None:
        """The folder in which the TensorBoard files are; None on all ranks but the first."""
        return str(self.experiment.log_dir) if self._is_global_zero else None

    save_dir = root_dir = log_dir

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Reports numbers to Determined, in a group of their own, and to TensorBoard.

        Args:
            metrics: The numbers, or tensors of one element, by name.
            step: The batch that they belong to; by default the last one that was trained.
        """
        if self._is_global_zero:
            values = {name: float(value) for name, value in metrics.items()}
            step = report_metrics(self._context, METRIC_GROUP, values, step)
            for name, value in values.items():
                self.experiment.add_scalar(name, value, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Writes hyperparameters to TensorBoard as text; Determined itself shows those of the experiment.

        Args:
            params: A dictionary or a namespace.
            *args: Unused.
            **kwargs: Unused.
        """
        entries = params if isinstance(params, Mapping) else vars(params)
        rows = [f"| {name} | {value} |" for name, value in entries.items()]
        self.experiment.add_text("hyperparameters", "\n".join(["| name | value |", "| --- | --- |", *rows]))

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Writes the module's graph to TensorBoard.

        Args:
            model: The LightningModule.
            input_array: What ``forward`` gets; by default the module's ``example_input_array``.
        """
        example = model.example_input_array if input_array is None else input_array
        if example is not None:
            self.experiment.add_graph(model, example)

    def save(self) -> None:
        """Does nothing: Determined saves."""

    def finalize(self, status: str) -> None:
        """Does nothing: Determined closes its writer.

        Args:
            status: How the run ended.
        """

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Does nothing: Determined writes the checkpoints.

        Args:
            checkpoint_callback: Lightning's callback.
        """

"""What ``self.log`` and ``self.log_dict`` keep in one stage, and what Determined is told of it.

Which hook may log, under which name a value is seen, and when it is forgotten follow Lightning's
``trainer.connectors.logger_connector``; how the values are kept is ours (see
:mod:`lightning_shim.metrics.logged_metric`).
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_shim.diagnostics.errors import MetricError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.lightning1.hook_arguments import FORMER_LOG_ARGUMENTS
from lightning_shim.metrics.log_settings import Settings, argument_problem, difference, number, resolve_settings
from lightning_shim.metrics.logged_metric import LoggedMetric

Key = tuple[str, str, int | None]
"""The hook, the name, and the index of the loader unless the name is shared by all loaders."""

_ARGUMENTS: Final = (
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "reduce_fx",
    "enable_graph",
    "sync_dist",
    "sync_dist_group",
    "add_dataloader_idx",
    "metric_attribute",
    "rank_zero_only",
)


@dataclass(slots=True)
class MetricViews:
    """The three dictionaries in which a trainer shows metrics.

    Attributes:
        callback: ``trainer.callback_metrics``, tensors of no dimensions by name.
        logged: ``trainer.logged_metrics``, likewise.
        progress_bar: ``trainer.progress_bar_metrics``, likewise; they become numbers when they are shown.
    """

    callback: dict[str, Tensor] = field(default_factory=dict)
    logged: dict[str, Tensor] = field(default_factory=dict)
    progress_bar: dict[str, Tensor] = field(default_factory=dict)

    def update(self, newer: MetricViews) -> None:
        """Takes over the entries of newer views."""
        self.callback.update(newer.callback)
        self.logged.update(newer.logged)
        self.progress_bar.update(newer.progress_bar)


class MetricCollector:
    """The values logged in training, or in validation.

    Args:
        training: Which of the two it is.
        batch_size_of: Infers the number of samples of a batch; Lightning's ``extract_batch_size``.
        metric_attributes: Gives the names of the module's torchmetrics objects, by identity.
        reduce: Reduces a tensor over all processes; ``strategy.reduce``, or None for a single process.
    """

    def __init__(
        self,
        training: bool,
        batch_size_of: Callable[[Any], int],
        metric_attributes: Callable[[], dict[int, str]],
        reduce: Callable[..., Tensor] | None = None,
    ) -> None:
        self.training: Final = training
        self._batch_size_of: Final = batch_size_of
        self._metric_attributes: Final = metric_attributes
        self._reduce: Final = reduce
        self._metrics: dict[Key, LoggedMetric] = {}
        # What has the value of all processes; nothing is logged under it again before the epoch's end.
        self._merged: Final[set[Key]] = set()
        self._current_fx: str | None = None
        # As Lightning's `_first_loop_iter`: None outside the loop over batches, True in its first batch.
        self._in_first_batch: bool | None = None
        self._batch: Any = None
        self._batch_size: int | None = None
        self._dataloader_idx: int | None = None

    def start_batch(self, batch: Any, dataloader_idx: int | None = None) -> None:
        """Says that what is logged from now on belongs to this batch.

        Args:
            batch: The batch, from which the number of samples is inferred if a mean needs it.
            dataloader_idx: The index of its loader where there are several.
        """
        self._in_first_batch = self._in_first_batch is None
        self._batch = batch
        self._batch_size = None
        self._dataloader_idx = dataloader_idx

    def end_batch(self) -> None:
        """Lets go of the batch."""
        self._batch = self._batch_size = None

    def number_of_samples(self) -> int:
        """Returns the number of samples of the batch, or 1 if it cannot be told."""
        try:
            return self._present_batch_size()
        except Exception:
            return 1

    def end_dataloader(self) -> None:
        """Says that one loader's batches are over; its epoch values are what :meth:`collect` gives now."""
        self._in_first_batch = None

    def end_batches(self) -> None:
        """Says that all batches of the epoch are over."""
        self._in_first_batch = None
        self._dataloader_idx = None

    @property
    def has_values(self) -> bool:
        """Whether anything has been logged since the last :meth:`reset`."""
        return any(metric.is_fresh for metric in self._metrics.values())

    def reset(self) -> None:
        """Forgets all values, after an epoch."""
        for metric in self._metrics.values():
            metric.reset()
        self._merged.clear()
        self._in_first_batch = self._current_fx = None

    def log(
        self,
        fx: str | None,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[[Any], Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
        **unknown: Any,
    ) -> None:
        """Keeps a value; all arguments but ``fx``, the hook that is running, are those of ``LightningModule.log``.

        Raises:
            MetricError: If the value, the hook or the settings are not such as can be logged.
        """
        if fx is None:
            raise MetricError(f"{caller_location()}: self.log({name!r}) was called outside any hook of the training.")
        for argument in unknown:
            if argument not in FORMER_LOG_ARGUMENTS:
                raise MetricError(f"{caller_location()}: self.log({name!r}): {argument_problem(argument)}")
        if fx != self._current_fx:
            # In the first batch of an epoch Lightning resets the tensors of a hook each time that it starts to log
            # after another one (`should_reset_tensors`).
            if self._in_first_batch is not False:
                self._reset_tensors(fx)
            self._current_fx = fx
        # fmt: off
        arguments = (
            prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_group,
            add_dataloader_idx, metric_attribute, rank_zero_only,
        )
        # fmt: on
        key = (fx, name, self._dataloader_idx if add_dataloader_idx else None)
        metric = self._metrics.get(key)
        if metric is None or metric.arguments != arguments or metric.settings.dataloader_idx != self._dataloader_idx:
            metric = self._register(key, value, arguments)
        if metric.metric is not None or not isinstance(value, (Tensor, numbers.Real)):
            if metric.metric is None and not isinstance(value, Metric):
                raise _not_loggable(name, value)
            metric.update_metric(value)
            return
        if batch_size is None:
            batch_size = (self._batch_size or self._present_batch_size()) if metric.is_weighted else 1
        if isinstance(value, Tensor):
            metric.update_tensor(value, batch_size)
        else:
            metric.update_number(number(value), batch_size)

    def _present_batch_size(self) -> int:
        if self._batch_size is None:
            if self._batch is None:
                self._batch_size = 1
            else:
                self._batch_size = _length_of_tensors(self._batch) or self._batch_size_of(self._batch)
        return self._batch_size

    def log_dict(self, fx: str | None, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        """Keeps several values; the arguments after ``fx`` are those of ``LightningModule.log_dict``.

        Args:
            fx: The hook that is running.
            dictionary: Values by name, or a torchmetrics MetricCollection.
            *args: As for :meth:`log`.
            **kwargs: As for :meth:`log`.

        Raises:
            MetricError: As :meth:`log`, or if it is no dictionary.
        """
        if isinstance(dictionary, MetricCollection):
            # The metrics themselves, not copies, so that they are the module's attributes.
            entries = dictionary.items(keep_base=False, copy_state=False)
        elif isinstance(dictionary, Mapping):
            entries = dictionary.items()
        else:
            raise MetricError(
                f"{caller_location()}: self.log_dict got a {type(dictionary).__name__}; it takes a dictionary of "
                "values by name, or a MetricCollection."
            )
        for name, value in entries:
            self.log(fx, name, value, *args, **kwargs)

    def collect(self, on_step: bool, every_dataloader: bool = False) -> MetricViews:
        """Returns the present values, as Lightning's ``_ResultCollection.metrics`` does.

        Args:
            on_step: Whether the last step's values are wanted, or the epoch's so far.
            every_dataloader: Whether to return the values of all loaders, or only of the present one.
        """
        views = MetricViews()
        for metric in self._fresh(every_dataloader):
            settings = metric.settings
            if not (settings.on_step if on_step else settings.on_epoch):
                continue
            value = metric.step_value if on_step else metric.epoch_value()
            if value is None:
                continue
            # A copy: the next value may be written over it.
            value = torch.as_tensor(value).clone() if on_step else torch.as_tensor(value)
            name = settings.reported_name(on_step)
            if settings.logger:
                views.logged[name] = value
            if self.training or not on_step:
                views.callback[settings.plain_name] = views.callback[name] = value
            if settings.prog_bar:
                views.progress_bar[name] = value
        return views

    def current(self) -> MetricViews:
        """Returns what may be seen at this moment: step values inside the loop over batches, else epoch values."""
        return self.collect(on_step=self._in_first_batch is not None)

    def partial_epoch_values(self, only_synchronised: bool = True) -> dict[Key, tuple[Any, int]]:
        """Returns this process's share of the values that are reduced over all processes, and have not been by now.

        A torchmetrics object synchronises itself.

        Args:
            only_synchronised: Whether to leave out those that were logged without ``sync_dist=True``.
        """
        return {
            key: metric.fold()
            for key, metric in self._metrics.items()
            if metric.is_fresh
            and metric.metric is None
            and metric.settings.on_epoch
            and (metric.settings.sync_dist or not only_synchronised)
            and not metric.settings.rank_zero_only
            and key not in self._merged
        }

    def merge_epoch_values(self, shares: list[dict[Key, tuple[Any, int]]]) -> None:
        """Takes over what all processes' shares amount to.

        Args:
            shares: What :meth:`partial_epoch_values` returned on each process, by rank.
        """
        for key, metric in self._metrics.items():
            own = [share[key] for share in shares if share.get(key, (None, 0))[0] is not None]
            if own and metric.is_fresh:
                folded, weight = own[0]
                for other, other_weight in own[1:]:
                    folded = metric.settings.reduction.ufunc(folded, other)
                    weight += other_weight
                metric.set_epoch_value(folded, weight)
                self._merged.add(key)

    def step_values(self) -> dict[str, float]:
        """Returns the last step's values that go to loggers: this process's, or if ``sync_dist`` is set all processes'.

        Since the host waits for the device here, what the epoch has collected is folded as well.
        """
        for metric in self._metrics.values():
            metric.fold()
        return {
            metric.settings.reported_name(on_step=True): float(metric.step_value)
            for metric in self._fresh()
            if metric.settings.on_step and metric.settings.logger and metric.step_value is not None
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns what an interrupted epoch needs: tensors and plain values only."""
        return {
            "metrics": [(key, metric.state_dict()) for key, metric in self._metrics.items()],
            "current_fx": self._current_fx,
            "in_first_batch": self._in_first_batch,
        }

    def load_state_dict(self, state: dict[str, Any], metrics: dict[str, Metric]) -> None:
        """Takes over the values of an interrupted epoch.

        Args:
            state: What :meth:`state_dict` returned.
            metrics: The module's torchmetrics objects by their names.
        """
        self._metrics = {
            key: LoggedMetric.from_state_dict(saved, metrics.get(saved["settings"]["metric_attribute"] or ""))
            for key, saved in state["metrics"]
        }
        self._current_fx, self._in_first_batch = state["current_fx"], state["in_first_batch"]

    def _fresh(self, every_dataloader: bool = False) -> Iterator[LoggedMetric]:
        return (
            metric
            for metric in self._metrics.values()
            if metric.is_fresh and (every_dataloader or metric.settings.dataloader_idx == self._dataloader_idx)
        )

    def _reset_tensors(self, fx: str) -> None:
        for metric in self._metrics.values():
            settings = metric.settings
            # Those that have a loader's index in their name are not reset; those of loaders that are over are kept,
            # since all loaders are reported together.
            has_index = settings.add_dataloader_idx and settings.dataloader_idx is not None
            is_present = settings.fx == fx and settings.dataloader_idx == self._dataloader_idx
            if metric.metric is None and is_present and not has_index:
                metric.reset()

    def _register(self, key: Key, value: Any, arguments: tuple[Any, ...]) -> LoggedMetric:
        """Resolves the arguments of a call; this happens once for a name, unless they are spelled differently."""
        fx, name, _ = key
        settings = resolve_settings(
            fx,
            name,
            value,
            self._dataloader_idx,
            self._metric_attributes,
            **dict(zip(_ARGUMENTS, arguments, strict=True)),
        )
        metric = self._metrics.get(key)
        if metric is None:
            logged_object = value if isinstance(value, Metric) else None
            metric = self._metrics[key] = LoggedMetric(settings, arguments, logged_object)
        elif metric.settings != settings:
            raise MetricError(
                f"{caller_location()}: self.log({name!r}) was called twice in {fx} with different settings: "
                f"{difference(metric.settings, settings)}. Give the second one a name of its own."
            )
        metric.arguments = arguments
        metric.synchronise = self._synchronisation(settings)
        return metric

    def _synchronisation(self, settings: Settings) -> Callable[[Tensor], Tensor] | None:
        if self._reduce is None or not settings.sync_dist or settings.rank_zero_only:
            return None
        return functools.partial(self._reduce, group=settings.sync_dist_group, reduce_op=settings.reduction.operation)


def _length_of_tensors(batch: Any) -> int | None:
    """Returns the length that all tensors of a plain batch share; None leaves the question to Lightning's search."""
    if type(batch) not in (tuple, list):
        return None
    lengths = {part.size(0) if type(part) is Tensor and part.dim() else None for part in batch}
    return lengths.pop() if len(lengths) == 1 else None


def _not_loggable(name: str, value: Any) -> MetricError:
    hints: dict[type, str] = {
        dict: "Log each entry by a name of its own, or use self.log_dict with an unnested dictionary.",
        str: "Write text to self.logger.experiment.add_text.",
    }
    hint = hints.get(type(value), "Log a number, a tensor of one element or a torchmetrics object.")
    return MetricError(
        f"{caller_location()}: self.log({name!r}) got a {type(value).__name__}, which cannot be logged. {hint}"
    )

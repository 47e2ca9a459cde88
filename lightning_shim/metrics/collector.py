"""The collection of the values that a module logs in one stage.

Which hooks may log, under which name a value is seen, and when it is forgotten: all this follows Lightning's
``trainer.connectors.logger_connector``. How values are kept is our own: see
:mod:`lightning_shim.metrics.logged_metric`.
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
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.lightning1.hook_arguments import FORMER_LOG_ARGUMENTS
from lightning_shim.metrics.log_settings import Settings, argument_problem, difference, number, resolve_settings
from lightning_shim.metrics.logged_metric import LoggedMetric

Key = tuple[str, str, int | None]
"""The hook, the name, and the index of the loader unless all loaders share the name."""

_DEFAULTS: Final[dict[str, Any]] = {
    "prog_bar": False,
    "logger": None,
    "on_step": None,
    "on_epoch": None,
    "reduce_fx": "mean",
    "enable_graph": False,
    "sync_dist": False,
    "sync_dist_group": None,
    "add_dataloader_idx": True,
    "metric_attribute": None,
    "rank_zero_only": False,
}
"""The arguments of ``LightningModule.log`` that belong to a name, with their defaults."""

_IN_ORDER: Final = ("name", "value", *list(_DEFAULTS)[:9], "batch_size", *list(_DEFAULTS)[9:])
"""All arguments, in the order in which they can be passed without their names."""


@dataclass(slots=True)
class MetricViews:
    """The three dictionaries of metrics that a trainer has: scalar tensors by name."""

    callback: dict[str, Tensor] = field(default_factory=dict)
    logged: dict[str, Tensor] = field(default_factory=dict)
    progress_bar: dict[str, Tensor] = field(default_factory=dict)  # they become numbers only when somebody reads them

    def update(self, newer: MetricViews) -> None:
        """Adds the entries of newer views, in place of older ones."""
        self.callback.update(newer.callback)
        self.logged.update(newer.logged)
        self.progress_bar.update(newer.progress_bar)

    def copy(self) -> MetricViews:
        """Returns views that later updates leave alone."""
        return MetricViews(dict(self.callback), dict(self.logged), dict(self.progress_bar))

    def move_to_cpu(self) -> None:
        """Moves the values to where Lightning leaves them after ``fit``."""
        for view in (self.callback, self.logged, self.progress_bar):
            view.update({name: value.cpu() for name, value in view.items()})


_CPU: Final = torch.device("cpu")


class MetricCollector:
    """The values logged in training, or those logged in validation.

    Args:
        training: Whether the stage is training; otherwise it is validation.
        batch_size_of: Infers the number of samples in a batch; Lightning's ``extract_batch_size``.
        metric_attributes: Returns the names of the module's torchmetrics objects by their identity.
        reduce: Reduces a tensor over all processes: ``strategy.reduce``, or None for a single process.
        device: The module's.
        has_logger: Tells whether anybody sees what is logged with ``logger=True``.

    Attributes:
        batch: The current batch, or None between batches.
        batch_size: The number of samples in the batch, or None if it has not been needed.
        dataloader_idx: The index of the batch's loader if there are several.
    """

    def __init__(
        self,
        training: bool,
        batch_size_of: Callable[[Any], int],
        metric_attributes: Callable[[], dict[int, str]],
        reduce: Callable[..., Tensor] | None = None,
        device: torch.device = _CPU,
        has_logger: Callable[[], bool] = lambda: True,
    ) -> None:
        self.training: Final = training
        self._batch_size_of: Final = batch_size_of
        self._metric_attributes: Final = metric_attributes
        self._reduce: Final = reduce
        self._device: Final = device
        self._has_logger: Final = has_logger
        self._metrics: dict[Key, LoggedMetric] = {}
        # The same by the loader that is evaluated, whether the name has its index or not: found by what a call knows.
        self._calls: dict[Key, LoggedMetric] = {}
        # What has the value of all processes; nothing is logged under it again before the epoch's end.
        self._merged: Final[set[Key]] = set()
        self._current_fx: str | None = None
        # As Lightning's `_first_loop_iter`: None outside the loop over batches, True in its first batch.
        self._in_first_batch: bool | None = None
        self.batch: Any = None
        self.batch_size: int | None = None
        self.dataloader_idx: int | None = None

    def start_within(self, training: MetricCollector) -> None:
        """Starts a validation, for which Lightning goes on from the batch of the training that it comes after."""
        self._in_first_batch = training._in_first_batch

    def start_batch(self, batch: Any, dataloader_idx: int | None = None) -> None:
        """Starts a batch, to which values belong from now on; of several loaders it names the index."""
        self._in_first_batch = self._in_first_batch is None
        self.batch = batch
        # Inferred when a mean first needs it: to search a nested batch for tensors takes time.
        self.batch_size = None
        self.dataloader_idx = dataloader_idx

    def end_batch(self) -> None:
        """Releases the batch, whose memory the next one needs."""
        self.batch = self.batch_size = None

    def end_dataloader(self) -> None:
        """Ends the batches of one loader, after which :meth:`collect` returns its epoch values."""
        self._in_first_batch = None

    def end_batches(self) -> None:
        """Ends the batches of the epoch."""
        self._in_first_batch = None
        self.dataloader_idx = None

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

    def log(self, fx: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps a value. The arguments come as wrapt has them: to unpack and collect them again would take time.

        ``kwargs`` is kept, and has to be the caller's own.
        """
        if len(args) != 2:
            args, kwargs = _by_name(args, kwargs)
        name, value = args
        batch_size = kwargs.pop("batch_size", None)
        if fx is None or fx != self._current_fx:
            fx = self._enter(fx, name)
        # Arguments are checked when a name is first logged. Afterwards comparing them with those of the last call saves
        # the checks, the defaults and the search for a torchmetrics object among all submodules.
        metric = self._calls.get((fx, name, self.dataloader_idx))
        if metric is None or metric.arguments != kwargs:
            metric = self._find(fx, name, value, kwargs)
        is_tensor = isinstance(value, Tensor)
        if metric.metric is not None or not (is_tensor or isinstance(value, numbers.Real)):
            if metric.metric is None and not isinstance(value, Metric):
                raise _not_loggable(name, value)
            metric.update_metric(value)
            return
        if batch_size is None:
            # Only a mean over the epoch weighs values by samples; other reductions do not need the batch size.
            batch_size = (self.batch_size or self._current_batch_size()) if metric.is_weighted else 1
        if is_tensor:
            metric.update_tensor(value, batch_size)
        else:
            metric.update_number(number(value), batch_size)

    def _enter(self, fx: str | None, name: str) -> str:
        """Notes that another hook logs, and returns it."""
        if fx is None:
            raise MetricError(
                f"{caller_location()}: You are trying to `self.log({name!r}, ...)` but it is not managed by the "
                "`Trainer` control flow: it was called outside any hook of the training."
            )
        # In the first batch of an epoch Lightning resets a hook's tensors whenever that hook starts to log after
        # another one (`should_reset_tensors`).
        if self._in_first_batch is not False:
            self._reset_tensors(fx)
        self._current_fx = fx
        return fx

    def _find(self, fx: str, name: str, value: Any, kwargs: dict[str, Any]) -> LoggedMetric:
        """Returns the metric of a call whose arguments are not those of the last one of its name."""
        for argument in kwargs:
            if argument not in _DEFAULTS and argument not in FORMER_LOG_ARGUMENTS:
                raise MetricError(f"{caller_location()}: self.log({name!r}): {argument_problem(argument)}")
        arguments = {argument: kwargs.get(argument, default) for argument, default in _DEFAULTS.items()}
        key = (fx, name, self.dataloader_idx if arguments["add_dataloader_idx"] else None)
        settings = resolve_settings(fx, name, value, self.dataloader_idx, self._metric_attributes, **arguments)
        metric = self._metrics.get(key)
        if metric is None:
            logged_object = value if isinstance(value, Metric) else None
            metric = self._metrics[key] = LoggedMetric(settings, kwargs, logged_object, self._device)
        elif metric.settings != settings:
            raise MetricError(
                f"{caller_location()}: You called `self.log({name}, ...)` twice in `{fx}` with different arguments: "
                f"{difference(metric.settings, settings)}. Give the second one a name of its own."
            )
        if kwargs.get("logger") and not self._has_logger():
            warn_at_caller(
                f"You called `self.log({name!r}, ..., logger=True)` but have no logger configured. You can enable one "
                "by doing `Trainer(logger=ALogger(...))`."
            )
        metric.arguments = kwargs
        metric.synchronise = self._synchronisation(settings)
        self._calls[fx, name, self.dataloader_idx] = metric
        return metric

    def _current_batch_size(self) -> int:
        if self.batch_size is None:
            if self.batch is None:
                self.batch_size = 1
            else:
                self.batch_size = _length_of_tensors(self.batch) or self._batch_size_of(self.batch)
        return self.batch_size

    def log_dict(self, fx: str | None, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        """Keeps several values. The arguments after ``fx`` are those of ``LightningModule.log_dict``."""
        if isinstance(dictionary, MetricCollection):
            # The metrics themselves, since copies would not be found among the module's attributes.
            entries = dictionary.items(keep_base=False, copy_state=False)
        elif isinstance(dictionary, Mapping):
            entries = dictionary.items()
        else:
            raise MetricError(
                f"{caller_location()}: self.log_dict got a {type(dictionary).__name__}; it takes a dictionary of "
                "values by name, or a MetricCollection."
            )
        for name, value in entries:
            self.log(fx, (name, value, *args), dict(kwargs))

    def collect(self, on_step: bool, every_dataloader: bool = False) -> MetricViews:
        """Returns the last step's values or those of the epoch so far, as Lightning's ``_ResultCollection.metrics``."""
        views = MetricViews()
        for metric in self._fresh(every_dataloader):
            settings = metric.settings
            if not (settings.on_step if on_step else settings.on_epoch):
                continue
            value = metric.shown_step_value() if on_step else metric.epoch_value()
            if value is None:
                continue
            name = settings.reported_name(on_step)
            if settings.logger:
                views.logged[name] = value
            if self.training or not on_step:
                views.callback[settings.plain_name] = views.callback[name] = value
            if settings.prog_bar:
                views.progress_bar[name] = value
        return views

    def current(self) -> MetricViews:
        """Returns the values that may be seen now: inside the loop over batches a step's, outside of it an epoch's."""
        return self.collect(on_step=self._in_first_batch is not None)

    def partial_epoch_values(self, only_synchronised: bool = True) -> dict[Key, tuple[Any, int]]:
        """Returns this process's share of the epoch values that are still to be reduced over all processes.

        A torchmetrics object synchronises itself. Values logged without ``sync_dist=True`` are reduced in validation,
        where each process sees only a part of the data.
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
        """Sets the epoch values to the reduction of all processes' :meth:`partial_epoch_values`, by rank."""
        # Every process folds the shares in the same order, so that all of them round to the same value.
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
        """Returns the last step's values for loggers, reduced over all processes where ``sync_dist`` is set."""
        # Reading the values makes the host wait for the device. The epoch's values are folded on this occasion, so that
        # it does not have to wait for those once more.
        for metric in self._metrics.values():
            metric.fold()
        return {
            metric.settings.reported_name(on_step=True): float(metric.step_value)
            for metric in self._fresh()
            if metric.settings.on_step and metric.settings.logger and metric.step_value is not None
        }

    def shown_step_values(self) -> dict[str, Any]:
        """Returns the last step's values that progress bars show, as they are kept: on their devices."""
        return {
            metric.settings.reported_name(on_step=True): metric.step_value
            for metric in self._fresh()
            if metric.settings.on_step and metric.settings.prog_bar and metric.step_value is not None
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the values of an interrupted epoch, as tensors and plain values."""
        return {
            "metrics": [(key, metric.state_dict()) for key, metric in self._metrics.items()],
            "current_fx": self._current_fx,
            "in_first_batch": self._in_first_batch,
        }

    def load_state_dict(self, state: dict[str, Any], metrics: dict[str, Metric]) -> None:
        """Restores the values of an interrupted epoch, given the module's torchmetrics objects by name."""
        self._metrics = {
            key: LoggedMetric.from_state_dict(
                saved, metrics.get(saved["settings"]["metric_attribute"] or ""), self._device
            )
            for key, saved in state["metrics"]
        }
        self._calls.clear()
        self._current_fx, self._in_first_batch = state["current_fx"], state["in_first_batch"]

    def _fresh(self, every_dataloader: bool = False) -> Iterator[LoggedMetric]:
        return (
            metric
            for metric in self._metrics.values()
            if metric.is_fresh and (every_dataloader or metric.settings.dataloader_idx == self.dataloader_idx)
        )

    def _reset_tensors(self, fx: str) -> None:
        for metric in self._metrics.values():
            settings = metric.settings
            # As in Lightning, names with a loader's index are not reset. Neither are the values of earlier loaders, as
            # all loaders are reported together.
            has_index = settings.add_dataloader_idx and settings.dataloader_idx is not None
            is_current = settings.fx == fx and settings.dataloader_idx == self.dataloader_idx
            if metric.metric is None and is_current and not has_index:
                metric.reset()

    def _synchronisation(self, settings: Settings) -> Callable[[Tensor], Tensor] | None:
        if self._reduce is None or not settings.sync_dist or settings.rank_zero_only:
            return None
        return functools.partial(self._reduce, group=settings.sync_dist_group, reduce_op=settings.reduction.operation)


def _length_of_tensors(batch: Any) -> int | None:
    """Returns the length that all tensors of a plain batch share; None if only Lightning's search can tell."""
    # The usual batch, a tuple of tensors of one length, is answered without that recursive search.
    if type(batch) not in (tuple, list):
        return None
    length: int | None = None
    for part in batch:
        # Asking for the shape takes half as long as asking for the dimension and for the size.
        shape = part.shape if type(part) is Tensor else None
        if not shape or length not in (None, shape[0]):
            return None
        length = shape[0]
    return length


def _by_name(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """Returns the name and the value, and all other arguments by their names."""
    given = dict(zip(_IN_ORDER, args, strict=False))
    arguments = {**given, **kwargs}
    problem = None
    if len(arguments) < len(args) + len(kwargs):
        problem = (
            f"got {len(args)} arguments without a name, and {', '.join(kwargs) or 'none'} by name. Pass each once, "
            "those after the value by their names."
        )
    elif not arguments.keys() >= {"name", "value"}:
        problem = "needs a name and a value. Pass both."
    if problem is not None:
        raise MetricError(f"{caller_location()}: self.log({arguments.get('name')!r}) {problem}")
    return (arguments.pop("name"), arguments.pop("value")), arguments


def _not_loggable(name: str, value: Any) -> MetricError:
    hints: dict[type, str] = {
        dict: "Log each entry by a name of its own, or use self.log_dict with an unnested dictionary.",
        str: "Write text to self.logger.experiment.add_text.",
    }
    hint = hints.get(type(value), "Log a number, a tensor of one element or a torchmetrics object.")
    return MetricError(
        f"{caller_location()}: `self.log({name}, {value})` was called, but `{type(value).__name__}` values cannot be "
        f"logged. {hint}"
    )

"""The settings of a logged name: the arguments of ``self.log``, resolved as in Lightning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_shim.diagnostics.errors import MetricError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.diagnostics.warn import warn_at_caller


@dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction of an epoch's values to one."""

    name: str  # the name of the function of `torch` or `builtins` that `reduce_fx` is
    operation: str  # the reduction over processes, by its name in `strategy.reduce`
    initial: float  # the value before the first one, as in Lightning's `_ResultMetric`
    ufunc: np.ufunc  # the operation on two values

    def fold(self, values: np.ndarray[Any, Any]) -> Any:
        """Folds an array of shape ``(n,)``, n at least 1, to a NumPy scalar of its dtype."""
        # `accumulate` works through the values in order and rounds after each, as Lightning's additions do. `reduce`
        # sums in pairs, which differs in the last bits.
        with np.errstate(over="ignore", invalid="ignore"):
            return self.ufunc.accumulate(values)[-1]


MEAN: Final = Reduction("mean", "mean", 0.0, np.add)
SUM: Final = Reduction("sum", "sum", 0.0, np.add)
MIN: Final = Reduction("min", "min", float("inf"), np.minimum)
MAX: Final = Reduction("max", "max", float("-inf"), np.maximum)
# Python's min and max skip NaN, which compares as false; PyTorch's pass it on.
PYTHON_MIN: Final = Reduction("builtins.min", "min", float("inf"), np.fmin)
PYTHON_MAX: Final = Reduction("builtins.max", "max", float("-inf"), np.fmax)

REDUCTIONS: Final[dict[Any, Reduction]] = {
    **dict.fromkeys(("mean", "avg", torch.mean), MEAN),
    **dict.fromkeys(("sum", torch.sum, sum), SUM),
    **dict.fromkeys(("min", torch.min), MIN),
    **dict.fromkeys(("max", torch.max), MAX),
    **dict.fromkeys(("builtins.min", min), PYTHON_MIN),
    **dict.fromkeys(("builtins.max", max), PYTHON_MAX),
}


@dataclass(frozen=True, slots=True)
class LogLevels:
    """The levels on which a hook may log, as in Lightning's table ``_FxValidator.functions``."""

    on_step: bool
    on_epoch: bool
    epoch_only: bool = False


_STEP: Final = LogLevels(on_step=True, on_epoch=False)
_EPOCH: Final = LogLevels(on_step=False, on_epoch=True)
_EPOCH_ONLY: Final = LogLevels(on_step=False, on_epoch=True, epoch_only=True)

_HOOKS: Final = {
    _STEP: "training_step training_step_end on_batch_start on_batch_end on_train_batch_start on_train_batch_end "
    "on_before_backward backward on_after_backward on_before_optimizer_step optimizer_step configure_gradient_clipping "
    "clip_gradients on_before_zero_grad optimizer_zero_grad",
    _EPOCH: "validation_step validation_step_end on_validation_batch_start on_validation_batch_end",
    _EPOCH_ONLY: "on_train_start on_train_epoch_start on_train_epoch_end training_epoch_end on_epoch_start "
    "on_epoch_end on_validation_start on_validation_epoch_start on_validation_epoch_end validation_epoch_end",
}

LOG_LEVELS: Final = {hook: levels for levels, hooks in _HOOKS.items() for hook in hooks.split()}

REMOVED_ARGUMENTS: Final[dict[str, str]] = {"sync_dist_op": "pass reduce_fx"}
"""Arguments that ``self.log`` had in Lightning 1.x, each with its replacement."""


# The problems of a call, as sentences that can follow a colon.


def argument_problem(name: str) -> str:
    """Describes the problem with an argument that ``LightningModule.log`` does not have."""
    if name in REMOVED_ARGUMENTS:
        return f"Lightning 2 has removed the argument {name}; {REMOVED_ARGUMENTS[name]}."
    return f"Lightning has no argument {name}."


def _problem(
    fx: str, name: str, on_step: bool | None, on_epoch: bool | None, add_dataloader_idx: bool, reduce_fx: Any
) -> str | None:
    """Describes the problem with the arguments of a call in a hook, if there is one. None is the hook's default."""
    levels = LOG_LEVELS.get(fx)
    if levels is None:
        return f"You can't `self.log()` inside `{fx}`; write to `self.logger.experiment` there."
    on_step = levels.on_step if on_step is None else on_step
    on_epoch = levels.on_epoch if on_epoch is None else on_epoch
    if levels.epoch_only and (on_step or not on_epoch):
        wrong = f"on_step={on_step}" if on_step else f"on_epoch={on_epoch}"
        return f"You can't `self.log({wrong})` inside `{fx}`, where only on_step=False, on_epoch=True is possible."
    if not (on_step or on_epoch):
        return "`self.log(on_step=False, on_epoch=False)` is not useful; leave one of them out."
    if add_dataloader_idx and "/dataloader_idx_" in name:
        return (
            f"You called `self.log` with the key `{name}` but it should not contain information about "
            "`dataloader_idx` when `add_dataloader_idx=True`, which adds it."
        )
    if _reduction_key(reduce_fx) not in REDUCTIONS:
        return (
            "Only `self.log(..., reduce_fx={min,max,mean,sum})` are supported, "
            f"not {reduce_fx!r}; for another one log a `torchmetrics.Metric`."
        )
    return None


def _reduction_key(reduce_fx: Any) -> Any:
    return reduce_fx.lower() if isinstance(reduce_fx, str) else reduce_fx


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments with which a name is logged. They have to be the same each time."""

    name: str
    fx: str
    prog_bar: bool
    logger: bool
    on_step: bool
    on_epoch: bool
    reduction: Reduction
    enable_graph: bool
    add_dataloader_idx: bool
    dataloader_idx: int | None
    metric_attribute: str | None
    sync_dist: bool
    sync_dist_group: Any
    rank_zero_only: bool

    def reported_name(self, on_step: bool) -> str:
        """Returns the name under which loggers see the value of the step, or else that of the epoch."""
        fork = ("_step" if on_step else "_epoch") if self.on_step and self.on_epoch else ""
        return f"{self.name}{fork}{self._suffix}"

    @property
    def plain_name(self) -> str:
        """The name without ``_step`` or ``_epoch``, which is also in ``callback_metrics``."""
        return f"{self.name}{self._suffix}"

    def state_dict(self) -> dict[str, Any]:
        """Returns the settings as plain values, without the process group, which cannot be saved."""
        state = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {**state, "reduction": self.reduction.name, "sync_dist_group": None}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Settings:
        """Rebuilds settings from their :meth:`state_dict`."""
        return cls(**{**state, "reduction": REDUCTIONS[state["reduction"]]})

    @property
    def _suffix(self) -> str:
        indexed = self.add_dataloader_idx and self.dataloader_idx is not None
        return f"/dataloader_idx_{self.dataloader_idx}" if indexed else ""


def default_dtype() -> torch.dtype:
    """Returns the dtype in which Lightning accumulates: the default one, but float32 at least."""
    dtype = torch.get_default_dtype()
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


_NUMBER: Final = {True: np.float64, False: np.float32}


def number(value: Any) -> np.floating[Any]:
    """Rounds a number to the dtype in which Lightning would accumulate it."""
    with np.errstate(over="ignore"):
        rounded: np.floating[Any] = _NUMBER[torch.get_default_dtype() == torch.float64](value)
    return rounded


def resolve_settings(
    fx: str,
    name: str,
    value: Any,
    dataloader_idx: int | None,
    metric_attributes: Callable[[], dict[int, str]],
    *,
    logger: bool | None,
    on_step: bool | None,
    on_epoch: bool | None,
    reduce_fx: str | Callable[[Any], Any],
    add_dataloader_idx: bool,
    metric_attribute: str | None,
    **others: Any,
) -> Settings:
    """Checks the arguments of a ``self.log`` call and fills in the hook's defaults.

    Of the value only the type matters. ``metric_attributes`` returns the names of the module's torchmetrics objects by
    their identity.
    """
    where = f"{caller_location()}: self.log({name!r})"
    if not isinstance(name, str):
        raise MetricError(f"{where}: the name must be a string, not {type(name).__name__}.")
    problem = _problem(fx, name, on_step, on_epoch, add_dataloader_idx, reduce_fx)
    if problem is not None:
        raise MetricError(f"{where}: {problem}")
    if isinstance(value, Metric):
        metric_attribute = metric_attribute or metric_attributes().get(id(value))
        if metric_attribute is None:
            raise MetricError(
                f"{where}: Could not find the `LightningModule` attribute for the `torchmetrics.Metric` logged. "
                f"You can fix this by {_metric_hint(name, metric_attributes)}, so that the {type(value).__name__}'s "
                "state is kept and moved with the module."
            )
    elif isinstance(value, Tensor) and not value.is_floating_point():
        warn_at_caller(
            f"self.log({name!r}): a {value.dtype} tensor is converted to {default_dtype()}; convert it yourself "
            "to silence this."
        )
    return Settings(
        name=name,
        fx=fx,
        logger=logger is None or logger,
        on_step=LOG_LEVELS[fx].on_step if on_step is None else on_step,
        on_epoch=LOG_LEVELS[fx].on_epoch if on_epoch is None else on_epoch,
        reduction=REDUCTIONS[_reduction_key(reduce_fx)],
        add_dataloader_idx=add_dataloader_idx,
        dataloader_idx=dataloader_idx,
        metric_attribute=metric_attribute,
        **others,
    )


def _metric_hint(name: str, metric_attributes: Callable[[], dict[int, str]]) -> str:
    """Describes how a torchmetrics object can be found."""
    known = list(metric_attributes().values())
    if not known:
        return "setting an attribute for the metric in your `LightningModule`'s __init__"
    where = f"where `name` is one of {known}, or setting another attribute"
    return f"calling `self.log({name}, ..., metric_attribute=name)` {where}"


def difference(first: Settings, second: Settings) -> str:
    """Describes in words where two settings differ."""
    return ", ".join(
        f"{name} was {getattr(first, name)!r} and is {getattr(second, name)!r}"
        for name in Settings.__dataclass_fields__
        if getattr(first, name) != getattr(second, name)
    )

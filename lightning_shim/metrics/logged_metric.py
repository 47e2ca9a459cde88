"""The values of one logged name, and their reduction over an epoch.

A logged value is stored as it is: detached and on its own device, or as a number if it is on the CPU, which takes a
twentieth of the time. Nothing is added up, copied from a device or formatted during the call. Values are folded, in the
order in which they came, when the host waits for the device anyway: at a report, at the end of an epoch, or when
``trainer.callback_metrics`` is read. The fold rounds as Lightning does when it adds values one by one, so the results
are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_shim.diagnostics.errors import MetricError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.metrics.log_settings import MEAN, Settings, default_dtype

Value = Tensor | np.floating[Any]
"""A scalar tensor, or a number in the dtype in which Lightning would accumulate it."""

FOLD_AFTER: Final = 1024
"""The most numbers that are kept before they are folded; those on a device wait for a report, as folding them blocks
the host."""

_NUMPY: Final[dict[torch.dtype, type[np.floating[Any]]]] = {torch.float32: np.float32, torch.float64: np.float64}
"""The dtypes in which values are kept, with NumPy's names of them."""


@dataclass(slots=True)
class LoggedMetric:
    """The values of one logged name in one epoch."""

    settings: Settings
    # The keyword arguments as they were passed, by which a repeated call is recognised quickly.
    arguments: dict[str, Any]
    metric: Metric | None  # the torchmetrics object, if one was logged. It does its own reduction.
    # The module's, on which numbers that never were tensors are shown and reduced, as in Lightning.
    device: torch.device
    # Reduces a step's value over all processes, which wait for each other; None if that is not wanted.
    synchronise: Callable[[Tensor], Tensor] | None = None
    is_fresh: bool = True  # whether a value has been logged since the last reset
    # Whether the epoch's value is a mean, which weighs each value by its number of samples.
    is_weighted: bool = field(init=False)
    _step: Tensor | float | None = None
    _tensors: TensorLog | None = None
    _numbers: list[float] = field(default_factory=list)
    # That of the numbers; None while tensors on a device are kept.
    _dtype: torch.dtype | None = None
    # Where the numbers are shown: tensors that were logged from the CPU stay there.
    _place: torch.device = field(init=False)
    _batch_sizes: list[int] = field(default_factory=list)
    _folded: Any = None
    _weight: int = 0
    _computed: Tensor | None = None

    def __post_init__(self) -> None:
        self.is_weighted = self.settings.on_epoch and self.settings.reduction is MEAN
        self._place = self.device

    @property
    def step_value(self) -> Value | None:
        """The last value, for ``on_step``. If it is a tensor, the next value may be written over it."""
        step = self._step
        return _NUMPY[self._dtype](step) if isinstance(step, float) and self._dtype is not None else step  # type: ignore[return-value]

    def update_tensor(self, value: Tensor, batch_size: int) -> None:
        """Stores a tensor of the current batch, which must have one element."""
        # The usual tensor is a scalar like the last one, and can be stored without any conversion.
        if not value.is_cpu:
            self._update_on_device(value, batch_size)
            return
        if value.dtype is not self._dtype or value.dim():
            value = self._keepable(value)
            self._expect(value.dtype)
            self._place = value.device
        self._keep(value.item(), batch_size)

    def update_number(self, value: np.floating[Any], batch_size: int) -> None:
        """Stores a number of the current batch that never was a tensor."""
        self._expect(torch.float64 if value.dtype == np.float64 else torch.float32)
        self._place = self.device
        self._keep(float(value), batch_size)

    def _keep(self, value: float, batch_size: int) -> None:
        """Stores a number, which is one of the kept dtype."""
        self.is_fresh = True
        self._computed = None
        settings = self.settings
        if settings.on_step:
            if self.synchronise is None:
                self._step = value
            else:
                # NCCL has no tensors on the CPU.
                self._step = self.synchronise(torch.tensor(value, dtype=self._dtype, device=self.device))
        if settings.on_epoch:
            if len(self._numbers) >= FOLD_AFTER:
                self.fold()
            self._numbers.append(value)
            self._batch_sizes.append(batch_size)

    def _update_on_device(self, value: Tensor, batch_size: int) -> None:
        """Stores a tensor on its device, which the host does not wait for."""
        tensors = self._tensors
        if (
            tensors is None
            or self._dtype is not None
            or value.dim()
            or value.dtype is not tensors.dtype
            or value.device != tensors.device
        ):
            value = self._keepable(value)
            self._expect(None)
            if tensors is None or value.dtype is not tensors.dtype or value.device != tensors.device:
                self.fold()
                tensors = self._tensors = TensorLog(value)
        self.is_fresh = True
        self._computed = None
        kept = tensors.append(value)
        settings = self.settings
        if settings.on_step:
            self._step = kept if self.synchronise is None else self.synchronise(kept)
        if settings.on_epoch:
            self._batch_sizes.append(batch_size)
        else:
            # Nobody folds a value that is for the step only, so its place is free again.
            tensors.clear()

    def _keepable(self, value: Tensor) -> Tensor:
        """Converts a tensor to a detached scalar, in a dtype in which Lightning accumulates."""
        if value.numel() != 1:
            raise MetricError(
                f"{caller_location()}: `self.log({self.settings.name}, {value})` was called, but the tensor must have "
                f"a single element. Its shape is {tuple(value.shape)}: reduce it first, for example by its mean()."
            )
        return value.detach().reshape(()).to(value.dtype if value.dtype in _NUMPY else default_dtype())

    def _expect(self, dtype: torch.dtype | None) -> None:
        """Prepares for numbers of a dtype, or for tensors. Values of another kind are folded, which keeps the order."""
        if dtype is not self._dtype:
            self.fold()
            # The step's value is of the dtype until now; whatever comes replaces it.
            self._step, self._dtype = None, dtype

    def update_metric(self, metric: Any) -> None:
        """Notes that a torchmetrics object was logged, after the user has called its ``forward``."""
        if self.metric is None or metric is not self.metric:
            raise MetricError(
                f"{caller_location()}: self.log({self.settings.name!r}) got {metric!r}, but before it got "
                f"{self.metric or 'a number'} under the same name. Give each a name of its own."
            )
        self.is_fresh = True
        self._computed = None
        if self.settings.on_step:
            # torchmetrics' private name for the value of the last batch; Lightning relies on it as well.
            cache = self.metric._forward_cache
            self._step = None if cache is None else self._tensor("forward", cache)

    def fold(self) -> tuple[Any, int]:
        """Folds the stored values to one (for a mean, the weighted sum), and returns it with the sum of batch sizes."""
        if self._batch_sizes:
            # There are never both tensors and numbers: either are folded before the others come.
            values = (
                np.array(self._numbers, dtype=_NUMPY[self._dtype]) if self._dtype is not None else self._tensors.take()  # type: ignore[union-attr]
            )
            self._fold(values, np.array(self._batch_sizes, dtype=np.int64))
            self._numbers.clear()
            self._batch_sizes.clear()
        return self._folded, self._weight

    def _fold(self, values: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> None:
        reduction = self.settings.reduction
        if reduction is MEAN:
            # In the values' own dtype, as Lightning multiplies: a wider one would round differently.
            with np.errstate(over="ignore", invalid="ignore"):
                values = values * weights.astype(values.dtype)
        start = values.dtype.type(reduction.initial) if self._folded is None else self._folded
        dtype = np.result_type(values.dtype, start.dtype)
        self._folded = reduction.fold(np.concatenate(([start], values)).astype(dtype))
        self._weight += int(weights.sum())

    def epoch_value(self) -> Tensor | None:
        """Returns the epoch's value so far on this process, as a scalar tensor."""
        if self._computed is None:
            if self.metric is not None:
                self._computed = self._tensor("compute", self.metric.compute())
            else:
                folded, weight = self.fold()
                if folded is None:
                    return None
                self.set_epoch_value(folded, weight)
        return self._computed

    def _tensor(self, method: str, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise MetricError(
                f"The `.{method}()` return of the metric logged as {self.settings.name!r} must be a tensor. Found "
                f"{value}, in {self.settings.fx}. Log the parts of it by names of their own."
            )
        return value.detach()

    def set_epoch_value(self, folded: Any, weight: int) -> None:
        """Sets the epoch's value from folded ones, which may have been reduced over all processes."""
        if self.settings.reduction is MEAN:
            with np.errstate(invalid="ignore", divide="ignore"):
                folded = folded / folded.dtype.type(weight)
        self._computed = self._shown(folded)

    def _shown(self, number: Any) -> Tensor:
        """Returns a number as a tensor on the device on which Lightning has it."""
        is_on_device = self._dtype is None and self._tensors is not None
        return torch.as_tensor(number, device=self._tensors.device if is_on_device else self._place)  # type: ignore[union-attr]

    def shown_step_value(self) -> Tensor | None:
        """Returns the last value on the device where Lightning has it, as a tensor that nothing is written over."""
        step = self.step_value
        return step.clone() if isinstance(step, Tensor) else None if step is None else self._shown(step)

    def reset(self) -> None:
        """Forgets all values, and resets a torchmetrics object."""
        if self.metric is not None:
            self.metric.reset()
        self.is_fresh = False
        self._step = self._folded = self._computed = None
        self._weight = 0
        if self._tensors is not None:
            self._tensors.clear()
        self._numbers.clear()
        self._batch_sizes.clear()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of an interrupted epoch, as tensors and plain values."""
        folded, weight = self.fold()
        step = self.shown_step_value()
        return {
            "settings": self.settings.state_dict(),
            "folded": None if folded is None else torch.from_numpy(np.asarray(folded)),
            "weight": weight,
            "step_value": None if step is None else step.cpu(),
            "is_fresh": self.is_fresh,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], metric: Metric | None, device: torch.device) -> LoggedMetric:
        """Rebuilds a logged metric from its :meth:`state_dict`.

        Its ``arguments`` are empty until the next call logs it.
        """
        restored = cls(Settings.from_state_dict(state["settings"]), arguments={}, metric=metric, device=device)
        folded = state["folded"]
        restored._folded = None if folded is None else folded.numpy()[()]
        restored._weight = state["weight"]
        step = state["step_value"]
        restored._step, restored.is_fresh = None if step is None else step.to(device), state["is_fresh"]
        return restored


CAPACITY: Final = 256
"""The number of values in one array."""


class TensorLog:
    """Scalar tensors of one dtype and device, side by side in the order in which they came.

    Writing into a place that exists takes half the time of a copy, which has to be allocated.
    """

    __slots__ = ("_array", "_count", "_full", "_places", "device", "dtype")

    def __init__(self, like: Tensor) -> None:
        self.dtype: Final = like.dtype
        self.device: Final = like.device
        with torch.inference_mode(False):
            # An array created in inference mode could not be written to outside of it.
            self._array: Final = torch.empty(CAPACITY, dtype=like.dtype, device=like.device)
            # Made once: indexing the array creates a tensor each time.
            self._places: Final = self._array.unbind()
        self._full: list[Tensor] = []
        self._count = 0

    def append(self, value: Tensor) -> Tensor:
        """Stores a scalar without its graph, and returns it; it is overwritten :data:`CAPACITY` values later."""
        if self._count == CAPACITY:
            self._full.append(self._array.clone())
            self._count = 0
        place = self._places[self._count]
        self._count += 1
        place.copy_(value.detach())
        # Rather than what `copy_` returns, which is of the class of the value.
        return place

    def __len__(self) -> int:
        return len(self._full) * CAPACITY + self._count

    def take(self) -> np.ndarray[Any, Any]:
        """Returns all values on the host, in an array of shape ``(len(self),)``, and forgets them."""
        values = torch.cat([*self._full, self._array[: self._count]]).cpu().numpy()
        self.clear()
        return values

    def clear(self) -> None:
        """Forgets all values."""
        self._full.clear()
        self._count = 0

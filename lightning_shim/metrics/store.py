"""All values logged in a training: those of its two stages, and the views that a trainer has of them."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_shim.metrics.collector import MetricCollector, MetricViews


class MetricStore:
    """The collectors of both stages, one of which is current, and the views of a trainer.

    ``reduce`` and ``gather`` are None for a single process.
    """

    def __init__(
        self,
        module: nn.Module,
        batch_size_of: Callable[[Any], int],
        reduce: Callable[..., Tensor] | None,
        gather: Callable[[Any], list[Any]] | None,
        device: torch.device,
    ) -> None:
        def names() -> dict[int, str]:
            return {id(submodule): name for name, submodule in module.named_modules() if isinstance(submodule, Metric)}

        def has_logger() -> bool:
            return getattr(module, "logger", None) is not None

        self.training: Final = MetricCollector(True, batch_size_of, names, reduce, device, has_logger)
        self.validation: Final = MetricCollector(False, batch_size_of, names, reduce, device, has_logger)
        returned = MetricCollector(False, batch_size_of, names, reduce, device)
        self.returned: Final = ReturnedMetrics(self.validation, returned)
        self._gather: Final = gather
        self.collector = self.training
        self.views: Final = MetricViews()

    def enter_stage(self, training: bool) -> None:
        """Makes a stage the current one."""
        self.collector = self.training if training else self.validation
        if not training:
            self.validation.start_within(self.training)

    def current_views(self) -> MetricViews:
        """Returns the views, brought up to date with the current stage."""
        self.views.update(self.collector.current())
        return self.views

    def synchronise(self) -> None:
        """Gives all processes one value of what was logged with ``sync_dist`` for the epoch; they call it together.

        Lightning does so when such a value is read.
        """
        if self._gather is not None:
            self.collector.merge_epoch_values(self._gather(self.collector.partial_epoch_values()))
            # Those of a loader that is over are seen here alone.
            self.views.update(self.collector.collect(on_step=False, every_dataloader=True))

    def forget_views(self) -> None:
        """Clears the views."""
        for view in MetricViews.__slots__:
            getattr(self.views, view).clear()


class ReturnedMetrics:
    """The mean over batches of the numbers that ``validation_step`` returns by name, as in Determined's own trials.

    Lightning reports none of them. Here they count only if the module logs nothing in the whole validation.
    """

    def __init__(self, logged: MetricCollector, returned: MetricCollector) -> None:
        self._logged: Final = logged
        self._returned: Final = returned

    def keep(self, output: Any, dataloader_idx: int | None) -> None:
        """Keeps the numbers of a batch."""
        if not isinstance(output, Mapping) or self._logged.has_values:
            return
        self._returned.start_batch(None, dataloader_idx)
        for name, value in output.items():
            # A tensor with a dimension has one value per sample, even if the batch has a single sample.
            is_number = isinstance(value, Tensor) and value.ndim == 0 and value.dtype != torch.bool
            is_number |= isinstance(value, numbers.Real) and not isinstance(value, bool)
            if isinstance(name, str) and is_number:
                self._returned.log("validation_step", (name, value), {"batch_size": 1})

    @property
    def collector(self) -> MetricCollector:
        """The collector whose values Determined reports."""
        return self._logged if self._logged.has_values else self._returned

    def reset(self) -> None:
        """Forgets all numbers, after a validation."""
        self._returned.reset()

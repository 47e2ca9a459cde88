"""Everything that is logged in a training: in its two stages, and what a trainer shows of it."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from lightning_shim.metrics.collector import MetricCollector, MetricViews


class MetricStore:
    """The collectors of both stages, one of which is the present one, and the views of a trainer.

    Args:
        module: The LightningModule, whose torchmetrics objects are known by their names.
        batch_size_of: Infers the number of samples of a batch; Lightning's ``extract_batch_size``.
        reduce: Reduces a tensor over all processes; ``strategy.reduce``, or None for a single process.
        gather: Gives all processes what each of them has, or None for a single process.

    Attributes:
        training: Keeps what is logged in training.
        validation: Keeps what is logged in validation.
        returned: Keeps what ``validation_step`` returns instead.
        collector: That of the present stage.
        views: The metrics that the trainer shows.
    """

    def __init__(
        self,
        module: nn.Module,
        batch_size_of: Callable[[Any], int],
        reduce: Callable[..., Tensor] | None,
        gather: Callable[[Any], list[Any]] | None,
    ) -> None:
        def names() -> dict[int, str]:
            return {id(submodule): name for name, submodule in module.named_modules()}

        self.training: Final = MetricCollector(True, batch_size_of, names, reduce)
        self.validation: Final = MetricCollector(False, batch_size_of, names, reduce)
        self.returned: Final = ReturnedMetrics(self.validation, MetricCollector(False, batch_size_of, names, reduce))
        self._gather: Final = gather
        self.collector = self.training
        self.views: Final = MetricViews()

    def enter_stage(self, training: bool) -> None:
        """Says which stage is the present one.

        Args:
            training: Whether it is training; otherwise it is validation.
        """
        self.collector = self.training if training else self.validation

    def current_views(self) -> MetricViews:
        """Returns what may be seen of the metrics at this moment."""
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
        """Shows nothing of what has been logged by now."""
        for view in MetricViews.__slots__:
            getattr(self.views, view).clear()


class ReturnedMetrics:
    """Averages the numbers that ``validation_step`` returns in dictionaries, over batches, as Determined's trials do.

    Lightning reports none of them, and here they count only if the module logs nothing in the whole validation.

    Args:
        logged: What the module logs in validation.
        returned: Where the numbers are kept.
    """

    def __init__(self, logged: MetricCollector, returned: MetricCollector) -> None:
        self._logged: Final = logged
        self._returned: Final = returned

    def keep(self, output: Any, dataloader_idx: int | None) -> None:
        """Keeps the numbers of a batch.

        Args:
            output: What ``validation_step`` returned.
            dataloader_idx: The index of the loader where there are several.
        """
        if not isinstance(output, Mapping) or self._logged.has_values:
            return
        self._returned.start_batch(None, dataloader_idx)
        for name, value in output.items():
            # A tensor with a dimension is one of the samples', even if the batch has one only.
            is_number = isinstance(value, Tensor) and value.ndim == 0 and value.dtype != torch.bool
            is_number |= isinstance(value, numbers.Real) and not isinstance(value, bool)
            if isinstance(name, str) and is_number:
                self._returned.log("validation_step", name, value, batch_size=1)

    @property
    def collector(self) -> MetricCollector:
        """What is to be reported of the validation."""
        return self._logged if self._logged.has_values else self._returned

    def reset(self) -> None:
        """Forgets all numbers, after a validation."""
        self._returned.reset()

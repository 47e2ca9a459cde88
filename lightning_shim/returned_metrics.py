"""The metrics of a module that logs nothing in validation, but returns them from ``validation_step``."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from lightning_shim.metrics import MetricCollector


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

"""Keeps the tensors that are logged under one name on their device, until somebody asks for them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

CAPACITY: Final = 256
"""Values that are kept in place; more of them are put aside in arrays of this many."""


class TensorLog:
    """Tensors of no dimensions, of one dtype and on one device, side by side in the order in which they came.

    Writing into a place that is there already takes half the time of a copy that has to be allocated.

    Args:
        like: A tensor of the dtype and on the device.
    """

    __slots__ = ("_array", "_count", "_full", "_places", "device", "dtype")

    def __init__(self, like: Tensor) -> None:
        self.dtype: Final = like.dtype
        self.device: Final = like.device
        with torch.inference_mode(False):
            # Otherwise what is first logged in inference mode could not be written to outside it.
            self._array: Final = torch.empty(CAPACITY, dtype=like.dtype, device=like.device)
            self._places: Final = self._array.unbind()
        self._full: list[Tensor] = []
        self._count = 0

    def append(self, value: Tensor) -> Tensor:
        """Keeps a value.

        Args:
            value: A tensor of no dimensions; its graph is not kept.

        Returns:
            The value where it is kept; it stays there until :data:`CAPACITY` further ones have been kept.
        """
        if self._count == CAPACITY:
            self._full.append(self._array.clone())
            self._count = 0
        place = self._places[self._count]
        self._count += 1
        return place.copy_(value.detach())

    def __len__(self) -> int:
        return len(self._full) * CAPACITY + self._count

    def take(self) -> np.ndarray[Any, Any]:
        """Returns all values, of shape ``(len(self),)``, on the host, and starts anew."""
        values = torch.cat([*self._full, self._array[: self._count]]).cpu().numpy()
        self.clear()
        return values

    def clear(self) -> None:
        """Forgets all values."""
        self._full.clear()
        self._count = 0

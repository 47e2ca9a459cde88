"""Values of a step on their way to where they are shown; nobody waits for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_PLACES = 16


class ShownValues:
    """Copies values to the host behind the work that the device has been given by now.

    Args:
        device: Where the training runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: list[str] = []
        self._event: torch.cuda.Event | None = None
        self._make_places(_PLACES)

    def _make_places(self, count: int) -> None:
        # Only into memory that the system cannot move does the device write without the host.
        self._places = torch.empty(count, pin_memory=self._device.type == "cuda")
        # Reading an array is not reading a tensor, which may be on a device.
        self._array = self._places.numpy()

    @property
    def is_under_way(self) -> bool:
        """Whether values have been sent that nobody has taken or dropped."""
        return bool(self._names)

    def send(self, values: Mapping[str, Any]) -> None:
        """Has values copied when the device has computed them.

        Args:
            values: By name; what is no number, or no tensor of one element, is left out.
        """
        numbers = {name: value for name, value in values.items() if not isinstance(value, Tensor) or value.numel() == 1}
        if len(numbers) > len(self._array):
            self._make_places(2 * len(numbers))
        for place, value in zip(self._places, numbers.values(), strict=False):
            if isinstance(value, Tensor):
                place.copy_(value.detach().reshape(()), non_blocking=True)
            else:
                place.fill_(float(value))
        self._names = list(numbers)
        if self._device.type == "cuda":
            self._event = torch.cuda.current_stream(self._device).record_event()

    def take(self) -> dict[str, float] | None:
        """Returns the values that have been sent, by name; None while the device has not come to them."""
        if self._event is not None and not self._event.query():  # type: ignore[no-untyped-call]
            return None
        names, self._names = self._names, []
        return dict(zip(names, self._array.tolist(), strict=False))

    def drop(self) -> None:
        """Forgets what is under way, since there are newer values."""
        self._names = []

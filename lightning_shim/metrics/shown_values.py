"""Values of a step on their way to where they are shown; nobody waits for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_PLACES = 16


class ShownValues:
    """Copies values to the host behind the work that the device has been given by now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._values: dict[str, float] = {}
        # Of the values, those that the device copies to the places, in their order.
        self._copied: list[str] = []
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
        return bool(self._values)

    def send(self, values: Mapping[str, Any]) -> None:
        """Has numbers, and tensors of one element, copied when the device has computed them."""
        numbers = {name: value for name, value in values.items() if not isinstance(value, Tensor) or value.numel() == 1}
        is_there = {name: isinstance(value, Tensor) and value.device == self._device for name, value in numbers.items()}
        self._copied = [name for name in numbers if is_there[name]]
        # Into the places writes the device alone: it may still be writing values there that have been dropped.
        self._values = {
            # A placeholder for those, which keeps their order.
            name: 0.0 if is_there[name] else value.item() if isinstance(value, Tensor) else float(value)
            for name, value in numbers.items()
        }
        if len(self._copied) > len(self._array):
            self._make_places(2 * len(self._copied))
        for place, name in zip(self._places, self._copied, strict=False):
            place.copy_(numbers[name].detach().reshape(()), non_blocking=True)
        if self._device.type == "cuda":
            self._event = torch.cuda.current_stream(self._device).record_event()

    def take(self) -> dict[str, float] | None:
        """Returns the values that have been sent, by name; None while the device has not come to them."""
        if self._event is not None and not self._event.query():  # type: ignore[no-untyped-call]
            return None
        values = self._values | dict(zip(self._copied, self._array.tolist(), strict=False))
        self.drop()
        return values

    def drop(self) -> None:
        """Forgets what is under way, since there are newer values."""
        self._values, self._copied = {}, []

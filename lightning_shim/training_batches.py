"""The batches of all epochs, as Determined's loop wants a loader to give them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from lightning_shim.training_loop import TrainingLoop


class TrainingBatches:
    """What Determined iterates, and takes the length of an epoch from.

    Args:
        loop: Gives the batches.
    """

    def __init__(self, loop: TrainingLoop) -> None:
        self._loop: Final = loop
        loop.verify_periods()

    def __iter__(self) -> Iterator[Any]:
        return self._loop.batches()

    def __len__(self) -> int:
        length = self._loop.length
        if length is None:
            # What Determined expects of a loader without a length.
            raise TypeError("the training loaders have no length")
        return length

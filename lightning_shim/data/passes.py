"""One pass over the loaders, as Lightning's data fetchers make them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_shim.upstream.lightning import batches_of


@dataclass(frozen=True, slots=True)
class _LengthOnly:
    """A loader's length without its batches."""

    loader: Any

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def length_of(combined: Any) -> int | None:
    """Returns the number of batches of a pass over a CombinedLoader.

    Args:
        combined: Lightning's CombinedLoader.

    Returns:
        The number, or None if it is unknown.
    """
    # A CombinedLoader knows its length only while it is iterated. To iterate the loaders themselves would start their
    # workers and draw random numbers.
    probe = copy.copy(combined)
    probe.flattened = [_LengthOnly(loader) for loader in combined.flattened]
    return _length(iter(probe))


def _length(combined: Any) -> int | None:
    try:
        return len(combined)
    except (TypeError, NotImplementedError):
        return None


class Batches:
    """One pass over the loaders.

    Without a length, one batch is fetched ahead to find out which is the last, as in Lightning's prefetcher.

    Args:
        combined: Lightning's CombinedLoader.
        fetched: The number of batches already taken, if the pass is resumed.
        ahead: The batch fetched ahead at that time, as in :meth:`state_dict`.

    Attributes:
        length: The number of batches, or None if it is unknown.
    """

    def __init__(self, combined: Any, fetched: int = 0, ahead: Tensor | None = None) -> None:
        self._iterator = batches_of(combined)
        self.length = _length(combined)
        self._fetched = fetched
        self._ahead: list[tuple[Any, int, int]] = [] if ahead is None else pickle.loads(ahead.numpy().tobytes())
        if ahead is not None:
            # A resumed loader starts with a placeholder for the batches that were taken: see TrackedLoader.resume.
            next(self._iterator)
        elif self.length is None:
            self._fetch_ahead()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the pass, to which the loaders' positions have to be added."""
        # A tensor may be a view of a large one, and pickling it would save all of that one's storage.
        ahead = pickle.dumps(apply_to_collection(self._ahead, Tensor, Tensor.clone))
        # A batch may contain any class, while a weights_only load admits only PyTorch's: hence a pickle in a pickle. As
        # a tensor it takes up less space than as bytes.
        return {"fetched": self._fetched, "ahead": torch.frombuffer(bytearray(ahead), dtype=torch.uint8)}

    def release(self) -> None:
        """Drops the loaders' iterators, which end their workers, even if somebody still holds this object."""
        self._iterator = iter(())

    def _fetch_ahead(self) -> None:
        try:
            self._ahead.append(next(self._iterator))
        except StopIteration:
            self.length = self._fetched

    def __iter__(self) -> Iterator[tuple[Any, int, int, bool]]:
        return self

    def __next__(self) -> tuple[Any, int, int, bool]:
        """Returns the batch, its index, the index of its loader, and whether it is the last one."""
        if self.length is not None and not self._ahead:
            if self._fetched >= self.length:
                # Asking once more would restart a loader that cycles, which draws random numbers.
                raise StopIteration
            batch = next(self._iterator)
            self._fetched += 1
            return (*batch, self._fetched >= self.length)
        if not self._ahead:
            raise StopIteration
        batch = self._ahead.pop()
        self._fetched += 1
        self._fetch_ahead()
        return (*batch, not self._ahead)

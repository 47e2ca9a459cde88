"""One pass over the loaders, as Lightning's data fetchers make it."""

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
class _Length:
    """Has a loader's length, and no batches."""

    loader: Any

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def length_of(combined: Any) -> int | None:
    """Tells how many batches a pass over a CombinedLoader has; it does so itself only when it is iterated.

    Args:
        combined: Lightning's CombinedLoader.

    Returns:
        The number, or None if it is not known.
    """
    probe = copy.copy(combined)
    probe.flattened = [_Length(loader) for loader in combined.flattened]
    return _length(iter(probe))


def _length(combined: Any) -> int | None:
    try:
        return len(combined)
    except (TypeError, NotImplementedError):
        return None


class Batches:
    """One pass over the loaders.

    Without a length, one batch is fetched ahead to know which is the last, as in Lightning's prefetcher.

    Args:
        combined: Lightning's CombinedLoader.
        fetched: The batches that were taken before, if the pass goes on.
        ahead: What was fetched ahead then, as :meth:`state_dict` has it.

    Attributes:
        length: The number of batches, or None if it is not known.
    """

    def __init__(self, combined: Any, fetched: int = 0, ahead: Tensor | None = None) -> None:
        self._iterator = batches_of(combined)
        self.length = _length(combined)
        self._fetched = fetched
        self._ahead: list[tuple[Any, int, int]] = [] if ahead is None else pickle.loads(ahead.numpy().tobytes())
        if ahead is not None:
            # Stands for those that were taken.
            next(self._iterator)
        elif self.length is None:
            self._fetch_ahead()

    def state_dict(self) -> dict[str, Any]:
        """Returns what is to be known to go on beside where the loaders stand."""
        # A tensor may be a part of a large one, all of which would be saved.
        ahead = pickle.dumps(apply_to_collection(self._ahead, Tensor, Tensor.clone))
        # A batch may be of any class, and Lightning loads none but PyTorch's. A tensor takes up less than bytes.
        return {"fetched": self._fetched, "ahead": torch.frombuffer(bytearray(ahead), dtype=torch.uint8)}

    def release(self) -> None:
        """Lets go of the loaders' iterators, whoever keeps this object: what holds workers ends them with it."""
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
                # Loaders that are cycled start again, and draw random numbers, if they are asked once more.
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

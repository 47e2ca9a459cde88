"""One pass over the loaders, as Lightning's data fetchers make them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

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
    """Returns the number of batches of a pass over a CombinedLoader."""
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


@dataclass(frozen=True, slots=True)
class CommonEnd:
    """The end of a pass on all processes."""

    length: int | None = None  # the number of batches that all processes have; None if it is unknown
    # Asks all processes together whether each has another batch; None if the length tells.
    all_go_on: Callable[[bool], bool] | None = None


OWN_END: Final = CommonEnd()
"""The end of the loaders of this process alone."""


class Batches:
    """One pass over the loaders, which may be resumed after the ``fetched`` batches and the one fetched ``ahead``.

    Without a length, one batch is fetched ahead to find out which is the last, as in Lightning's prefetcher.
    """

    def __init__(self, combined: Any, end: CommonEnd = OWN_END, fetched: int = 0, ahead: Tensor | None = None) -> None:
        self._iterator = batches_of(combined)
        self._all_go_on: Final = end.all_go_on
        own = _length(combined) if end.all_go_on is None else None
        self.length = own if own is None or end.length is None else min(own, end.length)
        self.fetched = fetched
        self._ahead: list[tuple[Any, int, int]] = [] if ahead is None else _unpickled(ahead)
        if ahead is not None:
            # A resumed loader starts with a placeholder for the batches that were taken: see TrackedLoader.resume.
            next(self._iterator)
        elif self.length is None:
            self._fetch_ahead()
        self.done = self.length is not None and not self._ahead and fetched >= self.length

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the pass, to which the loaders' positions have to be added."""
        return {"fetched": self.fetched, "ahead": _pickled(self._ahead)}

    def release(self) -> None:
        """Drops the loaders' iterators, which end their workers, even if somebody still holds this object."""
        self._iterator = iter(())

    def _fetch(self) -> tuple[Any, int, int] | None:
        """Returns a batch; None if there are no more, or if all processes agree and another one has no more."""
        batch = next(self._iterator, None)
        goes_on = batch is not None if self._all_go_on is None else self._all_go_on(batch is not None)
        return batch if goes_on else None

    def _fetch_ahead(self) -> None:
        batch = self._fetch()
        if batch is None:
            self.length = self.fetched
        else:
            self._ahead.append(batch)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        return self

    def __next__(self) -> tuple[Any, int, int]:
        """Returns the batch, its index and the index of its loader."""
        if self.done:
            # Asking once more would restart a loader that cycles, which draws random numbers.
            raise StopIteration
        if self.length is not None and not self._ahead:
            batch = next(self._iterator)
            self.fetched += 1
            self.done = self.fetched >= self.length
            return batch
        batch = self._ahead.pop()
        self.fetched += 1
        self._fetch_ahead()
        self.done = not self._ahead
        return batch


class DataFetcherWrapper(Batches):
    """The argument of ``training_step(self, dataloader_iter)``: the step itself takes batches, as many as it likes.

    Lightning's ``_DataFetcherWrapper``, whose class it says it is of: modules ask by isinstance. Nothing is fetched
    ahead, so that only a step that asks in vain finds the end of a loader without a length. Hooks get the ``batch``
    that was taken last, and ``self.log`` its size.
    """

    def __init__(
        self,
        lightnings_class: type,
        combined: Any,
        end: CommonEnd = OWN_END,
        fetched: int = 0,
        ahead: Tensor | None = None,
        latest: Tensor | None = None,
    ) -> None:
        self._lightnings_class = lightnings_class
        super().__init__(combined, end, fetched, ahead)
        # A resumed loader counts its batches from the placeholder on.
        self._before = 0 if ahead is None else fetched - 1
        self.batch: Any
        self.batch_idx: int
        self.dataloader_idx: int
        self.batch, self.batch_idx, self.dataloader_idx = (None, 0, 0) if latest is None else _unpickled(latest)

    @property  # type: ignore[misc]  # it is only read
    def __class__(self) -> Any:
        return self._lightnings_class

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the pass, to which the loaders' positions have to be added."""
        return super().state_dict() | {"latest": _pickled((self.batch, self.batch_idx, self.dataloader_idx))}

    def _fetch_ahead(self) -> None:
        pass

    def __next__(self) -> tuple[Any, int, int]:
        """Returns the next batch, its index and the index of its loader."""
        if self.done:
            raise StopIteration
        taken = self._fetch()
        if taken is None:
            self.done = True
            raise StopIteration
        batch, batch_idx, dataloader_idx = taken
        self.fetched += 1
        self.done = self.length is not None and self.fetched >= self.length
        self.batch, self.batch_idx, self.dataloader_idx = batch, self._before + batch_idx, dataloader_idx
        return self.batch, self.batch_idx, self.dataloader_idx


def _pickled(batches: Any) -> Tensor:
    """Returns batches as a tensor of bytes."""
    # A tensor may be a view of a large one, and pickling it would save all of that one's storage.
    pickled = pickle.dumps(apply_to_collection(batches, Tensor, Tensor.clone))
    # A batch may contain any class, while a weights_only load admits only PyTorch's: hence a pickle in a pickle. As a
    # tensor it takes up less space than as bytes.
    return torch.frombuffer(bytearray(pickled), dtype=torch.uint8)


def _unpickled(pickled: Tensor) -> Any:
    return pickle.loads(pickled.numpy().tobytes())

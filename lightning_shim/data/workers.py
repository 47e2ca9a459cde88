"""The random states of a loader's workers: reported with each batch, and restored when a trial is resumed.

A worker's random numbers depend on the batches that it has made. Without its state, a resumed trial would have to make
all of them once more.
"""

from __future__ import annotations

import copy
import functools
import itertools
import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import queues, util
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from lightning_shim.data.parts import attributes_of, parts_in_workers
from lightning_shim.session.fingerprints import IN_WORKERS, fingerprint_of
from lightning_shim.session.own_generators import OwnGenerators
from lightning_shim.upstream.torch import Skip, has_workers_running
from lightning_shim.user_code.user_class import is_users_class

WorkerState = dict[str, bytes]
"""The pickled states of the generators that are no longer as the worker's seed made them."""


class Reported(NamedTuple):
    """A batch, the worker that made it, and the random states that changed with it."""

    batch: Any
    worker: int
    changed: WorkerState
    attributes: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class InWorkers:
    """The state that lives in a loader's workers, as far as it is known here."""

    # The random states to start from, by the worker's index; updated with each batch that is taken.
    states: dict[int, WorkerState]
    packages: frozenset[str]  # the packages whose classes are the user's; the attributes of their parts are looked at
    # The attributes that have changed in workers, each by the name of a part and its own; added to.
    changed: set[tuple[str, str]]


def _leave_if_orphaned(parent: int) -> None:
    """Ends a worker whose parent was killed.

    It would otherwise wait for somebody to read its last batches: with the states they may be more than a pipe holds.
    """
    if os.getppid() != parent:
        os._exit(1)


class ChangingAttributes:
    """The attributes of a worker's copies that change, each told once.

    They are looked at after 1, 2, 4, 8, ... batches, so that it costs little however many there are.
    """

    def __init__(self, parts: Mapping[str, Any], packages: frozenset[str]) -> None:
        self._packages: Final = packages
        self._parts: Final = {name: part for name, part in parts.items() if is_users_class(type(part), packages)}
        self._at_first: Final = dict(self._fingerprints())
        self._told: Final[set[tuple[str, str]]] = set()
        self._batches = 0

    def _fingerprints(self) -> Iterator[tuple[tuple[str, str], Any]]:
        for name, part in self._parts.items():
            for attribute, value in attributes_of(part).items():
                yield (name, attribute), fingerprint_of(value, self._packages, IN_WORKERS)

    def after_batch(self) -> list[tuple[str, str]]:
        """Returns those that have changed, each by the name of a part and its own."""
        self._batches += 1
        if not self._parts or self._batches & (self._batches - 1):
            return []
        changed = [
            place
            for place, fingerprint in self._fingerprints()
            if place not in self._told and fingerprint != self._at_first.get(place)
        ]
        self._told.update(changed)
        return changed


class WorkerReporter:
    """Replaces a loader's ``collate_fn`` and ``worker_init_fn`` in its workers."""

    def __init__(
        self, collate_fn: Callable[[Any], Any], worker_init_fn: Callable[[int], None] | None, seen: InWorkers
    ) -> None:
        self._collate_fn: Final = collate_fn
        self._worker_init_fn: Final = worker_init_fn
        self._states: Final = {worker: dict(state) for worker, state in seen.states.items()}
        self._packages: Final = seen.packages
        self._worker = -1
        self._own = OwnGenerators({})
        self._last: dict[str, Any] = {}
        self._attributes = ChangingAttributes({}, frozenset())

    def start(self, worker: int) -> None:
        """Restores a worker's random state. It is called once in each worker, after PyTorch has seeded it."""
        if self._worker_init_fn is not None:
            self._worker_init_fn(worker)
        self._worker = worker
        util.Finalize(self, _leave_if_orphaned, (os.getppid(),), exitpriority=0)
        info = get_worker_info()
        assert info is not None
        self._own = OwnGenerators({"dataset": info.dataset, "collate_fn": self._collate_fn})
        for name, state in self._states.get(worker, {}).items():
            self._restore(name, pickle.loads(state))
        self._last = self._capture()
        self._attributes = ChangingAttributes(parts_in_workers(info.dataset, self._collate_fn), self._packages)

    def collate(self, samples: Any) -> Reported:
        """Makes a batch, and adds the states that changed with it."""
        batch = self._collate_fn(samples)
        # Only changes are sent: one state of NumPy or PyTorch is larger than many a batch, and most workers draw from
        # one generator or from none.
        states = self._capture()
        changed = {name: pickle.dumps(state) for name, state in states.items() if state != self._last[name]}
        self._last = states
        return Reported(batch, self._worker, changed, self._attributes.after_batch())

    def _capture(self) -> dict[str, Any]:
        own = self._own.capture()
        return {
            "python": random.getstate(),
            # As bytes, since arrays and tensors cannot be compared by `!=`.
            "numpy": pickle.dumps(np.random.get_state(legacy=False)),
            "torch": torch.get_rng_state().numpy().tobytes(),
            "own": pickle.dumps(own) if own else b"",
        }

    def _restore(self, name: str, state: Any) -> None:
        if name == "python":
            random.setstate(state)
        elif name == "numpy":
            np.random.set_state(pickle.loads(state))
        elif name == "torch":
            torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
        else:
            self._own.restore(pickle.loads(state))


def iterate_with_workers(
    loader: DataLoader[Any], seen: InWorkers, skip: Skip | None, before_reset: Callable[[], None] | None
) -> Iterator[Any]:
    """Does the same as ``iter(loader)`` for a loader with workers, and keeps track of the workers' random states.

    ``skip`` advances the sampler's iterator before anything is loaded, and ``before_reset`` is called after the workers
    have been started and before the sampler is iterated.
    """
    if has_workers_running(loader) and not isinstance(loader._iterator, _WorkerIterator):
        # The user has iterated the loader before, and its persistent workers report nothing.
        return iter(loader)
    if has_workers_running(loader):
        iterator: Any = loader._iterator
        iterator.seen = seen
        iterator._reset(loader)
        return iterator  # type: ignore[no-any-return]
    loader.check_worker_number_rationality()
    iterator = _WorkerIterator(loader, seen, skip, before_reset)
    if loader.persistent_workers:
        loader._iterator = iterator
    return iterator  # type: ignore[no-any-return]


def _start_worker(reporter: WorkerReporter, worker: int) -> None:
    queues.Queue._on_queue_feeder_error = _send_the_error  # type: ignore[attr-defined]
    reporter.start(worker)


def _send_the_error(queue: Any, error: Exception, data: tuple[int, Any]) -> None:
    """Replaces a batch that cannot be pickled. Python would print the error, and the main process wait for ever."""
    index, _ = data
    info = (type(error), error, error.__traceback__)
    where = "in a DataLoader worker process that handed over a batch"
    queue.put((index, ExceptionWrapper(info, where)))  # type: ignore[no-untyped-call]


class _WorkerIterator(_MultiProcessingDataLoaderIter):
    """PyTorch's own iterator, which also keeps the workers' states and can skip indices."""

    def __init__(
        self, loader: DataLoader[Any], seen: InWorkers, skip: Skip | None, before_reset: Callable[[], None] | None
    ) -> None:
        self.seen = seen
        self._skip = skip
        self._before_reset = before_reset
        self._is_resetting = False
        reporter = WorkerReporter(loader.collate_fn, loader.worker_init_fn, seen)
        # A copy: the user's loader stays as it is.
        loader = copy.copy(loader)
        loader.collate_fn = reporter.collate
        loader.worker_init_fn = functools.partial(_start_worker, reporter)
        super().__init__(loader)

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        if first_iter and self._before_reset is not None:
            self._before_reset()
        if not first_iter:
            # Workers run ahead. Batches that were loaded and never taken have changed their states as well, and the
            # next pass starts from there: these batches were received already, those on their way arrive in _get_data.
            for _, waiting in sorted(self._task_info.items()):
                for data in waiting[1:]:
                    self._keep(data)
        self._is_resetting = True
        super()._reset(loader, first_iter)
        self._is_resetting = False

    def _get_data(self) -> Any:
        index, data = super()._get_data()  # type: ignore[no-untyped-call]
        if self._is_resetting:
            self._keep(data)
        return index, data

    def _next_index(self) -> Any:
        if self._skip is not None:
            skip, self._skip = self._skip, None
            # Batches go to the workers in turn. The turn advances as well, so that each worker makes the batches that
            # it would have made without the pause.
            for _ in itertools.repeat(None, skip(self._sampler_iter) % self._num_workers):
                next(self._worker_queue_idx_cycle)
        return super()._next_index()  # type: ignore[no-untyped-call]

    def _process_data(self, data: Any, *worker_idx: int) -> Any:
        # PyTorch passes the worker's index since 2.6.
        data = super()._process_data(data, *worker_idx)  # type: ignore[no-untyped-call]
        self._keep(data)
        return data.batch

    def _keep(self, data: Any) -> None:
        if isinstance(data, Reported):
            self.seen.states.setdefault(data.worker, {}).update(data.changed)
            self.seen.changed.update(data.attributes)

"""What runs in a loader's workers: tells the random states with each batch, and continues from such states.

A worker's random numbers depend on the batches that it has made. A trial that is paused and goes on would have to make
them again, had it not kept where each worker stood.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Mapping
from multiprocessing import util
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch.utils.data import get_worker_info

from lightning_shim.own_generators import OwnGenerators

WorkerState = dict[str, bytes]
"""The pickled states of those generators that are not as the worker's seed has made them."""


class Reported(NamedTuple):
    """A batch, the worker that made it, and the states that it has changed."""

    batch: Any
    worker: int
    changed: WorkerState


def _leave_if_orphaned(parent: int) -> None:
    """Ends a worker whose parent was killed.

    It would otherwise wait until its last batches are read; with the states they may be more than a pipe holds.
    """
    if os.getppid() != parent:
        os._exit(1)


class WorkerReporter:
    """Takes the place of a loader's ``collate_fn`` and ``worker_init_fn`` in its workers.

    Args:
        collate_fn: The loader's own.
        worker_init_fn: The loader's own, if there is one.
        states: Where the workers continue, by their index; a worker that is not there starts from its seed.
    """

    def __init__(
        self,
        collate_fn: Callable[[Any], Any],
        worker_init_fn: Callable[[int], None] | None,
        states: Mapping[int, WorkerState],
    ) -> None:
        self._collate_fn: Final = collate_fn
        self._worker_init_fn: Final = worker_init_fn
        self._states: Final = {worker: dict(state) for worker, state in states.items()}
        self._worker = -1
        self._own = OwnGenerators({})
        self._last: dict[str, Any] = {}

    def start(self, worker: int) -> None:
        """Called once in each worker, when it has been seeded.

        Args:
            worker: The worker's index.
        """
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

    def collate(self, samples: Any) -> Reported:
        """Makes a batch.

        Args:
            samples: What the dataset gave.

        Returns:
            The batch, and what it has changed.
        """
        batch = self._collate_fn(samples)
        states = self._capture()
        changed = {name: pickle.dumps(state) for name, state in states.items() if state != self._last[name]}
        self._last = states
        return Reported(batch, self._worker, changed)

    def _capture(self) -> dict[str, Any]:
        own = self._own.capture()
        return {
            "python": random.getstate(),
            # Arrays and tensors as bytes, which can be compared.
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

"""Where Lightning's loops go on from a checkpoint: they are asked, since each version has its own answer."""

from __future__ import annotations

import contextlib
import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from lightning_shim.upstream.lightning_trainer import validation_seconds
from lightning_shim.upstream.namespaces import namespace_of


class FirstWork(enum.Enum):
    """What an epoch begins with that goes on from a checkpoint."""

    BATCH = enum.auto()  # another batch
    VALIDATION = enum.auto()  # the validation that is due after the checkpoint's last batch
    END_OF_BATCH = enum.auto()  # what comes after that validation
    END_OF_EPOCH = enum.auto()  # the end of the epoch


@dataclass(frozen=True, slots=True)
class Restart:
    """How the first epoch after a checkpoint begins."""

    first: FirstWork
    starts_epoch: bool  # whether on_train_epoch_start is called
    makes_iterators: bool  # whether the loaders' iterators are made once more
    leaves_out_validation: bool  # whether a validation that was due is counted, and not run
    loops: dict[str, Any]  # the state of the loops when the first work begins


class _FirstBatch(Exception):
    """Lightning's loop asks for a batch."""


class _Trainer:
    """The Trainer of the loops: they count for themselves, and the trial answers all else."""

    world_size: Final = 1  # or they would exchange signals
    strategy: Final = SimpleNamespace(handles_gradient_accumulation=False)
    fit_loop: Any
    _last_val_time: Final = 0.0

    def __init__(self, of_trial: Any, max_steps: int) -> None:
        self._of_trial: Final = of_trial
        self.max_steps: Final = max_steps
        # Its clock has just started, so that no validation is due.
        self._val_check_time_interval: Final = None if validation_seconds(of_trial) is None else math.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of_trial, name)

    @property
    def current_epoch(self) -> int:
        return int(self.fit_loop.epoch_progress.current.completed)


class RestartedLoops:
    """Lightning's loops with the state of a checkpoint. They train nothing.

    Args:
        trainer: The trial's facade.
        state: The state of the checkpoint's ``fit_loop``.
        max_steps: The optimizer steps after which they end, wherever that is in an epoch; -1 if it is Determined's loop
            that ends.
    """

    def __init__(self, trainer: Any, state: dict[str, Any], max_steps: int) -> None:
        self._namespace: Final = namespace_of(trainer.lightning_module)
        self._of_trial: Final = trainer
        self._trainer: Final = _Trainer(trainer, max_steps)
        self._loop: Final = self._namespace.module("loops.fit_loop")._FitLoop(self._trainer)
        self._trainer.fit_loop = self._loop
        self._loop.load_state_dict(state)

    def restore_loaders(self, combined: Any) -> None:
        """Restores those loaders of a CombinedLoader that have a state in the checkpoint."""
        with self._lent(combined):
            self._loop._load_combined_loader_states()

    @contextlib.contextmanager
    def _lent(self, combined: Any) -> Iterator[None]:
        """Lends the loops the loaders, whose state would be part of their own otherwise."""
        self._loop._combined_loader = combined
        yield
        self._loop._combined_loader = None

    @property
    def state(self) -> dict[str, Any]:
        """The state of the loops."""
        state: dict[str, Any] = self._loop.state_dict()
        return state

    @property
    def is_restarting(self) -> bool:
        """Whether an epoch goes on that the checkpoint was written in, and not another one starts."""
        return bool(self._loop.restarting)

    @property
    def are_done(self) -> bool:
        """Whether nothing is left to train. As in Lightning, a processed epoch counts as completed then."""
        trainer, epochs = self._of_trial, self._loop.epoch_progress.current
        if 0 <= trainer.max_steps <= trainer.global_step:
            return True
        is_done: bool = 0 <= trainer.max_epochs <= epochs.processed
        if is_done:
            epochs.completed = epochs.processed
        return is_done

    def start(self) -> None:
        """Counts as Lightning does before ``on_train_start``."""
        self._loop.reset()
        if not self._loop._iteration_based_training():
            self._loop.epoch_progress.current.completed = self._loop.epoch_progress.current.processed

    def start_epoch(self, combined: Any, is_taken_by_steps: bool) -> Restart:
        """Counts as Lightning does from ``on_train_start`` to its first work, and tells what that is.

        Args:
            combined: The CombinedLoader of the training.
            is_taken_by_steps: Whether the steps take batches themselves.
        """
        fit_loop, epoch_loop = self._loop, self._loop.epoch_loop
        starts_epoch = not any(
            getattr(fit_loop, name, False) for name in ("restarted_mid_epoch", "restarted_on_epoch_end")
        )
        if starts_epoch:
            if not getattr(fit_loop, "restarted_on_epoch_start", False):
                fit_loop.epoch_progress.increment_ready()
            fit_loop.epoch_progress.increment_started()
        fit_loop.min_epochs = self._trainer.min_epochs
        epoch_loop.min_steps, epoch_loop.max_steps = self._trainer.min_steps, self._trainer.max_steps
        left_out: list[Any] = []
        validation = epoch_loop.val_loop
        validation._max_batches = self._trainer.num_val_batches
        validation.setup_data = lambda: None
        validation.reset = lambda: left_out.append(validation.batch_progress.reset_on_restart())
        fetcher = self._fetcher("_DataLoaderIterDataFetcher" if is_taken_by_steps else "_PrefetchDataFetcher")
        with self._lent(combined):
            epoch_loop.reset()
        epoch_loop.on_run_start(fetcher)
        first = FirstWork.END_OF_EPOCH if epoch_loop.done else self._first_of(fetcher)
        return Restart(first, starts_epoch, fetcher.was_iterated, bool(left_out), self.state)

    def _fetcher(self, name: str) -> Any:
        base: Any = getattr(self._namespace.module("loops.fetchers"), name)

        class Fetcher(base):  # type: ignore[misc]  # it is not known before
            was_iterated = False

            def __iter__(self) -> Any:
                self.was_iterated = True
                return self

            def __next__(self) -> Any:
                raise _FirstBatch

        return Fetcher()

    def _first_of(self, fetcher: Any) -> FirstWork:
        try:
            self._loop.epoch_loop.advance(fetcher)
        except _FirstBatch:
            return FirstWork.BATCH
        is_skipped = getattr(self._loop.epoch_loop, "_skip_next_val", False)
        return FirstWork.END_OF_BATCH if is_skipped else FirstWork.VALIDATION


def states_of_loaders(combined: Any) -> list[dict[str, Any]]:
    """Returns the states of those loaders of a CombinedLoader that have one."""
    states: list[dict[str, Any]] = combined._state_dicts()
    return states

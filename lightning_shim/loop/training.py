"""Lightning's loop over epochs and training batches, turned inside out: Determined's loop asks, this one answers.

Determined fetches a batch, calls ``train_batch``, then reports, validates and writes checkpoints as its periods say.
What Lightning does between two batches is therefore done when the next batch is asked for, or when a validation has
ended; ``Progress`` knows what is still due, so that a checkpoint in between loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from lightning_shim.compatibility.before_training import takes_batch_idx
from lightning_shim.data.passes import Batches
from lightning_shim.data.source import DataSource
from lightning_shim.diagnostics.errors import ConfigurationError, DifferenceWarning
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.loop.epoch_outputs import StepOutputs, TrainingOutputs
from lightning_shim.loop.optimization import Optimization
from lightning_shim.loop.runtime import Runtime
from lightning_shim.loop.validation import EvaluationLoop
from lightning_shim.session.random_state import RandomState

SKIPPED: Final = object()
"""Stands for a batch that is only counted: Determined's epochs all have the same number of batches."""


class TrainingLoop:
    """Lightning's ``_FitLoop`` and ``_TrainingEpochLoop``.

    Args:
        runtime: The parts that run the step.
        source: The training loaders.
        evaluation_loop: The validation, the state of whose loaders is kept as well.
        optimization: Trains on a batch.
        report_epoch: Reduces an epoch's metrics over processes, shows and reports them.

    Attributes:
        source: The same.
        optimization: The same.
    """

    def __init__(
        self,
        runtime: Runtime,
        source: DataSource,
        evaluation_loop: EvaluationLoop,
        optimization: Optimization,
        report_epoch: Callable[[], None],
    ) -> None:
        session, hooks = runtime.session, runtime.hooks
        self.source: Final = source
        self._validation_source: Final = evaluation_loop.source
        self._session: Final = session
        self._hooks: Final = hooks
        self._progress: Final = session.progress
        self.optimization: Final = optimization
        self._metrics: Final = runtime.metrics
        self._transfer: Final = runtime.transfer
        self._takes_batch_idx: Final = takes_batch_idx(session.module.training_step)
        self._report_epoch: Final = report_epoch
        self._outputs: Final = TrainingOutputs()
        hooks.former_values["outputs"] = lambda args: self._outputs.of_epoch()
        self._length: int | None = None
        self._more_batches = 0
        self._batches: Batches | None = None
        self._loaded: dict[str, Any] | None = None

    @property
    def length(self) -> int | None:
        """The number of batches of Determined's epochs, or None if the loaders have no length."""
        self.set_up()
        return self._length

    def verify_periods(self) -> None:
        """Refuses periods in epochs if Determined could not tell where an epoch ends.

        Raises:
            ConfigurationError: If there are such periods and the loaders have no length.
        """
        if self.length is None and self._session.controller.counts_epochs:
            raise self.source.request.error(
                "gave a loader without a length, so that Determined cannot count epochs. Give max_length and the "
                "periods as determined.pytorch.Batch(n), or give the loader a __len__."
            )

    def set_up(self) -> None:
        """Asks for the loaders, unless that has been done; later ones are :meth:`_start_epoch`'s."""
        if not self.source.is_set_up:
            self.source.set_up()
            self._length = self.source.length

    @property
    def max_batches(self) -> int | float:
        """The number of batches of the present loaders, as callbacks may have set it; infinite if it is not known."""
        length = self.source.length if self.source.is_set_up else None
        return float("inf") if length is None else length + self._more_batches

    @max_batches.setter
    def max_batches(self, batches: int | float) -> None:
        more = 0 if batches == self.max_batches == float("inf") else batches - (self.max_batches - self._more_batches)
        if not 0 <= more < float("inf"):
            raise ConfigurationError(
                f"{caller_location()}: trainer.fit_loop.max_batches = {batches!r}, and an epoch has {self.max_batches} "
                "batches. To train on fewer, pass limit_train_batches, or return -1 in on_train_batch_start."
            )
        self._more_batches = int(more)

    def _verify_length(self) -> None:
        length, other = self._length, self.source.length
        if (length is None) is not (other is None) or (length is not None and other is not None and other > length):
            raise self.source.request.error(
                f"gave {'no length' if other is None else f'{other} batches'} in epoch {self._progress.current_epoch}, "
                f"and {'no length' if length is None else f'{length} batches'} in the first, which all of Determined's "
                "epochs have. Give the longest loader first, or limit the others by limit_train_batches."
            )

    @property
    def goes_on(self) -> bool:
        """Whether there is a checkpoint to continue from; :meth:`resume` does."""
        return self._loaded is not None

    def start(self) -> None:
        """Makes the loaders' iterators, as Lightning does before training starts; one that goes on makes others."""
        hooks = self._hooks
        self._outputs.is_needed = hooks.overridden("training_epoch_end") or hooks.takes_former_arguments(
            "on_train_epoch_end"
        )
        if self._loaded is None:
            self._batches = self.source.batches()
            if self._batches.length == 0:
                raise self.source.request.error("gave an empty loader: it has no batches.")
            if self._progress.epoch_is_running:
                # A checkpoint of Lightning's, written in the middle of an epoch, does not say where the loaders were;
                # and one of another number of processes had others.
                self.source.set_epoch(self._progress.current_epoch)
                for _ in range(self._progress.batch_idx + 1):
                    taken = next(self._batches, None)
                    # Another number of processes may have had more batches each.
                    self._progress.is_last_batch = taken is None or taken[-1]

    def batches_and_epochs(self) -> tuple[int, int]:
        """Returns how many batches and epochs have been trained, as Determined counts them."""
        progress = self._progress
        epochs = progress.current_epoch
        if self.length is None:
            return progress.total_batch_idx + 1, epochs
        return epochs * self.length + (progress.batch_idx + 1 if progress.epoch_is_running else 0), epochs

    def resume(self) -> None:
        """Brings loaders and random numbers to where they were when the checkpoint was written, if there was one."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        progress = self._progress
        now = RandomState(**loaded["random_state"])
        if self._validation_source.is_set_up and loaded["validation_source"]["positions"]:
            self._validation_source.resume(loaded["validation_source"], progress.current_epoch, now, continues=False)
        self._take_settings(loaded)
        continues = progress.epoch_is_running and not progress.is_last_batch
        self._batches = self.source.resume(loaded["source"], progress.current_epoch, now, continues)
        now.restore()

    def _take_settings(self, state: dict[str, Any]) -> None:
        """Takes over what callbacks have set for the running epoch."""
        self._more_batches = state["more_batches"]
        if state["accumulate_grad_batches"] is not None:
            self.optimization.accumulate_grad_batches = state["accumulate_grad_batches"]
        self.optimization.skips_backward = state["skips_backward"]

    def batches(self) -> Iterator[Any]:
        """Yields batches for ever, epoch after epoch, and does what lies between them."""
        progress = self._progress
        while True:
            if not progress.epoch_is_running:
                # A checkpoint may have been written after the epoch's end and before Determined's.
                yield from self._rest_of_determined_epoch()
                self._start_epoch()
            yield from self._rest_of_epoch()
            yield from self._rest_of_determined_epoch()
            self.finish_epoch()
            while self._session.stops_at_once:
                yield SKIPPED

    def _rest_of_determined_epoch(self) -> Iterator[Any]:
        """Fills an epoch up: Determined's all have the same length."""
        while not self.is_at_the_end_of_an_epoch:
            yield SKIPPED

    @property
    def is_at_the_end_of_an_epoch(self) -> bool:
        """Whether Determined has counted whole epochs; for loaders without a length, whether the last batch is done."""
        if self._length is None:
            return self._progress.is_last_batch or not self._progress.epoch_is_running
        return self._session.controller.batches_trained % self._length == 0

    def _start_epoch(self) -> None:
        progress = self._progress
        are_others = self.source.set_up()
        if are_others:
            self._verify_length()
            self._more_batches = 0
            # Lightning makes the iterators of other loaders twice, and they draw random numbers.
            self.source.batches()
        self.source.set_epoch(progress.current_epoch)
        self._hooks.refresh_if_changed()
        self._hooks.call("on_epoch_start")
        self._hooks.call("on_train_epoch_start")
        self._hooks.refresh_if_changed()
        progress.batch_idx = -1
        progress.is_last_batch = False
        progress.epoch_is_running = True
        if self._batches is None:
            self._batches = self.source.batches()

    def _rest_of_epoch(self) -> Iterator[Any]:
        progress = self._progress
        batches: Iterator[Any] = self._batches or iter(())
        self._batches = None
        while not progress.is_last_batch:
            if progress.batch_end_is_due:
                self.finish_batch()
            while self._session.stops_at_once:
                yield SKIPPED
            try:
                batch, _, _, is_last = next(batches)
            except StopIteration:
                if progress.batch_idx < 0:
                    raise self.source.request.error(
                        f"gave no batches in epoch {progress.current_epoch}: can it be iterated more than once? An "
                        "iterator cannot; give a DataLoader or a list."
                    ) from None
                return
            progress.batch_idx += 1
            progress.total_batch_idx += 1
            progress.is_last_batch = is_last
            yield batch

    def train_batch(self, batch: Any) -> None:
        """Trains on a batch that :meth:`batches` yielded.

        Args:
            batch: The batch as the loader gave it.
        """
        if batch is SKIPPED:
            return
        progress, hooks, collector, optimization = (
            self._progress,
            self._hooks,
            self._metrics.training,
            self.optimization,
        )
        names = hooks.names
        batch = self._transfer(batch, 0)
        collector.start_batch(batch)
        outputs: StepOutputs = []
        skips_rest_of_epoch = False
        if batch is None:
            warn_at_caller("The training loader gave None; nothing is trained on it.", DifferenceWarning)
        else:
            if "on_batch_start" in names:
                hooks.callbacks("on_batch_start")
            if "on_train_batch_start" in names:
                skips_rest_of_epoch = hooks.call("on_train_batch_start", batch, progress.batch_idx) == -1
            if skips_rest_of_epoch:
                progress.is_last_batch = True
            else:
                outputs = optimization.run((batch, progress.batch_idx) if self._takes_batch_idx else (batch,))
        if optimization.strategy.lr_scheduler_configs:
            optimization.step_schedulers("step")
            if progress.is_last_batch:
                optimization.step_schedulers("epoch")
        if skips_rest_of_epoch:
            return
        progress.batch_end_is_due = True
        if "on_train_batch_end" in names:
            seen = None if batch is None else optimization.batch_end_outputs(outputs)
            hooks.call("on_train_batch_end", seen, batch, progress.batch_idx)
        if "on_batch_end" in names:
            hooks.callbacks("on_batch_end")
        collector.end_batch()
        if progress.is_last_batch:
            # What validation logs under the same names comes after it, and is what schedulers and callbacks follow.
            self._metrics.current_views()
        if self._outputs.is_needed:
            self._outputs.append(outputs)

    def finish_batch(self) -> None:
        """Does what follows a batch and the validation after it; does it once."""
        progress, optimization = self._progress, self.optimization
        if progress.batch_end_is_due:
            progress.batch_end_is_due = False
            if optimization.strategy.lr_scheduler_configs:
                optimization.step_schedulers("step", on_plateau=True)
            self._count_batch()

    def _count_batch(self) -> None:
        progress = self._progress
        progress.last_batch_stepped = not self.optimization.should_accumulate()
        progress.batches_that_stepped += progress.last_batch_stepped

    def count_loaded_batch(self) -> None:
        """Counts the batch in whose hooks Lightning has written a checkpoint; it counts batches after them."""
        if self._progress.batch_end_is_due:
            self._progress.batch_end_is_due = False
            self._count_batch()

    def finish_epoch(self) -> None:
        """Does what ends an epoch whose last batch has been trained; does it once."""
        progress = self._progress
        if not progress.epoch_is_running:
            return
        with torch.enable_grad():
            if progress.batch_end_is_due and not progress.is_last_batch:
                # The epoch ends within, and no validation has shown what the batch has logged.
                self._metrics.current_views()
            self.finish_batch()
            self._metrics.training.end_batches()
            self._metrics.synchronise()
            outputs = self._outputs.of_epoch()
            if outputs:
                self._hooks.module("training_epoch_end", outputs)
            self._hooks.call_epoch_end("on_train_epoch_end", self._metrics.synchronise)
            self._hooks.call("on_epoch_end")
            self._outputs.clear()
            self._report_epoch()
            if progress.is_last_batch:
                self.optimization.step_schedulers("epoch", on_plateau=True)
            self._metrics.training.reset()
        progress.current_epoch += 1
        progress.epoch_is_running = False

    def after_validation(self) -> None:
        """Does what waited for a validation."""
        with torch.enable_grad():
            self.finish_batch()
        if self._progress.is_last_batch and self.is_at_the_end_of_an_epoch:
            self.finish_epoch()

    @property
    def accumulates_gradients(self) -> bool:
        """Whether the batch that was trained last has only added to the gradients."""
        return self._progress.batch_idx >= 0 and self.optimization.should_accumulate()

    def state_dict(self) -> dict[str, Any]:
        """Returns what is needed to continue in the middle of an epoch."""
        return {
            "source": self.source.state_dict(),
            "validation_source": self._validation_source.state_dict(),
            "random_state": RandomState.capture().state_dict(),
            "outputs": self._outputs.state_dict(),
            "accumulate_grad_batches": self.optimization.changed_accumulation,
            "skips_backward": self.optimization.skips_backward,
            "more_batches": self._more_batches,
            "length": self._length,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps what :meth:`state_dict` returned until training starts.

        Args:
            state: What was saved. The random state is this process's; Determined restores the chief's on all.
        """
        self._loaded = state
        self._outputs.load_state_dict(state["outputs"])

    def can_go_on(self, state: dict[str, Any]) -> bool:
        """Tells whether a checkpoint's epoch can go on where it was: the loaders have as many batches as they had.

        Args:
            state: What :meth:`state_dict` returned.
        """
        return bool(state["length"] == self.length)

    def continue_elsewhere(self, state: dict[str, Any], size_before: int, size: int) -> None:
        """Goes on from a checkpoint of other loaders or another number of processes, after the same part of the epoch.

        The samples are shared out anew, in another order, so that no position is the one that it was. Determined counts
        the batches of one process: it goes on with as many as these loaders would have given by now.

        Args:
            state: What :meth:`state_dict` returned, on one of the processes.
            size_before: How many processes there were.
            size: How many there are now.
        """
        progress, length, length_before = self._progress, self.length, state["length"]
        self._take_settings(state)
        if length is not None:
            if progress.epoch_is_running and progress.is_last_batch:
                progress.batch_idx = length - 1
            elif progress.epoch_is_running:
                trained = progress.batch_idx + 1
                part = trained if length_before is None else trained * length // length_before
                progress.batch_idx = min(part, length - 1) - 1
            batches, epochs = self.batches_and_epochs()
            progress.total_batch_idx = batches - 1
            self._session.controller.continue_at(batches, epochs)
        trained = progress.batch_idx + 1 if progress.epoch_is_running else 0
        before, now = (
            (f"by {size_before} processes or slots", size)
            if size != size_before
            else (f"with {_batches(length_before)} in an epoch", _batches(length))
        )
        warn_at_caller(
            f"The checkpoint was written {before}, and is continued with {now}: epoch {progress.current_epoch} goes on "
            f"after {trained} of {_batches(length)} of each process, in another order of the samples. Weights, "
            "optimizers, schedulers and steps are those of the checkpoint; random numbers go on from rank 0's on all "
            "processes; what the running epoch has logged, and gradients that were being accumulated, are lost.",
            DifferenceWarning,
        )


def _batches(length: int | None) -> str:
    return "an unknown number of batches" if length is None else f"{length} batches"


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

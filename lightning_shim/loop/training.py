"""Lightning's loop over epochs and training batches, turned inside out: Determined's loop calls, this one answers.

Determined fetches a batch, calls ``train_batch``, and then reports, validates and writes a checkpoint if one of its
periods ends. Work that Lightning does between two batches is therefore done when Determined fetches the next batch, or
when a validation has ended. ``Progress`` records what is still due, so that a checkpoint in between loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from lightning_shim.compatibility.before_training import takes_batch_idx
from lightning_shim.data.passes import Batches, DataFetcherWrapper
from lightning_shim.data.source import DataSource
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.loop.epoch_length import EpochLength
from lightning_shim.loop.epoch_outputs import StepOutputs, TrainingOutputs
from lightning_shim.loop.optimization import Optimization
from lightning_shim.loop.runtime import Runtime
from lightning_shim.loop.validation import EvaluationLoop
from lightning_shim.session.loops_state import progress_of_loops
from lightning_shim.session.loops_state import restart as restart_progress
from lightning_shim.session.random_state import RandomState
from lightning_shim.upstream.lightning_behaviour import (
    STEPS_SCHEDULERS_ONCE_AFTER_A_RESTART,
    STEPS_SCHEDULERS_WHEN_AN_EPOCH_ENDS_EARLY,
)
from lightning_shim.upstream.lightning_loops import FirstWork, Restart, RestartedLoops

SKIPPED: Final = object()
"""A batch that Determined counts and nobody trains on: all of its epochs have the same number of batches."""


class TrainingLoop:
    """Lightning's ``_FitLoop`` and ``_TrainingEpochLoop``.

    Args:
        evaluation_loop: The validation loop, whose loaders are saved and restored here as well.
        report_epoch: Reduces an epoch's metrics over processes, shows them and reports them.

    Attributes:
        source: The training loaders.
        optimization: Trains on a batch.
        epoch_length: The number of batches of an epoch.
        restarted_at: The index over all epochs of the last batch before a checkpoint of Lightning's, while the epoch
            goes on that it was written in; otherwise None.
        validates_first: While the batch before a checkpoint of Lightning's is counted once more, whether the validation
            after it is run; otherwise None.
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
        self._evaluation_loop: Final = evaluation_loop
        self._validation_source: Final = evaluation_loop.source
        self._session: Final = session
        self._hooks: Final = hooks
        self._progress: Final = session.progress
        self.optimization: Final = optimization
        profiling = session.profiling
        self._run_batch: Final = profiling.measured("run_training_batch", optimization.run)
        self._measured_next: Final = profiling.measured("[_TrainingEpochLoop].train_dataloader_next", self._next)
        self._metrics: Final = runtime.metrics
        self._transfer: Final = runtime.transfer
        self._takes_batch_idx: Final = takes_batch_idx(session.module.training_step)
        self._report_epoch: Final = report_epoch
        self._outputs: Final = TrainingOutputs()
        hooks.lightning1_values["outputs"] = lambda args: self._outputs.of_epoch()
        self._steps_schedulers_early: Final = STEPS_SCHEDULERS_WHEN_AN_EPOCH_ENDS_EARLY.is_of(session.lightning.version)
        self._steps_schedulers_once: Final = STEPS_SCHEDULERS_ONCE_AFTER_A_RESTART.is_of(session.lightning.version)
        self.epoch_length: Final = EpochLength(session, source)
        self._restart: Restart | None = None
        self.validates_first: bool | None = None
        self._batches: Batches | None = None
        self.restarted_at: int | None = None
        self._loaded: dict[str, Any] | None = None

    @property
    def length(self) -> int | None:
        """The number of batches of the first epoch's loaders, or None if they have no length."""
        self.set_up()
        return self.epoch_length.of_first

    @property
    def length_of_all_epochs(self) -> int | None:
        """The number of batches of each of Determined's epochs, or None if an epoch ends where the loaders do."""
        return self.length if self.epoch_length.is_fixed else None

    def set_up(self) -> None:
        """Requests the loaders, the first time only."""
        # Requesting them again, for reload_dataloaders_every_n_epochs, is left to the start of an epoch.
        if self.source.is_switched_off:
            self._session.lacks_batches = True
        elif not self.source.is_set_up:
            self.source.set_up()
            self._session.lacks_batches = self.source.length == 0
            self.epoch_length.of_first = self.source.length
            latest = self._session.controller.latest
            if latest is None or not latest.is_own:
                if self._session.restarted_loops is not None:
                    self._session.restarted_loops.restore_loaders(self.source.combined)
                # As in Lightning, their iterators are made at once, which draws random numbers.
                self._batches = self.source.batches()

    @property
    def goes_on(self) -> bool:
        """Whether a checkpoint has been loaded from which :meth:`resume` will continue."""
        return self._loaded is not None

    def start(self, fits_again: bool) -> None:
        """Makes the loaders' iterators ready for the first batch, unless :meth:`resume` will."""
        hooks = self._hooks
        self._outputs.is_needed = hooks.overridden("training_epoch_end") or hooks.takes_lightning1_arguments(
            "on_train_epoch_end"
        )
        if self._loaded is None and not self._session.lacks_batches:
            self._batches = self._batches or self.source.batches()
            if self._batches.length == 0 and self.epoch_length.is_fixed:
                raise self.source.without_batches(0)
            if self._progress.epoch_is_running:
                # There are no positions to restore: the checkpoint is that of another number of processes, which had
                # other samples. So the batches are loaded once more and dropped.
                self.source.set_epoch(self._progress.current_epoch)
                for _ in range(self._progress.batch_idx + 1):
                    # The batches may run out: another number of processes may have had more of them each.
                    next(self._batches, None)
                    self._progress.is_last_batch = self._batches.done
            if fits_again and self._progress.current_epoch > 0:
                # Lightning creates them again, as for any epoch but its first, which draws random numbers.
                self._batches = None

    def resume(self) -> None:
        """Restores the loaders and random numbers of the checkpoint, if one was loaded."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        progress = self._progress
        # The random state at the time of the checkpoint. It is set last, because getting loaders to their positions
        # repeats draws of their own.
        now = RandomState.from_state_dict(loaded["random_state"])
        if self._validation_source.is_set_up and loaded["validation_source"]["positions"]:
            self._validation_source.resume(loaded["validation_source"], progress.current_epoch, now, continues=False)
        self.restore_settings(loaded)
        # Past its last batch the epoch's pass is over, although its end may still be due.
        continues = progress.epoch_is_running and not progress.is_last_batch
        self._batches = self.source.resume(loaded["source"], progress.current_epoch, now, continues)
        now.restore()

    def restore_settings(self, state: dict[str, Any]) -> None:
        """Restores the values that callbacks had set for the running epoch."""
        self.epoch_length.more = state["more_batches"]
        if state["accumulate_grad_batches"] is not None:
            self.optimization.accumulate_grad_batches = state["accumulate_grad_batches"]
        self.optimization.skips_backward = state["skips_backward"]

    def batches(self) -> Iterator[Any]:
        """Yields batches for ever, epoch after epoch, and does the work between them."""
        # This generator is the inversion. Each `yield` hands a batch to Determined, which trains on it, reports,
        # validates and writes checkpoints, all before it asks for the next one. What follows the `yield` therefore runs
        # where Lightning's loop would go on. A resumed trial enters at the top, so every step has to ask `progress`
        # whether it is still due.
        progress = self._progress
        while True:
            if self._restart is not None:
                self._start_epoch()
            elif not progress.epoch_is_running:
                # A checkpoint may have been written when Lightning's epoch had ended and Determined's had not.
                yield from self._rest_of_determined_epoch()
                self._start_epoch()
            self._show_epoch()
            if self.validates_first is not None:
                yield SKIPPED
                self.validates_first = None
            with self._session.profiling.action("run_training_epoch"):
                yield from self._rest_of_epoch()
            # In Lightning the validation of an epoch comes before on_train_epoch_end; Determined validates at the end
            # of its own epoch. So that one has to be over first.
            yield from self._rest_of_determined_epoch()
            self.finish_epoch()
            # Determined's loop cannot be left from here. Until it looks whether to stop, it counts batches.
            while self._session.stops_at_once or self._session.has_reached_its_limits:
                yield SKIPPED

    def _rest_of_determined_epoch(self) -> Iterator[Any]:
        """Fills up an epoch that is shorter than Determined's, all of which have the same length."""
        while self.epoch_length.is_fixed and not self.epoch_length.is_complete:
            yield SKIPPED

    def _start_epoch(self) -> None:
        progress = self._progress
        are_new = self.source.set_up()
        if are_new:
            self.epoch_length.renew()
            # Lightning creates the iterators of reloaded loaders twice, and each creation draws random numbers.
            self.source.batches()
        self.source.set_epoch(progress.current_epoch)
        # Before the hooks, for what the last epoch's have assigned; after them, for what these have.
        restart, self._restart = self._restart, None
        self._hooks.refresh_if_changed()
        if restart is None or restart.starts_epoch:
            self._hooks.call("on_epoch_start")
            self._hooks.call("on_train_epoch_start")
            self._hooks.refresh_if_changed()
        if restart is None:
            progress.start_epoch()
        else:
            self._go_on(restart)
        progress.ends_early = progress.ends_within_step = False
        progress.epoch_is_running = True
        # The first epoch's iterators have been created by start(), and those of an interrupted one by resume().
        if self._batches is None or (restart is not None and restart.makes_iterators):
            self._batches = self.source.batches()
        if restart is not None:
            # As in Lightning, the epoch takes as many batches as are left of it.
            self._batches.fetched += progress.batch_idx + 1

    def _go_on(self, restart: Restart) -> None:
        """Goes on within the epoch that a checkpoint of Lightning's was written in."""
        progress, first = self._progress, restart.first
        restart_progress(progress, restart.loops)
        progress.is_last_batch &= first is not FirstWork.BATCH
        progress.batch_end_is_due = first in (FirstWork.VALIDATION, FirstWork.END_OF_BATCH)
        self._evaluation_loop.goes_on = first is FirstWork.VALIDATION
        if restart.leaves_out_validation:
            self._evaluation_loop.leave_out()

    def _show_epoch(self) -> None:
        """Opens the progress bar of an epoch that starts, or goes on from a checkpoint."""
        bar = self._session.progress_bar
        if bar is not None:
            progress, epochs = self._progress, self._session.trainer.max_epochs
            # As Lightning counts them.
            description = f"Epoch {progress.current_epoch}" + (f"/{epochs - 1}" if epochs > 0 else "")
            total = self.epoch_length.max_batches
            bar.start_epoch(description, progress.batch_idx + 1, None if total == float("inf") else int(total))

    def _rest_of_epoch(self) -> Iterator[Any]:
        progress = self._progress
        batches, self._batches = self._batches, None
        while not progress.is_last_batch:
            # The rest of the last batch: Determined has reported it, and validated if that was due.
            if progress.batch_end_is_due:
                self.finish_batch()
                self._session.heed_sigterm()
            # A look at the request first saves the calls that tell whether it may be met.
            while self._session.should_stop and self._session.stops_at_once:
                yield SKIPPED
            try:
                batch, is_last = self._measured_next(batches)
            except StopIteration:
                if progress.batch_idx < 0 and self._has_to_train:
                    raise self.source.without_batches(progress.current_epoch) from None
                return
            progress.batch_idx += 1
            progress.total_batch_idx += 1
            progress.is_last_batch = is_last
            yield batch

    @property
    def _has_to_train(self) -> bool:
        """Whether the training would not end without batches; in a script nothing is trained then, as in Lightning."""
        return self.epoch_length.is_fixed or self._session.trainer.max_epochs == -1

    def _next(self, batches: Batches | None) -> tuple[Any, bool]:
        """Returns what is trained on next, and whether it is the last of the epoch."""
        if batches is None or batches.done:
            raise StopIteration
        if isinstance(batches, DataFetcherWrapper):
            # The step takes batches itself. An epoch has no more steps than batches, even if some steps take none.
            return batches, self._progress.batch_idx + 2 >= self.epoch_length.max_batches
        batch, _, _ = next(batches)
        return batch, batches.done

    def train_batch(self, batch: Any) -> StepOutputs:
        """Trains on a batch, or an iterator, that :meth:`batches` yielded; returns what ``training_step`` returned."""
        if batch is SKIPPED:
            return []
        progress, hooks = self._progress, self._hooks
        collector, optimization = self._metrics.training, self.optimization
        # Looking for a name here saves the call of a hook that nobody overrides; a step passes a dozen of them.
        names = hooks.names
        iterator = batch if type(batch) is DataFetcherWrapper else None
        if iterator is None:
            batch, batch_idx = self._transfer(batch, 0), progress.batch_idx
            args = (batch, batch_idx) if self._takes_batch_idx else (batch,)
        else:
            # As in Lightning, the hooks before the step get the batch that the last step has taken.
            batch, batch_idx, args = iterator.batch, iterator.batch_idx, (iterator,)
        optimization.batch_idx = batch_idx
        collector.start_batch(batch)
        outputs: StepOutputs = []
        skips_rest_of_epoch = False
        if batch is None and iterator is None:
            warn_at_caller("train_dataloader yielded None instead of a batch, which is skipped.")
        else:
            if "on_batch_start" in names:
                hooks.callbacks("on_batch_start")
            if "on_train_batch_start" in names:
                skips_rest_of_epoch = hooks.call("on_train_batch_start", batch, batch_idx) == -1
            if skips_rest_of_epoch:
                progress.ends_early = not progress.is_last_batch
                progress.is_last_batch = progress.last_batch_is_refused = True
                progress.refused_batches += 1
            else:
                try:
                    outputs = self._run_batch(args)
                except StopIteration:
                    if self._has_to_train and iterator is not None and iterator.done and iterator.fetched == 0:
                        raise self.source.without_batches(progress.current_epoch) from None
                    # As in Lightning, this ends the epoch without anything that follows a step.
                    progress.is_last_batch = progress.ends_within_step = True
                    return outputs
        # Schedulers that monitor no metric step now. The others wait for the validation: see finish_batch.
        if optimization.strategy.lr_scheduler_configs and (not skips_rest_of_epoch or self._steps_schedulers_early):
            optimization.step_schedulers("step")
            if progress.is_last_batch:
                optimization.step_schedulers("epoch")
        if skips_rest_of_epoch:
            # As in Lightning, a batch that was skipped has no on_train_batch_end.
            return outputs
        if iterator is not None:
            batch, batch_idx = iterator.batch, iterator.batch_idx
            progress.is_last_batch = progress.is_last_batch or iterator.done
        progress.batch_end_is_due = True
        if "on_train_batch_end" in names:
            seen = None if batch is None else optimization.batch_end_outputs(outputs)
            hooks.call("on_train_batch_end", seen, batch, batch_idx)
        if "on_batch_end" in names:
            hooks.callbacks("on_batch_end")
        collector.end_batch()
        if progress.is_last_batch:
            # Validation may log the same names. Its values come later and are the ones to be monitored, so training's
            # are put into the views before.
            self._metrics.current_views()
        if self._outputs.is_needed:
            self._outputs.append(outputs)
        return outputs

    def finish_batch(self) -> None:
        """Does the work that follows a batch and its validation, once."""
        progress, optimization = self._progress, self.optimization
        # Called by whichever comes first: the end of a validation, or the request for the next batch.
        if progress.batch_end_is_due:
            progress.batch_end_is_due = False
            if optimization.strategy.lr_scheduler_configs:
                optimization.step_schedulers("step", on_plateau=True)
            if optimization.accumulate_grad_batches == 1:
                # As `_count_batch` does; saves two calls for each batch.
                progress.last_batch_stepped = True
                progress.batches_that_stepped += 1
            else:
                self._count_batch()
            if self._session.should_stop:
                # As in Lightning, nothing is lost if the end of the epoch takes long.
                self._session.trainer.lightning_loggers.save()

    def _count_batch(self) -> None:
        progress = self._progress
        progress.last_batch_stepped = not self.optimization.should_accumulate()
        progress.batches_that_stepped += progress.last_batch_stepped

    @property
    def ends_with_checkpoint(self) -> bool:
        """Whether nothing is left to train after a checkpoint of Lightning's."""
        loops = self._session.restarted_loops
        if loops is None or not loops.are_done:
            return False
        self._progress.load_state_dict(progress_of_loops(loops.state))
        return True

    def restart(self, loops: RestartedLoops) -> None:
        """Counts as Lightning does when it goes on from a checkpoint of its own, up to ``on_train_start``."""
        loops.start()
        self._progress.load_state_dict(progress_of_loops(loops.state))

    def plan_restart(self, loops: RestartedLoops) -> tuple[int, int]:
        """Finds out how the first epoch begins after a checkpoint of Lightning's.

        Returns:
            The batches and epochs that Determined counts before it.
        """
        self._session.restarted_loops = None
        self.restarted_at = self._progress.total_batch_idx if loops.is_restarting else None
        self._restart = restart = loops.start_epoch(self.source.combined, self.source.is_taken_by_steps)
        counted = progress_of_loops(restart.loops)
        epochs, length = counted["current_epoch"], self.epoch_length.of_all
        batches = counted["total_batch_idx"] + 1 if length is None else epochs * length + counted["batch_idx"] + 1
        if restart.first is not FirstWork.BATCH and (batches or not self.epoch_length.is_fixed):
            # Determined looks after a batch whether to validate and whether to stop.
            self.validates_first = restart.first is FirstWork.VALIDATION
            batches = max(batches - 1, 0)
        return batches, epochs

    def finish_epoch(self) -> None:
        """Ends an epoch whose last batch has been trained, once."""
        progress = self._progress
        if not progress.epoch_is_running:
            return
        # Determined validates under no_grad, and the epoch may end right after a validation.
        with torch.enable_grad():
            if progress.ends_within_step or not progress.is_last_batch:
                # Training stops within the epoch, or the loader or the step has found its end: the last batch's values
                # are not in the views.
                self._metrics.current_views()
            self.finish_batch()
            self._metrics.training.end_batches()
            self._metrics.synchronise()
            # Lightning 1.x called this hook before the callbacks' on_train_epoch_end.
            outputs = self._outputs.of_epoch()
            if outputs:
                self._hooks.module("training_epoch_end", outputs)
            progress.epoch_is_processed = True
            self._hooks.call_epoch_end("on_train_epoch_end", self._metrics.synchronise)
            self._hooks.call("on_epoch_end")
            self._outputs.clear()
            self._report_epoch()
            if self._steps_epoch_schedulers and (self.restarted_at is None or not self._steps_schedulers_once):
                # As in Lightning, which has no metrics for those that monitor one if the epoch goes on from elsewhere.
                self.optimization.step_schedulers("epoch", on_plateau=self.restarted_at is None)
            self._metrics.training.reset()
        progress.current_epoch += 1
        progress.epoch_is_running = progress.epoch_is_processed = False
        self.restarted_at = None
        self._session.heed_sigterm()

    @property
    def _steps_epoch_schedulers(self) -> bool:
        """Whether the epoch has ended in a way after which Lightning steps the schedulers that count epochs."""
        progress = self._progress
        has_ended = progress.is_last_batch and not progress.ends_within_step
        return has_ended and (self._steps_schedulers_early or not progress.ends_early)

    @property
    def has_lightnings_validation(self) -> bool:
        """Whether Lightning validates after the batch that was trained last, if a period ends with it.

        It leaves an epoch that ends early without a validation, and Determined counts that epoch to its end.
        """
        progress = self._progress
        has_run_out = progress.epoch_is_running and not progress.is_last_batch and self.epoch_length.is_complete
        return not (progress.ends_early or progress.ends_within_step or has_run_out)

    def after_validation(self) -> None:
        """Does the work that was waiting for a validation."""
        with torch.enable_grad():
            self.finish_batch()
        if self._progress.is_last_batch and self.epoch_length.is_complete:
            self.finish_epoch()

    @property
    def accumulates_gradients(self) -> bool:
        """Whether the last trained batch has only added to the gradients."""
        return self._progress.batch_idx >= 0 and self.optimization.should_accumulate()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a pause in the middle of an epoch."""
        return {
            "source": self.source.state_dict(),
            "validation_source": self._validation_source.state_dict(),
            "random_state": RandomState.capture().state_dict(),
            "outputs": self._outputs.state_dict(),
            "accumulate_grad_batches": self.optimization.changed_accumulation,
            "skips_backward": self.optimization.skips_backward,
            "more_batches": self.epoch_length.more,
            "length": self.epoch_length.of_first,
            "restarted_at": self.restarted_at,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps a state until training starts.

        Its random state is that of this process, whereas Determined restores rank 0's on all processes.
        """
        self._loaded = state
        self.restarted_at = state["restarted_at"]
        self._outputs.load_state_dict(state["outputs"], self._session.context.device)

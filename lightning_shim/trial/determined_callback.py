"""Determined's events, passed on to the loops and to Lightning's hooks.

A checkpoint is loaded in three phases:

1. Before this callback exists, while the trial is built: weights, callbacks and optimizers, by ``StartingCheckpoint``.
   ``on_checkpoint_load_start`` only adds what could not be restored then.
2. ``on_training_start``, if the checkpoint is this trial's own: counters, flags and metrics. The hooks that follow,
   such as ``on_train_start``, must see the epoch and the step at which the training continues.
3. After these hooks: loaders, random states and attributes. The constructor and the hooks have run once more in this
   process, and the attributes they have set and the random numbers they have drawn have to be overwritten.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from typing import Any, Final

import determined
import torch
from determined import pytorch

from lightning_shim.diagnostics.errors import CheckpointError, ConfigurationError
from lightning_shim.loop.without_trace import StatesBefore
from lightning_shim.metrics.collector import MetricViews
from lightning_shim.session.progress_bar import kept_out_of_a_log
from lightning_shim.trial.assembly import TrialParts
from lightning_shim.trial.cluster import Search
from lightning_shim.trial.journal import Entry, shown_on_standard_error
from lightning_shim.upstream.determined.context import add_to_checkpoint, checkpoint_path, close_tensorboard, replaced
from lightning_shim.upstream.lightning_plugins import finish_writing
from lightning_shim.upstream.lightning_trainer import warn_of_module

CALLBACK_NAME: Final = "lightning_shim"
"""The name of the callback for Determined."""

PROFILERS_REPORT: Final = "profiler_report.txt"
"""The file in a checkpoint with the report of Lightning's profiler."""


class LightningCallback(pytorch.PyTorchCallback):
    """The callback that connects a LightningTrial to Determined's loop.

    Determined calls it on every process, except for ``on_checkpoint_save_start`` and ``on_checkpoint_write_end``, which
    it calls on the chief alone.

    Attributes:
        checkpoint_path: The folder of the newest checkpoint if it is on this machine, otherwise its UUID.
        keeps_newest_only: Whether a checkpoint replaces the one that this training has written before.
    """

    def __init__(self, parts: TrialParts) -> None:
        self.checkpoint_path: pathlib.Path | str | None = None
        self.keeps_newest_only = False
        self._written: pathlib.Path | str | None = None
        self._parts: Final = parts
        self._session: Final = parts.session
        self._context: Final = parts.session.context
        self._controller: Final = parts.session.controller
        self._trainer: Final = parts.trainer
        self._hooks: Final = parts.runtime.hooks
        self._training_loop: Final = parts.training_loop
        self._evaluation_loop: Final = parts.evaluation_loop
        self._precedes_training_loaders = True
        self._has_started_training = False
        self._views_before = MetricViews()
        self._states_before: Final = StatesBefore(parts.training_loop.source, parts.evaluation_loop.source)
        self._search: Final = Search(parts.session.context)
        # Of the logger's lines, which are shown whoever calls Determined's Trainer: fit, an entry point or the user.
        self._shown: Final = contextlib.ExitStack()
        self._shown.enter_context(kept_out_of_a_log(self._trainer.progress_bar_callback))

    def on_trial_startup(self, first_batch_idx: int, checkpoint_uuid: str | None) -> None:
        """Remembers the checkpoint from which the trial continues, and shows the lines about the training."""
        self._shown.enter_context(shown_on_standard_error())
        if self._controller.latest is not None and self._controller.latest.is_own:
            self._keep(self._controller.latest.name)

    def on_training_start(self) -> None:
        """Calls the hooks before the first batch, and restores the second and third part of a loaded checkpoint."""
        self._search.start()
        # Determined sets the count only from a checkpoint of this very trial.
        if self._controller.batches_trained > 0 and not self._parts.trial_state.apply():
            raise CheckpointError(
                f"the checkpoint {self.checkpoint_path} was not written by a LightningTrial: it does not say where in "
                "an epoch its training stood. Load its weights when you build the module, or resume from another one."
            )
        # Of another trial's checkpoint the module has the weights alone, and Determined counts from zero.
        fits_again = self._controller.batches_trained == 0 and self._session.progress.total_batch_idx >= 0
        loops = self._session.restarted_loops
        if loops is not None:
            self._verify_length()
            fits_again = False
        elif fits_again:
            # The script's Trainer has fitted before, and goes on counting.
            self._controller.continue_at(*self._training_loop.epoch_length.batches_and_epochs())
        self._parts.journal.starts_complete = self._controller.has_trained_its_length
        self._training_loop.start(fits_again)
        if self._ends_at_once():
            if loops is not None:
                self._controller.continue_at(*self._training_loop.epoch_length.batches_and_epochs())
            return
        if loops is not None:
            self._training_loop.restart(loops)
        if self._training_loop.goes_on or self._session.validates_in_epoch(self._trainer.current_epoch):
            self._evaluation_loop.set_up()
        if loops is not None:
            self._controller.continue_at(*self._training_loop.plan_restart(loops))
            self._controller.skips_training = self._controller.has_trained_its_length
        self._hooks.call("on_pretrain_routine_start")
        self._hooks.call("on_pretrain_routine_end")
        if self._session.script_trainer is not None:
            warn_of_module(self._trainer)
        self._hooks.call("on_train_start")
        self._has_started_training = True
        if not self._ends_at_once():
            self._parts.trial_state.restore_pruning()
            self._parts.attributes.start()
            self._training_loop.resume()
            self._parts.attributes.restore()
            # A hook may have assigned another hook to an attribute, which has now been restored.
            self._hooks.refresh_if_changed()
            self._parts.journal.start(self.checkpoint_path)

    def _verify_length(self) -> None:
        """Refuses a checkpoint of Lightning's after more epochs than are to be trained."""
        epochs, max_epochs = self._trainer.current_epoch, self._trainer.max_epochs
        if max_epochs != -1 and epochs > max_epochs:
            raise CheckpointError(
                f"ckpt_path: You restored a checkpoint with current_epoch={epochs}, but you have set "
                f"Trainer(max_epochs={max_epochs}). Train for more than {self._trainer.ckpt_path} was, or load the "
                "weights alone when you build the module."
            )

    def _ends_at_once(self) -> bool:
        """Skips the training if it is complete, or if a hook has requested a stop; returns whether it is skipped."""
        self._agree_to_stop()
        session = self._session
        if session.stops_early or self._training_loop.ends_with_checkpoint or session.has_reached_its_limits:
            self._controller.skips_training = True
        return self._controller.skips_training

    def before_training_loaders(self) -> None:
        """Does, once, what comes before the training loaders are requested: the sanity check."""
        if self._precedes_training_loaders:
            self._precedes_training_loaders = False
            self._parts.trial_state.start()
            self._parts.attributes.start_loaders()
            if not self._parts.starting_checkpoint.restarts:
                self._sanity_check()

    def _sanity_check(self) -> None:
        """Runs Lightning's sanity check: a few validation batches, whose metrics are discarded."""
        limit = self._trainer.num_sanity_val_steps
        if not limit or not self._evaluation_loop.is_enabled or self._controller.test_mode:
            return
        with self._session.lightning.isolate_rng():
            self._trainer.enter_sanity_check()
            self._hooks.callbacks("on_sanity_check_start")
            with torch.no_grad():
                self._evaluation_loop.start(releases_gradients=False, limit=limit)
                self._evaluation_loop.start_epoch()
                self._evaluation_loop.run(only_one=False)
                self._evaluation_loop.end_epoch()
                self._evaluation_loop.end()
            self._hooks.callbacks("on_sanity_check_end")
            self._trainer.forget_sanity_check()
            self._evaluation_loop.forget()
            self._session.progress.validated_in_epoch = 0

    def on_validation_start(self) -> None:
        """Starts a validation."""
        # Training's newest values have to be read before the validation's collector takes the place of its own.
        self._views_before = self._parts.runtime.metrics.current_views().copy()
        self._trainer.enter_stage(training=False)
        has_trained = self._controller.batches_trained > 0
        if self._evaluation_loop.is_enabled and not (
            self._controller.will_validate and self._training_loop.has_lightnings_validation
        ):
            # Training that goes on after it has to go on as if it had not been there.
            self._states_before.remember()
        self._evaluation_loop.start(has_trained and not self._training_loop.accumulates_gradients)

    def on_validation_epoch_start(self) -> None:
        """Starts the validation's epoch."""
        self._evaluation_loop.start_epoch()

    def on_validation_epoch_end(self, outputs: list[Any]) -> None:
        """Ends the validation's epoch; Determined then asks for the metrics."""
        self._evaluation_loop.end_epoch()

    def on_validation_end(self, metrics: dict[str, Any]) -> None:
        """Ends the validation, and then the training batch or epoch that has been waiting for it."""
        counts = self._controller.has_trained_its_length or (
            self._controller.batches_trained > 0 and self._training_loop.has_lightnings_validation
        )
        if counts:
            self._evaluation_loop.end()
            self._trainer.enter_stage(training=True)
        else:
            # Lightning's own callbacks decide nothing by a sanity check, so that none of them counts this validation.
            self._trainer.enter_sanity_check()
            self._evaluation_loop.end()
            self._trainer.forget_sanity_check()
            self._parts.runtime.metrics.views.update(self._views_before)
        self._states_before.restore()
        self._parts.reports.remember(Entry.VALIDATION, metrics)
        self._training_loop.after_validation()
        self._agree_to_stop()

    def on_validation_report(self) -> None:
        """Stops the trial if the search has stopped it, as ``trainer.should_stop`` does."""
        if self._controller.has_trained_its_length or self._context.get_stop_requested():
            # It ends by itself.
            return
        if self._search.has_stopped(self._controller.batches_trained):
            self._session.stopped_by = "the search"
            self._stop()

    def on_training_workload_end(self, avg_metrics: dict[str, Any], batch_metrics: Any) -> None:
        """Remembers the reported metrics."""
        self._parts.reports.remember(Entry.TRAINING, avg_metrics)
        if self._session.script_trainer is not None:
            # Its hooks may change how long the training is, which Determined asks next.
            self._end_epoch()
        # Determined, which reports first, would stop before a validation that is due as well.
        self._agree_to_stop(stops=not self._controller.will_validate)

    def _end_epoch(self) -> None:
        """Ends an epoch whose last batch has been trained and which has no validation to wait for."""
        if not self._controller.will_validate and self._training_loop.epoch_length.is_complete:
            self._training_loop.after_validation()

    def _agree_to_stop(self, stops: bool = True) -> None:
        """Stops the trial if any process has requested it, and if this one lets it. Call it on all processes."""
        session = self._session
        wishes = self._context.distributed.allgather((session.stops_early, session.received_sigterm))
        if session.world_size > 1 and stops and any(has_signal for _, has_signal in wishes):
            # As with one process, the batch is counted first.
            self._training_loop.finish_batch()
            raise session.lightning.SIGTERMException
        # Determined looks at the request after each report, validation or checkpoint, which comes next.
        if any(stops_early for stops_early, _ in wishes) and stops:
            self._stop()

    def _stop(self) -> None:
        """Has Determined write a checkpoint and end the training, when it looks at it next."""
        self._session.should_stop = True
        if not self._context.get_stop_requested():
            self._context.set_stop_requested(True)

    def on_checkpoint_save_start(self, checkpoint: dict[str, Any]) -> None:
        """Adds the trial's state and Lightning's keys, and calls the hooks that may add more."""
        self._parts.trial_state.save(checkpoint)
        # Determined's entry for this callback is empty, and Lightning keeps its own callbacks' states under this key.
        del checkpoint["callbacks"][CALLBACK_NAME]
        self._parts.kept_files.save(checkpoint)
        self._parts.lightning_checkpoint.save(checkpoint)

    def on_checkpoint_write_end(self, checkpoint_dir: str) -> None:
        """Adds the files that callbacks have written."""
        self._parts.kept_files.write(checkpoint_dir)

    def on_checkpoint_load_start(self, checkpoint: dict[str, Any]) -> None:
        """Restores what could not be restored while the trial was built."""
        self._parts.starting_checkpoint.restore_datamodule()
        if self._trainer.is_global_zero:
            self._parts.kept_files.restore(checkpoint, self._controller.checkpoint_folder)

    def on_checkpoint_upload_end(self, uuid: str) -> None:
        """Remembers the newest checkpoint, and says where it is."""
        self._keep(uuid)
        self._parts.journal.checkpoint(self.checkpoint_path)
        former, self._written = self._written, self.checkpoint_path
        if self.keeps_newest_only and former is not None and self._trainer.is_global_zero:
            shutil.rmtree(former, ignore_errors=True)

    def _keep(self, uuid: str) -> None:
        self.checkpoint_path = checkpoint_path(self._context, uuid) or uuid

    def on_checkpoint_gather(self) -> None:
        """Collects the states of all processes before the chief saves them. Called on all processes."""
        error = self._controller.error
        if isinstance(error, determined.InvalidHP):
            self._verify_that_all_give_up(error)
        # The checkpoint then has what the epoch's end changes, and a resumed trial starts with the next epoch.
        self._end_epoch()
        finish_writing(self._parts.runtime.strategy.checkpoint_io)
        self._parts.trial_state.gather()

    def _verify_that_all_give_up(self, error: BaseException) -> None:
        """Raises an error if this process alone ends without one: the others would wait for it for ever."""
        if not self._parts.processes.all_give_up():
            raise ConfigurationError(
                f"Rank {self._trainer.global_rank} has raised {error!r}, and other processes have not. An error that "
                "is to end the trial has to be raised on all of them: decide it together, by "
                "trainer.strategy.reduce_boolean_decision."
            )

    def on_trial_shutdown(self) -> None:
        """Calls the hooks at the end of the training or at a pause, and releases what the trial holds."""
        try:
            error = self._controller.error
            if error is None:
                self._end()
            else:
                self._fail(error)
        finally:
            self._parts.runtime.strategy.teardown()
            self._parts.runtime.metrics.views.move_to_cpu()
            self._trainer.release()
            self._training_loop.source.release()
            self._evaluation_loop.source.release()
            close_tensorboard(self._context)
            self._parts.processes.stop_watching()
            self._shown.close()

    def _fail(self, error: BaseException) -> None:
        self._hooks.on_exception(error)
        # A launcher takes sys.exit(0) on one process for success, and lets the others wait.
        if isinstance(error, SystemExit) and not error.code:
            self._verify_that_all_give_up(error)

    def _say_what_has_ended_it(self) -> None:
        """Says what has ended the training of a script's Trainer, as Lightning does."""
        session, source = self._session, self._training_loop.source
        if session.script_trainer is None or source.is_switched_off:
            return
        limit = session.limit_reached
        reached = "No training batches." if session.lacks_batches else limit and f"`{limit}` reached."
        if reached:
            session.lightning.rank_zero_info(f"`Trainer.fit` stopped: {reached}")
        elif session.stops_early:
            session.lightning.rank_zero_debug("`Trainer.fit` stopped: `trainer.should_stop` was set.")

    def _report_profile(self) -> None:
        """Has the profiler report, also in the last checkpoint: it goes on measuring after that has been written."""
        profiler, written = self._trainer.profiler, self._written
        report = profiler.summary()
        # It is asked once, as by Lightning: its clock goes on, and it may clear what it has measured.
        with replaced(profiler, summary=lambda: report):
            profiler.describe()
        if report and written is not None and self._trainer.is_global_zero:
            add_to_checkpoint(self._context, os.path.basename(written), PROFILERS_REPORT, report)

    def _end(self) -> None:
        with torch.enable_grad(), self._hooks.telling_of_errors():
            # After a pause the training continues in another process, so only teardown is called here.
            if self._controller.is_complete or self._context.get_stop_requested():
                if not self._controller.skips_training:
                    self._training_loop.finish_epoch()
                self._say_what_has_ended_it()
                if self._has_started_training:
                    self._hooks.call("on_train_end")
                finish_writing(self._parts.runtime.strategy.checkpoint_io)
                self._parts.kept_files.share()
                self._hooks.call("on_fit_end")
            self._hooks.call_for_stage("teardown", self._trainer.state.fn)
        self._trainer.lightning_loggers.finalize("success")
        self._report_profile()
        self._trainer.finish()
        self._parts.reports.hide_progress()
        self._parts.journal.end()
        self._parts.processes.part()

"""All that is needed of Determined's private names, in one place.

- ``determined.util.write_user_code``, which ``_save`` calls: what a checkpoint holds beside the trial's state.
- ``PyTorchTrialContext._core``: the Core API context, for reports beside those that the training loop makes.
- ``TrainContext._tensorboard_manager`` and its ``_sync``: uploads TensorBoard files.
- ``PyTorchTrialContext._PyTorchDistributedDataParallel``: the class that ``wrap_model`` calls with the model alone.
- ``PyTorchTrialContext._tbd_writer``, ``_current_batch_idx`` and ``_epoch_len``.
- ``_PyTorchTrialController.run``, ``_run``, ``_load``, ``_save``, ``_checkpoint``, ``_train_with_boundaries``,
  ``_train_batch``, ``_step_batch``, ``_on_epoch_start``, ``_validate``, ``_validation_is_current``,
  ``_steps_until_complete``, ``is_chief``, ``test_mode``, ``state``, ``start_from_batch``, ``training_iterator``,
  ``training_enumerator``, ``local_training``, the periods, ``max_length``: the loop itself. It is repaired for our
  trials only; see :func:`repair_controller`.
- ``_DistributedBackend``: how ``determined.launch`` has said what synchronises the processes.
- ``_core.checkpoint._storage_manager``: where checkpoints lie off-cluster.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any, Final

from determined import pytorch

from lightning_shim.diagnostics.errors import CheckpointError
from lightning_shim.upstream.determined.latest_checkpoint import LatestCheckpoint

DEFAULT_REPORTING_PERIOD: Final = pytorch.Batch(100)
"""What Determined's ``Trainer.fit`` has."""


def go_on_counting(controller: Any) -> None:
    """Makes the loop count batches from where its state stands.

    Args:
        controller: The ``_PyTorchTrialController``.
    """
    controller.start_from_batch = controller.state.batches_trained
    controller.training_enumerator = enumerate(controller.training_iterator, start=controller.start_from_batch)


class Controller:
    """Determined's training loop, as far as a trial needs to know it; it is known only when the loop starts.

    Attributes:
        pauses: Whether the loop is asked to fetch no further batch before it has looked at its periods.
        skips_training: Whether the loop ends before its first batch.
        is_running: Whether the loop trains; its length is then fixed.
        validates_at_the_end: Whether the loop validates what was trained last, if no period ends with it.
        latest: The checkpoint that the trial starts from, if it is one of Determined's.
        checkpoint_folder: The folder that a checkpoint is loaded from, while it is.
        written_folder: The folder that a checkpoint is written to, off-cluster, or was at last.
    """

    def __init__(self) -> None:
        self._controller: Any = None
        self._outer_error: BaseException | None = None
        self._max_epochs: int | None = None
        # Determined's ``_TrainBoundary`` objects, which say what is done before the next batch.
        self._boundaries: list[Any] = []
        self.pauses = False
        self.skips_training = False
        self.is_running = False
        self.validates_at_the_end = True
        self.latest: LatestCheckpoint | None = None
        self.checkpoint_folder: pathlib.Path | None = None
        self.written_folder: pathlib.Path | None = None

    def connect(self, controller: Any) -> None:
        """Takes the ``_PyTorchTrialController``.

        Args:
            controller: The loop that is about to run the trial.

        Raises:
            CheckpointError: If it is to continue from another checkpoint than the trial was made for.
        """
        self._controller = controller
        self._outer_error = sys.exc_info()[1]
        if self._max_epochs is not None:
            self.max_epochs = self._max_epochs
        name = None if self.latest is None else self.latest.name
        if controller.latest_checkpoint != name:
            raise CheckpointError(
                f"Determined's Trainer.fit was given latest_checkpoint={controller.latest_checkpoint!r}, and the trial "
                f"was made to start from {name!r}. A trial loads its checkpoint before it makes its optimizers: pass "
                "LightningTrial(context, module, latest_checkpoint=...) the same."
            )

    def start_workload(self, boundaries: list[Any]) -> None:
        """Takes what ends the batches that follow.

        Args:
            boundaries: Determined's ``_TrainBoundary`` objects.
        """
        self._boundaries = boundaries
        self.pauses = False

    @property
    def batches_trained(self) -> int:
        """The batches trained in all, on each process."""
        if self._controller is None or self._controller.state is None:
            return 0
        return int(self._controller.state.batches_trained)

    def continue_at(self, batches: int, epochs: int) -> None:
        """Has the loop go on as if it had trained already.

        Args:
            batches: The batches trained in all.
            epochs: The epochs that have ended.
        """
        loop, state = self._controller, self._controller.state
        for done in ("last_val", "last_ckpt"):
            # They say after which batch there was one, by the former count.
            is_current = getattr(state, done) == state.batches_trained > 0
            setattr(state, done, batches if is_current else 0)
        state.batches_trained, state.epochs_trained = batches, epochs
        go_on_counting(loop)

    @property
    def max_length(self) -> pytorch.TrainUnit | None:
        """How long the loop trains, or None before it is known."""
        length: pytorch.TrainUnit | None = getattr(self._controller, "max_length", None)
        return length

    @property
    def max_epochs(self) -> int | None:
        """The length in epochs that was asked for in place of the loop's own, if one was."""
        return self._max_epochs

    @max_epochs.setter
    def max_epochs(self, epochs: int) -> None:
        self._max_epochs = epochs
        if self._controller is not None:
            self._controller.max_length = pytorch.Epoch(epochs)

    @property
    def validation_period(self) -> pytorch.TrainUnit | None:
        """How often the loop validates, or None before it is known."""
        period: pytorch.TrainUnit | None = getattr(self._controller, "validation_period", None)
        return period

    @property
    def reporting_period(self) -> pytorch.TrainUnit | None:
        """How often the loop reports, or None before it is known."""
        period: pytorch.TrainUnit | None = getattr(self._controller, "reporting_period", None)
        return period

    @property
    def error(self) -> BaseException | None:
        """What ends the loop in this moment, if it is an error; not one that was being handled when it was started."""
        error = sys.exc_info()[1]
        return None if error is self._outer_error else error

    def pause_after_this_batch(self, *, validates: bool) -> None:
        """Has the loop stop fetching after the present batch: to report, to validate, and to stop if that is asked.

        Args:
            validates: Whether to validate then.
        """
        kinds = pytorch._TrainBoundaryType
        wanted = kinds.VALIDATE if validates else kinds.REPORT
        for boundary in self._boundaries:
            if boundary.step_type is wanted:
                boundary.limit_reached = self.pauses = True

    @property
    def test_mode(self) -> bool:
        """Whether the loop trains and validates one batch only."""
        return bool(self._controller.test_mode)

    @property
    def counts_epochs(self) -> bool:
        """Whether the length or a period is given in epochs."""
        loop = self._controller
        periods = (loop.max_length, loop.validation_period, loop.checkpoint_period, loop.reporting_period)
        return any(isinstance(period, pytorch.Epoch) for period in periods)

    def is_reporting_time(self, is_last_batch: bool) -> bool:
        """Tells whether the reporting period ends with the batch that was trained last.

        Args:
            is_last_batch: Whether that batch is its epoch's last one.
        """
        period, state = self._controller.reporting_period, self._controller.state
        if isinstance(period, pytorch.Epoch):
            return is_last_batch and period.should_stop(state.epochs_trained)
        return bool(period.should_stop(state.batches_trained))

    @property
    def validation_is_reached(self) -> bool:
        """Whether the loop has found that the validation period ends with the batch that was trained last."""
        kind = pytorch._TrainBoundaryType.VALIDATE
        return any(boundary.limit_reached and boundary.step_type is kind for boundary in self._boundaries)

    @property
    def will_validate(self) -> bool:
        """Whether the validation period ends with the batch that was trained last, and the validation is to come.

        Determined's additional validation at the end of the training does not count: Lightning has none there.
        """
        loop, state = self._controller, self._controller.state
        if state.last_val == state.batches_trained:
            return False
        if self.validation_is_reached:
            return True
        period = loop.validation_period
        if isinstance(period, pytorch.Batch):
            is_due = period.should_stop(state.batches_trained)
        else:
            is_due = state.batches_trained % loop.context._epoch_len == 0 and period.should_stop(state.epochs_trained)
        return bool(is_due)

    def may_validate_in(self, epoch: int) -> bool:
        """Tells whether a validation period may end with an epoch, or within it.

        Args:
            epoch: The index of the epoch.
        """
        period = self._controller.validation_period
        return not isinstance(period, pytorch.Epoch) or bool(period.should_stop(epoch + 1))

    @property
    def has_trained_its_length(self) -> bool:
        """Whether no batch is left to train; never in test mode, which has a length of its own."""
        loop = self._controller
        return bool(not loop.test_mode and loop._steps_until_complete(loop.max_length) <= 0)

    @property
    def is_complete(self) -> bool:
        """Whether the trial has trained as long as it should."""
        return self.test_mode or self.has_trained_its_length

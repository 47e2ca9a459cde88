"""A trial's view of Determined's training loop: its length and periods, its counters, and requests to it."""

from __future__ import annotations

import pathlib
import sys
from typing import Any, Final

from determined import pytorch

from lightning_shim.diagnostics.errors import CheckpointError
from lightning_shim.upstream.determined.latest_checkpoint import LatestCheckpoint

DEFAULT_REPORTING_PERIOD: Final = pytorch.Batch(100)
"""The default of Determined's ``Trainer.fit``."""


def go_on_counting(controller: Any) -> None:
    """Makes the loop count batches from its state on, rather than from where it was started."""
    controller.start_from_batch = controller.state.batches_trained
    controller.training_enumerator = enumerate(controller.training_iterator, start=controller.start_from_batch)


class Controller:
    """Determined's training loop as its trial sees it.

    The trial is built before the loop exists. Until :meth:`connect` is called, nothing has been trained, and length and
    periods are None.

    Attributes:
        pauses: Whether the loop has to look at its periods before it fetches another batch.
        skips_training: Whether the loop ends before its first batch.
        is_running: Whether the loop trains; its length is then fixed.
        latest: The checkpoint that the trial starts from, if it is one of Determined's.
        checkpoint_folder: The folder that a checkpoint is loaded from, while it is.
        written_folder: The folder that a checkpoint is written to, off-cluster, or was at last.
    """

    def __init__(self) -> None:
        self._controller: Any = None
        self._outer_error: BaseException | None = None
        self._max_epochs: int | None = None
        # One for each period: once its limit is reached, the loop leaves the batches to validate, report or save.
        self._boundaries: list[Any] = []
        self.pauses = False
        self.skips_training = False
        self.is_running = False
        self.latest: LatestCheckpoint | None = None
        self.checkpoint_folder: pathlib.Path | None = None
        self.written_folder: pathlib.Path | None = None

    def connect(self, controller: Any) -> None:
        """Connects the view to the loop, which has to continue from the checkpoint that the trial was made for."""
        self._controller = controller
        # Training may have been started while an error is handled, which must not be mistaken for one of training.
        self._outer_error = sys.exc_info()[1]
        if self._max_epochs is not None:
            self.max_epochs = self._max_epochs
        name = None if self.latest is None else self.latest.name
        if controller.latest_checkpoint != name:
            raise CheckpointError(
                f"Determined's Trainer.fit was given latest_checkpoint={controller.latest_checkpoint!r}, and the trial "
                f"was made to start from {name!r}. A trial loads its checkpoint before it makes its optimizers: pass "
                "the same to LightningTrial(context, module, latest_checkpoint=...)."
            )

    def start_workload(self, boundaries: list[Any]) -> None:
        """Takes the periods that may end the batches to come."""
        self._boundaries = boundaries
        self.pauses = False

    @property
    def batches_trained(self) -> int:
        """The total number of batches trained, which each process counts alike."""
        if self._controller is None or self._controller.state is None:
            return 0
        return int(self._controller.state.batches_trained)

    def continue_at(self, batches: int, epochs: int) -> None:
        """Makes the loop continue as if it had trained before, for a checkpoint of Lightning's."""
        loop, state = self._controller, self._controller.state
        for done in ("last_val", "last_ckpt"):
            # The batch of the last validation or checkpoint, in the count that is replaced below.
            is_current = getattr(state, done) == state.batches_trained > 0
            setattr(state, done, batches if is_current else 0)
        state.batches_trained, state.epochs_trained = batches, epochs
        go_on_counting(loop)

    @property
    def max_length(self) -> pytorch.TrainUnit | None:
        """The length of the training, or None before the loop is connected."""
        length: pytorch.TrainUnit | None = getattr(self._controller, "max_length", None)
        return length

    @property
    def max_epochs(self) -> int | None:
        """The length in epochs that the user has set in place of the loop's own, or None."""
        return self._max_epochs

    @max_epochs.setter
    def max_epochs(self, epochs: int) -> None:
        self._max_epochs = epochs
        if self._controller is not None:
            self._controller.max_length = pytorch.Epoch(epochs)

    @property
    def validation_period(self) -> pytorch.TrainUnit | None:
        """The period of validations, or None before the loop is connected."""
        period: pytorch.TrainUnit | None = getattr(self._controller, "validation_period", None)
        return period

    @property
    def reporting_period(self) -> pytorch.TrainUnit | None:
        """The period of reports, or None before the loop is connected."""
        period: pytorch.TrainUnit | None = getattr(self._controller, "reporting_period", None)
        return period

    @property
    def error(self) -> BaseException | None:
        """The error that is ending the loop, or None."""
        # Determined tells callbacks nothing of an error, but calls them while it is being handled.
        error = sys.exc_info()[1]
        return None if error is self._outer_error else error

    def pause_after_this_batch(self, *, validates: bool, saves: bool = False) -> None:
        """Makes the loop leave the batches after the current one, to report or validate, and to stop if requested."""
        # Any period's end makes the loop look for a request to stop. That of reports costs least.
        kinds = pytorch._TrainBoundaryType
        wanted = {kinds.VALIDATE if validates else kinds.REPORT} | ({kinds.CHECKPOINT} if saves else set())
        for boundary in self._boundaries:
            if boundary.step_type in wanted:
                boundary.limit_reached = self.pauses = True

    def count_epochs(self, epochs: int) -> None:
        """Sets the count of epochs that the loop reports, where it cannot count them by their length."""
        self._controller.state.epochs_trained = epochs

    @property
    def test_mode(self) -> bool:
        """Whether the loop trains and validates a single batch; False before it is connected."""
        return bool(getattr(self._controller, "test_mode", False))

    @property
    def counts_epochs(self) -> bool:
        """Whether the length or a period is given in epochs."""
        loop = self._controller
        periods = (loop.max_length, loop.validation_period, loop.checkpoint_period, loop.reporting_period)
        return any(isinstance(period, pytorch.Epoch) for period in periods)

    def is_reporting_time(self, is_trained: bool, is_last_batch: bool) -> bool:
        """Whether a reporting period ends with the batch that was counted last.

        If that one was not trained on but fills up an epoch, the values are of a batch before it, which are reported at
        the end of an epoch alone.
        """
        period, state = self._controller.reporting_period, self._controller.state
        if isinstance(period, pytorch.Epoch):
            return is_last_batch and period.should_stop(state.epochs_trained)
        return is_trained and bool(period.should_stop(state.batches_trained))

    @property
    def will_validate(self) -> bool:
        """Whether a validation is due after the batch that was trained last.

        Determined's additional validation at the end of the training does not count, since Lightning has none there.
        """
        loop, state = self._controller, self._controller.state
        if state.last_val == state.batches_trained:
            return False
        is_due: bool | None = loop.trial.validation_is_due
        if is_due is not None:
            return is_due
        kind = pytorch._TrainBoundaryType.VALIDATE
        if any(boundary.limit_reached and boundary.step_type is kind for boundary in self._boundaries):
            return True
        period = loop.validation_period
        if isinstance(period, pytorch.Batch):
            return bool(period.should_stop(state.batches_trained))
        return bool(state.batches_trained % loop.context._epoch_len == 0 and period.should_stop(state.epochs_trained))

    @property
    def has_trained_its_length(self) -> bool:
        """Whether no batch is left to train. Test mode has a length of its own, so it is False there."""
        loop = self._controller
        return bool(not loop.test_mode and loop._steps_until_complete(loop.max_length) <= 0)

    @property
    def is_complete(self) -> bool:
        """Whether the training is complete."""
        return self.test_mode or self.skips_training or self.has_trained_its_length

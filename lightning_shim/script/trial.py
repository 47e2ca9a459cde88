"""The trial that runs in place of a script's ``Trainer.fit``, with the settings of the user's Trainer."""

from __future__ import annotations

import math
import sys
from collections.abc import Container
from typing import Any, Final

from determined import pytorch

from lightning_shim.facade.logger import LoggerFacade
from lightning_shim.facade.trainer import TrainerFacade, delegates
from lightning_shim.session.random_state import RandomState
from lightning_shim.trial.trial import LightningTrial
from lightning_shim.upstream.determined.context import is_on_cluster

ENDLESS: Final = sys.maxsize
"""The length of a training that something else will end, such as a Timer or the number of steps."""

_SETTINGS: Final = (
    "check_val_every_n_epoch",
    "fast_dev_run",
    "log_every_n_steps",
    "max_epochs",
    "max_steps",
    "val_check_interval",
)
"""Attributes that are read from the user's own Trainer."""


@delegates({name: f"users.{name}" for name in _SETTINGS})
class ScriptTrainer(TrainerFacade):
    """The trainer of a module while a script's own Trainer fits it.

    Attributes:
        users: The user's Trainer.
    """

    users: Any

    def _loggers_of_determined(self, own: list[Any]) -> list[LoggerFacade]:
        """Returns Determined's logger where its master gets what callbacks log; otherwise all is as in Lightning."""
        return super()._loggers_of_determined(own) if own and is_on_cluster() else []

    def adopt(self, users: Any) -> None:
        """Takes the user's Trainer, whose settings it shows from now on.

        Args:
            users: The Trainer.
        """
        self.users = users

    @property
    def estimated_stepping_batches(self) -> int | float:
        """The number of optimizer steps of the whole training, computed from its length and the loaders."""
        if self.max_epochs == -1:
            return math.inf if self.max_steps == -1 else self.max_steps
        self.fit_loop.setup_data()
        if self.num_training_batches == math.inf:
            return self.max_steps
        steps = self._steps_of_an_epoch(self.accumulate_grad_batches) * max(self.max_epochs, 1)
        return steps if self.max_steps == -1 else min(steps, self.max_steps)


class ValidationBatches(Container[int]):
    """The batches after which Lightning validates, counted from 1 over all epochs.

    Lightning starts to count ``val_check_interval`` again in each epoch, which no plain period of Determined's can
    express. But Determined accepts any container of counts.

    Args:
        epoch_length: The number of batches in an epoch.
        interval: The number of batches between two validations in an epoch: ``trainer.val_check_batch``.
        epochs: The number of epochs between two with validations: ``trainer.check_val_every_n_epoch``.
    """

    def __init__(self, epoch_length: int, interval: int, epochs: int) -> None:
        self._epoch_length: Final = epoch_length
        self._interval: Final = interval
        self._epochs: Final = epochs

    def __contains__(self, batches: object) -> bool:
        assert isinstance(batches, int)
        epoch, index = divmod(batches - 1, self._epoch_length)
        return batches > 0 and (epoch + 1) % self._epochs == 0 and (index + 1) % self._interval == 0


class ScriptTrial(LightningTrial):
    """A trial with the settings of the user's Trainer.

    Args:
        context: Determined's trial context.
        users_trainer: The user's Trainer.
        random_state: The random state of the script, which Determined has replaced by its own on a cluster.
        module: The LightningModule.
        **options: Options of LightningTrial.
    """

    trainer: ScriptTrainer
    _tests_afterwards = True

    def __init__(
        self,
        context: pytorch.PyTorchTrialContext,
        users_trainer: Any,
        random_state: RandomState,
        module: Any,
        **options: Any,
    ) -> None:
        random_state.restore()
        self._users_trainer: Final = users_trainer
        super().__init__(context, module, **options)
        self.controller.validates_at_the_end = False
        # Off-cluster the script's loggers write what there is.
        context.set_enable_tensorboard_logging(is_on_cluster())

    @property
    def writes_checkpoints(self) -> bool:
        """Whether Determined writes checkpoints. Off-cluster there are those of the script's own ModelCheckpoint."""
        return is_on_cluster()

    @property
    def has_taken_all_steps(self) -> bool:
        """Whether ``max_steps`` has been reached, however many batches a step has had."""
        limit = self.trainer.max_steps
        return limit != -1 and self.trainer.global_step >= limit

    @property
    def loaders(self) -> tuple[Any, Any]:
        """The CombinedLoaders of training and validation; None for one that was never requested."""
        return self._parts.training_loop.source.combined, self._parts.evaluation_loop.source.combined

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        """Trains on a batch, and ends the training if that was the last step."""
        metrics = super().train_batch(batch, epoch_idx, batch_idx)
        if self.has_taken_all_steps:
            self.controller.pause_after_this_batch(validates=False)
        return metrics

    def _make_trainer(self, *parts: Any) -> ScriptTrainer:
        trainer = ScriptTrainer(*parts)
        trainer.adopt(self._users_trainer)
        return trainer

    def periods(self) -> dict[str, Any]:
        """Returns the length and the periods of the training, by the names of Determined's ``Trainer.fit``."""
        return {
            "max_length": self._length(),
            "validation_period": self._validation_period(),
            # With 0 Lightning never logs.
            "reporting_period": pytorch.Batch(self.trainer.log_every_n_steps or ENDLESS),
        }

    def _length(self) -> pytorch.TrainUnit:
        trainer, epoch_length = self.trainer, self.epoch_length
        by_epochs = ENDLESS if trainer.max_epochs == -1 or epoch_length is None else trainer.max_epochs * epoch_length
        batches = min(by_epochs, self._batches_of_steps())
        if epoch_length is not None and batches % epoch_length == 0:
            return pytorch.Epoch(batches // epoch_length)
        return pytorch.Batch(batches)

    def _batches_of_steps(self) -> int:
        """Returns the number of batches until ``max_steps``, or ``ENDLESS`` if it cannot be known beforehand."""
        trainer = self.trainer
        scheduler_class = self._session.lightning.GradientAccumulationScheduler
        changes = any(isinstance(callback, scheduler_class) for callback in trainer.callbacks)
        if trainer.max_steps == -1 or changes or not self.module.automatic_optimization:
            return ENDLESS
        accumulate = trainer.accumulate_grad_batches
        if self.epoch_length is None:
            return trainer.max_steps * accumulate
        # Lightning steps at the end of each epoch, even if fewer batches have been accumulated.
        epochs, rest = divmod(trainer.max_steps, math.ceil(self.epoch_length / accumulate))
        return epochs * self.epoch_length + rest * accumulate

    def _validation_period(self) -> pytorch.TrainUnit | None:
        trainer, epoch_length = self.trainer, self.epoch_length
        interval, epochs = trainer.val_check_interval, trainer.check_val_every_n_epoch
        if isinstance(interval, float):
            # A fraction of an unknown length is unknown too, so the trial validates at the epoch's end by itself.
            if epoch_length is None:
                return None
            interval = max(1, int(epoch_length * interval))
        if epochs is None or epoch_length is None:
            return pytorch.Batch(interval)
        if interval == epoch_length:
            return pytorch.Epoch(epochs)
        return pytorch.Batch(ValidationBatches(epoch_length, interval, epochs))

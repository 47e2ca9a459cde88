"""The trial that runs in place of a script's ``Trainer.fit``, with the settings of the user's Trainer."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, Final

from determined import pytorch

from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.facade.delegation import Answer, delegates
from lightning_shim.facade.logger import LoggerFacade
from lightning_shim.facade.trainer import TrainerFacade
from lightning_shim.script.trainer_patch import GIVEN
from lightning_shim.script.trainer_while_fitting import show_facade
from lightning_shim.session.loops_state import restart
from lightning_shim.session.random_state import RandomState
from lightning_shim.trial.trial import LightningTrial
from lightning_shim.upstream.determined.context import is_on_cluster
from lightning_shim.upstream.lightning_trainer import loops_that_go_on, validation_seconds

ENDLESS: Final = sys.maxsize
"""The length of a training that something else will end, such as a Timer or the number of steps."""

_SETTINGS: Final = (
    "barebones",
    "check_val_every_n_epoch",
    "fast_dev_run",
    "log_every_n_steps",
    "received_sigterm",
    "val_check_interval",
)
"""Attributes that are read from the user's own Trainer."""

_NUMBERS_OF_BATCHES: Final[dict[str, Answer]] = {
    "num_training_batches": lambda trainer: (
        (trainer._training_loop.epoch_length if trainer.loaders[0] is not None else trainer.users_loop).max_batches
    ),
    "num_val_batches": lambda trainer: (
        trainer._validation_loop.source.num_batches
        if trainer.loaders[1] is not None
        else trainer.users_loop.epoch_loop.val_loop.max_batches
    ),
}
"""Attributes that are the last fit's until the loaders are there."""


@delegates(_NUMBERS_OF_BATCHES)
@delegates({name: f"users.{name}" for name in _SETTINGS})
@delegates({name: f"users_loop.{name}" for name in ("max_epochs", "max_steps")})
class ScriptTrainer(TrainerFacade):
    """The facade that a script's own Trainer shows while it fits a module."""

    users: Any
    users_loop: Any
    """The Trainer's own ``fit_loop``, whose limits the script sets."""

    def set_max_epochs(self, epochs: int) -> None:
        """Sets the limit of the Trainer's own loop."""
        self.users_loop.max_epochs = epochs

    def _loggers_of_determined(self) -> list[LoggerFacade]:
        """Returns Determined's logger where its master gets what callbacks log; otherwise all is as in Lightning."""
        return super()._loggers_of_determined() if self.lightning_loggers.loggers and is_on_cluster() else []

    def adopt(self, users: Any) -> None:
        """Takes the user's Trainer, which shows from now on what this facade answers."""
        self.users, self.users_loop = users, users.fit_loop
        # ModelCheckpoint reads the private name.
        show_facade(users, self, frozenset({*_SETTINGS, "_signal_connector"}))

    @property
    def loaders(self) -> tuple[Any, Any]:
        """The CombinedLoaders of training and validation; None for one that was never requested."""
        return self._training_loop.source.combined, self._validation_loop.source.combined

    @property
    def val_check_batch(self) -> Any:
        """The number of batches between two validations; None where a clock decides."""
        return None if validation_seconds(self.users) is not None else super().val_check_batch

    @property
    def estimated_stepping_batches(self) -> int | float:
        """The number of optimizer steps of the whole training, computed from its length and the loaders."""
        if self.max_epochs == -1:
            return math.inf if self.max_steps == -1 else self.max_steps
        if self.train_dataloader is None:
            self._lightning.rank_zero_info("Loading `train_dataloader` to estimate number of stepping batches.")
        self.fit_loop.setup_data()
        if self.num_training_batches == math.inf:
            return self.max_steps
        steps = self._steps_of_an_epoch(self.accumulate_grad_batches) * max(self.max_epochs, 1)
        return steps if self.max_steps == -1 else min(steps, self.max_steps)


class ScriptTrial(LightningTrial):
    """A trial with the settings of the user's Trainer.

    Lightning's loop has no length: it looks again and again whether it has ended. So this trial says so itself, and
    when to validate. Determined is given an estimate of its length, to show how far it has come.

    Args:
        context: Determined's trial context.
        users_trainer: The user's Trainer.
        random_state: The random state of the script, which Determined has replaced by its own on a cluster.
        module: The LightningModule.
        **options: Options of LightningTrial.
    """

    trainer: ScriptTrainer

    def __init__(
        self,
        context: pytorch.PyTorchTrialContext,
        users_trainer: Any,
        random_state: RandomState,
        module: Any,
        **options: Any,
    ) -> None:
        random_state.restore()
        self._script_trainer = users_trainer
        self._checkpoint_epochs: pytorch.Epoch | None = None
        self._is_time_to_validate = False
        self._last_validation = 0.0
        self._has_said_that_a_stop_waits = False
        super().__init__(context, module, **options)
        # Off-cluster the script's loggers write what there is.
        context.set_enable_tensorboard_logging(is_on_cluster())

    @property
    def is_over(self) -> bool:
        """Whether ``max_epochs`` or ``max_steps`` has been reached."""
        return self._session.has_reached_its_limits

    @property
    def validation_is_due(self) -> bool:
        """Whether Lightning would validate after the batch that was trained last."""
        trainer, progress, is_due = self.trainer, self._session.progress, super().validation_is_due
        if is_due is not None:
            return is_due
        epochs, period = trainer.check_val_every_n_epoch, trainer.val_check_batch
        # After a batch that on_train_batch_start has refused there is no validation.
        if not progress.batch_end_is_due or (epochs is not None and (progress.current_epoch + 1) % epochs):
            return False
        if self._session.validates_early and trainer.enable_validation:
            return True
        if progress.is_last_batch and self._parts.training_loop.source.is_taken_by_steps:
            return True
        if period is None:
            return self._is_time_to_validate
        if period != math.inf:
            batches = progress.total_batch_idx if epochs is None else progress.batch_idx
            return bool((batches + 1) % period == 0)
        limit = trainer.limit_train_batches
        return progress.is_last_batch or (isinstance(limit, int) and (progress.batch_idx + 1) % limit == 0)

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        """Trains on a batch, and has Determined look up if that was the last one, or if a validation is due."""
        try:
            metrics = super().train_batch(batch, epoch_idx, batch_idx)
        except BaseException:
            progress = self._session.progress
            progress.uncounted = 1 if progress.batch_end_is_due else 2
            raise
        self._say_if_a_stop_has_to_wait()
        self._look_at_the_clock()
        progress, epochs = self._session.progress, self._checkpoint_epochs
        validates = self.validation_is_due
        saves = progress.is_last_batch and epochs is not None and epochs.should_stop(progress.epochs_trained)
        if validates or saves or self.is_over:
            self.controller.pause_after_this_batch(validates=validates, saves=saves)
        if progress.is_last_batch:
            self.controller.count_epochs(progress.epochs_trained)
        return metrics

    def _look_at_the_clock(self) -> None:
        """Decides whether a period of time has ended, by rank 0's clock: all processes validate together."""
        seconds = validation_seconds(self._script_trainer)
        if seconds is not None and self._session.validates_in_epoch(self._session.progress.current_epoch):
            is_time = time.monotonic() - self._last_validation >= seconds
            self._is_time_to_validate = self.trainer.strategy.broadcast(is_time)

    def after_validation(self) -> None:
        """Starts the next period of time."""
        super().after_validation()
        self._last_validation = time.monotonic()

    def _say_if_a_stop_has_to_wait(self) -> None:
        session = self._session
        if session.should_stop and not session.stops_early and not self._has_said_that_a_stop_waits:
            self._has_said_that_a_stop_waits = True
            session.lightning.rank_zero_info(
                f"Trainer was signaled to stop but the required `min_epochs={session.min_epochs!r}` or "
                f"`min_steps={session.options.min_steps!r}` has not been met. Training will continue..."
            )

    def _make_trainer(self, *parts: Any) -> ScriptTrainer:
        trainer = ScriptTrainer(*parts)
        # A Trainer that has fitted before goes on counting, and a checkpoint has its own counts.
        restart(self._session.progress, loops_that_go_on(self._script_trainer), within_epoch=False)
        trainer.adopt(self._script_trainer)
        return trainer

    def periods(self, checkpoint_period: pytorch.TrainUnit | None) -> dict[str, Any]:
        """Returns length and periods of the training by name; the configuration may ask for checkpoints."""
        self._verify_validation_interval()
        self._warn_of_few_batches()
        if isinstance(checkpoint_period, pytorch.Epoch):
            # Determined cannot tell where an epoch ends.
            self._checkpoint_epochs, checkpoint_period = checkpoint_period, None
        return {
            "max_length": pytorch.Batch(self._estimated_batches()),
            "validation_period": None,
            "checkpoint_period": checkpoint_period,
            # With 0 Lightning never logs.
            "reporting_period": pytorch.Batch(self.trainer.log_every_n_steps or ENDLESS),
        }

    def _verify_validation_interval(self) -> None:
        trainer, batches = self.trainer, self.epoch_length
        # Lightning's clock starts when the loaders are there.
        self._last_validation = time.monotonic()
        if validation_seconds(self._script_trainer) is not None:
            return
        interval = trainer.val_check_interval
        if isinstance(interval, float):
            if batches is None and interval != 1.0 and not self._parts.training_loop.source.is_switched_off:
                raise ConfigurationError(
                    f"{caller_location()}: When using an IterableDataset for `train_dataloader`, "
                    f"`Trainer(val_check_interval)` must be time based, `1.0` or an int, not {interval!r}: the "
                    "training loader has no length."
                )
        elif interval > (batches or ENDLESS) and trainer.check_val_every_n_epoch and trainer.limit_val_batches:
            raise ConfigurationError(
                f"{caller_location()}: `val_check_interval` ({interval}) must be less than or equal to the number of "
                f"the training batches ({batches}), or it would never validate. Pass check_val_every_n_epoch=None to "
                "count the batches of all epochs.",
                also=ValueError,
            )

    def _warn_of_few_batches(self) -> None:
        trainer, batches = self.trainer, self.trainer.num_training_batches
        logs = vars(self._script_trainer)[GIVEN].get("logger") is not False
        if logs and batches < (trainer.log_every_n_steps or 0) and batches and not trainer.fast_dev_run:
            self._session.lightning.rank_zero_warn(
                f"The number of training batches ({batches}) is smaller than the logging interval "
                f"Trainer(log_every_n_steps={trainer.log_every_n_steps}). Set a lower value for log_every_n_steps if "
                "you want to see logs for the training epoch.",
                category=self._session.lightning.PossibleUserWarning,
            )

    def _estimated_batches(self) -> int:
        """Returns the number of batches that the training takes if no epoch and no accumulation ends early."""
        trainer, length = self.trainer, self.epoch_length
        lengths = [ENDLESS]
        if trainer.max_epochs != -1 and length is not None:
            lengths.append(trainer.max_epochs * length)
        if trainer.max_steps != -1:
            lengths.append(trainer.max_steps * trainer.accumulate_grad_batches)
        return max(1, min(lengths))

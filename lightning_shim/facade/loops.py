"""``trainer.fit_loop`` on Determined: the few attributes that modules read from Lightning's loops."""

from __future__ import annotations

from typing import Any, Final

from lightning_shim.data.source import DataSource
from lightning_shim.diagnostics.errors import RefusedMemberError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.loop.training import TrainingLoop
from lightning_shim.loop.validation import EvaluationLoop
from lightning_shim.session.progress import Progress
from lightning_shim.session.session import Session


class Refusing:
    """Base of the stand-ins for parts of Lightning's Trainer: each has a few of the members and refuses the others."""

    _name: str
    _instead = (
        "Determined runs the loop. Read trainer's own attributes instead, such as current_epoch, global_step, "
        "num_training_batches or enable_validation."
    )

    def __getattr__(self, name: str) -> Any:
        # copy, pickle and numpy look for such names and expect AttributeError.
        if name.startswith("__"):
            raise AttributeError(name)
        raise RefusedMemberError(f"{caller_location()}: {self._name} has no {name!r}: {self._instead}")


class _DataSourceFacade:
    """Lightning's ``_DataLoaderSource``."""

    def __init__(self, source: DataSource) -> None:
        self._source: Final = source

    def is_defined(self) -> bool:
        """Whether the stage has loaders."""
        return self._source.request.is_defined


class _EvaluationLoopFacade(Refusing):
    """Lightning's ``_EvaluationLoop``."""

    _name = "trainer.fit_loop.epoch_loop.val_loop"

    def __init__(self, session: Session, loop: EvaluationLoop) -> None:
        self._progress: Final = session.progress
        # Lightning's private name, by which modules ask whether there is validation data.
        self._data_source: Final = _DataSourceFacade(loop.source)

    @property
    def _has_run(self) -> bool:
        """Whether there has been a validation; Lightning's private name, which callbacks read."""
        return self._progress.has_validated


class _BatchProgressFacade(Refusing):
    """Lightning's ``_BatchProgress``."""

    _name = "trainer.fit_loop.epoch_loop.batch_progress"

    def __init__(self, progress: Progress) -> None:
        self._progress: Final = progress

    @property
    def is_last_batch(self) -> bool:
        """Whether the current batch is the last one of its epoch."""
        return self._progress.is_last_batch


class _EpochLoopFacade(Refusing):
    """Lightning's ``_TrainingEpochLoop``."""

    _name = "trainer.fit_loop.epoch_loop"

    def __init__(self, session: Session, evaluation_loop: EvaluationLoop) -> None:
        self._session: Final = session
        self._progress: Final = session.progress
        self.val_loop: Final = _EvaluationLoopFacade(session, evaluation_loop)
        self.batch_progress: Final = _BatchProgressFacade(session.progress)

    @property
    def batch_idx(self) -> int:
        """The index of the current batch in its epoch."""
        return self._progress.batch_idx

    @property
    def total_batch_idx(self) -> int:
        """The index of the current batch over all epochs."""
        return self._progress.total_batch_idx

    @property
    def _batches_that_stepped(self) -> int:
        """The step under which Lightning logs; its private name, which modules read and set."""
        return self._progress.batches_that_stepped

    @_batches_that_stepped.setter
    def _batches_that_stepped(self, batches: int) -> None:
        self._progress.batches_that_stepped = batches

    @property
    def global_step(self) -> int:
        """``trainer.global_step``."""
        return self._session.global_step


class FitLoopFacade(Refusing):
    """Lightning's ``_FitLoop``.

    Args:
        session: The training.
        training_loop: The loop that runs instead.
        evaluation_loop: The loop of a validation.
    """

    _name = "trainer.fit_loop"

    def __init__(self, session: Session, training_loop: TrainingLoop, evaluation_loop: EvaluationLoop) -> None:
        self._session: Final = session
        self._training_loop: Final = training_loop
        self.epoch_loop: Final = _EpochLoopFacade(session, evaluation_loop)
        self._data_source: Final = _DataSourceFacade(training_loop.source)

    @property
    def max_epochs(self) -> int:
        """``trainer.max_epochs``."""
        return int(self._session.trainer.max_epochs)

    @max_epochs.setter
    def max_epochs(self, epochs: int) -> None:
        script_trainer = self._session.script_trainer
        if script_trainer is None:
            self._session.schedule.set_max_epochs(epochs)
        else:
            script_trainer.fit_loop.max_epochs = epochs

    @property
    def max_steps(self) -> int:
        """``trainer.max_steps``."""
        return int(self._session.trainer.max_steps)

    @property
    def max_batches(self) -> int | float:
        """``trainer.num_training_batches``."""
        return self._training_loop.max_batches

    @max_batches.setter
    def max_batches(self, batches: int | float) -> None:
        self._training_loop.max_batches = batches

    @property
    def _skip_backward(self) -> bool:
        """Whether automatic optimization leaves the gradients alone; Lightning's private name, which callbacks set."""
        return self._training_loop.optimization.skips_backward

    @_skip_backward.setter
    def _skip_backward(self, value: bool) -> None:
        self._training_loop.optimization.skips_backward = value

    def setup_data(self) -> None:
        """Requests the training loaders, if that has not been done."""
        self._training_loop.set_up()


class LoggerConnectorFacade(Refusing):
    """Lightning's ``_LoggerConnector``.

    Args:
        session: The training.
        evaluation_loop: Counts the batches of a validation.
    """

    _name = "trainer._logger_connector"
    _instead = "Determined reports the metrics. Read trainer.callback_metrics and trainer.logged_metrics instead."

    def __init__(self, session: Session, evaluation_loop: EvaluationLoop) -> None:
        self._session: Final = session
        self._evaluation_loop: Final = evaluation_loop

    @property
    def should_update_logs(self) -> bool:
        """Whether Lightning's loggers receive the values of the current step; never if ``log_every_n_steps`` is 0."""
        trainer, progress = self._session.trainer, self._session.progress
        every = trainer.log_every_n_steps
        # One more, because the current batch is counted only after its validation.
        step = self._evaluation_loop.batches_started if trainer.validating else progress.batches_that_stepped + 1
        return bool(every > 0 and (step % every == 0 or trainer.should_stop))

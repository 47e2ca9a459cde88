"""The parts of Lightning's Trainer on Determined: ``trainer.fit_loop`` and what modules read from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lightning_shim.data.source import DataSource
from lightning_shim.diagnostics.errors import RefusedMemberError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.facade.delegation import delegates
from lightning_shim.loop.training import TrainingLoop
from lightning_shim.loop.validation import EvaluationLoop
from lightning_shim.members.trainer_parts import SETTABLE, instead_of
from lightning_shim.metrics.collector import MetricCollector
from lightning_shim.metrics.store import MetricStore
from lightning_shim.patching.attachment import CURRENT_FX_ATTRIBUTE
from lightning_shim.session.session import Session

_COUNTS: Final = ("ready", "started", "processed", "completed")

_TRANSFER_HOOKS: Final = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")

_NOT_YET_COUNTED: Final = {
    hook: missing
    for missing, hooks in (
        (3, "on_train_epoch_start on_batch_start on_train_batch_start on_validation_batch_start"),
        (2, "training_step training_step_end on_before_backward backward on_after_backward on_before_zero_grad"),
        (2, "optimizer_zero_grad on_before_optimizer_step configure_gradient_clipping optimizer_step"),
        (2, "validation_step validation_step_end"),
        (1, "on_train_epoch_end lr_scheduler_step on_train_batch_end on_batch_end on_validation_batch_end"),
    )
    for hook in hooks.split()
}
"""How many of Lightning's four counts do not include the batch or epoch in one of whose hooks they are read."""


def _counts(number: int, missing: int) -> dict[str, int]:
    return {name: number - (place >= len(_COUNTS) - missing) for place, name in enumerate(_COUNTS)}


class Refusing:
    """Base of the stand-ins for parts of Lightning's Trainer: each has a few of the members and refuses the others.

    Args:
        path: The path to the part, as in :data:`~lightning_shim.members.trainer_parts.TRAINER_PARTS`.
        **attributes: The attributes of the part that stay, whose names are Lightning's, and those that it works with.
    """

    _path: str

    def __init__(self, path: str, **attributes: Any) -> None:
        vars(self).update(attributes, _path=path)

    def __getattr__(self, name: str) -> Any:
        # copy, pickle and numpy look for such names and expect AttributeError.
        if name.startswith("__"):
            raise AttributeError(name)
        raise RefusedMemberError(f"{caller_location()}: {self._spelling} has no {name!r}: {instead_of(self._path)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if f"{self._path}.{name}" not in SETTABLE:
            raise RefusedMemberError(
                f"{caller_location()}: {self._spelling}.{name} cannot be set: {instead_of(self._path)}"
            )
        object.__setattr__(self, name, value)

    @property
    def _spelling(self) -> str:
        return self._path.replace("Trainer", "trainer", 1)


class _DataSourceFacade(Refusing):
    """Lightning's ``_DataLoaderSource``."""

    _source: DataSource

    def is_defined(self) -> bool:
        """Whether the stage has loaders."""
        return self._source.request.is_defined

    def is_module(self) -> bool:
        """Whether they come from the module or its data module, rather than from an argument."""
        return self._source.request.is_module

    def dataloader(self) -> Any:
        """Requests the loaders from the user once more."""
        return self._source.request()


class _Counts(Refusing):
    """Lightning's ``_ProcessedTracker``."""

    _read: Callable[[], Mapping[str, int]]

    def __getattr__(self, name: str) -> Any:
        return self._read()[name] if name in _COUNTS else super().__getattr__(name)


def _progress(path: str, **counts: Callable[[], Mapping[str, int]]) -> dict[str, _Counts]:
    return {name: _Counts(f"{path}.{name}", _read=read) for name, read in counts.items()}


class ResultsFacade(Refusing):
    """Lightning's ``_ResultCollection``: what is logged in a stage, or in the current one."""

    _collector: Callable[[], MetricCollector]

    @property
    def batch(self) -> Any:
        """The current batch, or None between batches."""
        return self._collector().batch

    @property
    def batch_size(self) -> int | None:
        """The number of samples in it; None while no mean has needed it."""
        return self._collector().batch_size

    @property
    def dataloader_idx(self) -> int | None:
        """The index of its loader, if there are several."""
        return self._collector().dataloader_idx

    def metrics(self, on_step: bool) -> dict[str, dict[str, Any]]:
        """Returns the values for callbacks, loggers and the progress bar.

        Args:
            on_step: Whether to return the last step's values; otherwise those of the epoch so far.
        """
        views = self._collector().collect(on_step)
        shown = {name: float(value) for name, value in views.progress_bar.items()}
        return {"callback": views.callback, "log": views.logged, "pbar": shown}


@delegates({"is_last_batch": "_loop.is_last_batch"})
class _ValidationBatchProgress(Refusing):
    """Lightning's ``_BatchProgress`` of a validation."""


# Callbacks read Lightning's private name.
@delegates({"_has_run": "_session.progress.has_validated"})
class _EvaluationLoopFacade(Refusing):
    """Lightning's ``_EvaluationLoop``."""

    _session: Session
    _loop: EvaluationLoop

    def __init__(self, path: str, session: Session, loop: EvaluationLoop, collector: MetricCollector) -> None:
        progress = f"{path}.batch_progress"
        super().__init__(
            path,
            _session=session,
            _loop=loop,
            _data_source=_DataSourceFacade(f"{path}._data_source", _source=loop.source),
            _results=ResultsFacade(f"{path}._results", _collector=lambda: collector),
            batch_progress=_ValidationBatchProgress(progress, _loop=loop, **_progress(progress, current=self._batches)),
        )

    def _batches(self) -> dict[str, int]:
        hook = vars(self._session.module)[CURRENT_FX_ATTRIBUTE]
        in_transfer = hook in _TRANSFER_HOOKS and self._session.trainer.evaluating
        is_of_validation = hook is not None and "validation" in hook
        missing = 4 if in_transfer else _NOT_YET_COUNTED.get(hook, 0) if is_of_validation else 0
        return _counts(self._loop.batches_started, missing)


@delegates({"is_last_batch": "_session.progress.is_last_batch"})
class _BatchProgress(Refusing):
    """Lightning's ``_BatchProgress`` of training."""


# Modules read and set the step under which Lightning logs, by its private name.
@delegates(
    {"global_step": "_session.global_step", "_batches_that_stepped": "_session.progress.batches_that_stepped"},
    settable={"_batches_that_stepped"},
)
class _EpochLoopFacade(Refusing):
    """Lightning's ``_TrainingEpochLoop``."""

    _session: Session
    _training_loop: TrainingLoop
    _loop_of_validation: EvaluationLoop

    def __init__(
        self,
        path: str,
        session: Session,
        training_loop: TrainingLoop,
        evaluation_loop: EvaluationLoop,
        metrics: MetricStore,
    ) -> None:
        counts = f"{path}.batch_progress"
        progress = session.progress
        super().__init__(
            path,
            _session=session,
            _training_loop=training_loop,
            _loop_of_validation=evaluation_loop,
            _results=ResultsFacade(f"{path}._results", _collector=lambda: metrics.training),
            val_loop=_EvaluationLoopFacade(f"{path}.val_loop", session, evaluation_loop, metrics.validation),
            batch_progress=_BatchProgress(
                counts,
                _session=session,
                **_progress(
                    counts,
                    current=lambda: self._batches(progress.batch_idx),
                    total=lambda: self._batches(progress.total_batch_idx),
                ),
            ),
        )

    def _batches(self, batch_idx: int) -> dict[str, int]:
        hook = vars(self._session.module)[CURRENT_FX_ATTRIBUTE]
        in_transfer = hook in _TRANSFER_HOOKS and self._session.trainer.training
        is_of_batch = hook is not None and "epoch" not in hook and "validation" not in hook
        missing = 4 if in_transfer else _NOT_YET_COUNTED.get(hook, 0) if is_of_batch else 0
        return _counts(batch_idx + 1, missing)

    @property
    def restarting(self) -> bool:
        """Whether the current batch is the first one after ``ckpt_path`` was loaded."""
        # After a pause the training goes on as if there had been none, so it has not restarted.
        restarted_at = self._training_loop.restarted_at
        return restarted_at is not None and self._session.progress.total_batch_idx <= restarted_at + 1

    def _should_check_val_epoch(self) -> bool:
        """Whether the current epoch is one to validate in; progress bars ask by Lightning's private name."""
        every = self._session.trainer.check_val_every_n_epoch
        is_due = every is None or (self._session.progress.current_epoch + 1) % every == 0
        return self._loop_of_validation.is_enabled and is_due

    @property
    def _is_training_done(self) -> bool:
        """Whether the current batch is the last one of the epoch, or of the training; Lightning's private name."""
        trainer = self._session.trainer
        return self._session.progress.is_last_batch or 0 <= trainer.max_steps <= trainer.global_step

    def _should_accumulate(self) -> bool:
        """Whether the current batch only adds to the gradients; Lightning's private name, which callbacks call."""
        return self._training_loop.optimization.should_accumulate()

    @property
    def batch_idx(self) -> int:
        """The index of the current batch in its epoch."""
        return self._batches(self._session.progress.batch_idx)["ready"] - 1

    @property
    def total_batch_idx(self) -> int:
        """The index of the current batch over all epochs."""
        return self._batches(self._session.progress.total_batch_idx)["ready"] - 1


# The last two are private names of Lightning's, by which modules reach datasets, and callbacks stop ``backward``.
@delegates(
    {
        "max_steps": "_session.trainer.max_steps",
        "max_batches": "_training_loop.epoch_length.max_batches",
        "_combined_loader": "_training_loop.source.combined",
        "_skip_backward": "_training_loop.optimization.skips_backward",
    },
    settable={"max_batches", "_skip_backward"},
)
class FitLoopFacade(Refusing):
    """Lightning's ``_FitLoop``."""

    _session: Session
    _training_loop: TrainingLoop

    def __init__(
        self, session: Session, training_loop: TrainingLoop, evaluation_loop: EvaluationLoop, metrics: MetricStore
    ) -> None:
        path = "Trainer.fit_loop"
        counts = f"{path}.epoch_progress"
        super().__init__(
            path,
            _session=session,
            _training_loop=training_loop,
            _data_source=_DataSourceFacade(f"{path}._data_source", _source=training_loop.source),
            _results=ResultsFacade(f"{path}._results", _collector=lambda: metrics.collector),
            epoch_progress=Refusing(counts, **_progress(counts, current=self._epochs, total=self._epochs)),
            epoch_loop=_EpochLoopFacade(f"{path}.epoch_loop", session, training_loop, evaluation_loop, metrics),
        )

    def _epochs(self) -> dict[str, int]:
        progress = self._session.progress
        hook = vars(self._session.module)[CURRENT_FX_ATTRIBUTE]
        starts = hook == "on_train_epoch_start"
        is_running = progress.epoch_is_running or starts
        missing = 0 if not is_running else _NOT_YET_COUNTED[hook] if starts or hook == "on_train_epoch_end" else 2
        return _counts(progress.current_epoch + is_running, missing)

    @property
    def restarting(self) -> bool:
        """Whether the current epoch is one that ``ckpt_path`` was written in."""
        return self._training_loop.restarted_at is not None

    @property
    def total_batch_idx(self) -> int:
        """The index of the current batch over all epochs."""
        return int(self.epoch_loop.total_batch_idx)

    @property
    def batch_idx(self) -> int:
        """The index of the current batch in its epoch."""
        return int(self.epoch_loop.batch_idx)

    def _should_accumulate(self) -> bool:
        """Whether the current batch only adds to the gradients; Lightning's private name, which callbacks call."""
        return bool(self.epoch_loop._should_accumulate())

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

    def setup_data(self) -> None:
        """Requests the training loaders, if that has not been done."""
        self._training_loop.set_up()


class LoggerConnectorFacade(Refusing):
    """Lightning's ``_LoggerConnector``."""

    _session: Session
    _evaluation_loop: EvaluationLoop

    def __init__(self, session: Session, evaluation_loop: EvaluationLoop) -> None:
        super().__init__("Trainer._logger_connector", _session=session, _evaluation_loop=evaluation_loop)

    @property
    def should_update_logs(self) -> bool:
        """Whether Lightning's loggers receive the values of the current step; never if ``log_every_n_steps`` is 0."""
        trainer, progress = self._session.trainer, self._session.progress
        every = trainer.log_every_n_steps
        # One more, because the current batch is counted only after its validation.
        step = self._evaluation_loop.batches_started if trainer.validating else progress.batches_that_stepped + 1
        return bool(every > 0 and (step % every == 0 or trainer.should_stop))

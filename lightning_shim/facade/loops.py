"""The parts of Lightning's Trainer on Determined: ``trainer.fit_loop`` and what modules read from there."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from lightning_shim.diagnostics.errors import RefusedMemberError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.facade.delegation import Answer, setter
from lightning_shim.loop.training import TrainingLoop
from lightning_shim.loop.transfer import TRANSFER_HOOKS
from lightning_shim.loop.validation import EvaluationLoop
from lightning_shim.members.trainer_parts import SETTABLE, TRAINER_PARTS, instead_of
from lightning_shim.metrics.collector import MetricCollector
from lightning_shim.metrics.store import MetricStore
from lightning_shim.patching.attachment import CURRENT_FX_ATTRIBUTE
from lightning_shim.session.progress import (
    COUNTS,
    counts,
    counts_of_epochs,
    missing_of_batch,
    missing_of_validation_batch,
)
from lightning_shim.session.session import Session


class Training(NamedTuple):
    """The objects that the answers are read from."""

    session: Session
    training_loop: TrainingLoop
    evaluation_loop: EvaluationLoop
    metrics: MetricStore

    @property
    def hook(self) -> Any:
        """The name of the running hook, or None."""
        return vars(self.session.module)[CURRENT_FX_ATTRIBUTE]


def _epochs(training: Training) -> dict[str, int]:
    return counts_of_epochs(training.session.progress, training.hook)


def _batches(training: Training, batch_idx: int) -> dict[str, int]:
    hook = training.hook
    in_transfer = hook in TRANSFER_HOOKS and training.session.trainer.training
    missing = 4 if in_transfer else max(missing_of_batch(hook), training.session.progress.uncounted)
    return counts(batch_idx + 1, missing)


def _batches_of_epoch(training: Training) -> dict[str, int]:
    return _batches(training, training.session.progress.batch_idx)


def _batches_in_all(training: Training) -> dict[str, int]:
    return _batches(training, training.session.progress.total_batch_idx)


def _validation_batches(training: Training, batches: int) -> dict[str, int]:
    in_transfer = training.hook in TRANSFER_HOOKS and training.session.trainer.evaluating
    return counts(batches, 4 if in_transfer else missing_of_validation_batch(training.hook))


def _batches_of_validation(training: Training) -> dict[str, int]:
    return _validation_batches(training, training.session.progress.validated)


def _validation_batches_of_epoch(training: Training) -> dict[str, int]:
    return _validation_batches(training, training.session.progress.validated_in_epoch)


def _progress(path: str, read: Callable[[Training], dict[str, int]], corrected: str = "") -> dict[str, Answer]:
    """Returns the answers of Lightning's ``_ProcessedTracker``, and adds the corrections of one of the progress."""

    def count_of(name: str) -> Answer:
        return lambda training: (
            read(training)[name] + training.session.progress.corrections.get(corrected, {}).get(name, 0)
        )

    return {f"{path}.{name}": count_of(name) for name in COUNTS}


def _source(path: str, source: str) -> dict[str, Answer]:
    """Returns the answers of Lightning's ``_DataLoaderSource``."""
    request = operator.attrgetter(f"{source}.request")
    return {
        f"{path}._data_source.dataloader": request,
        f"{path}._data_source.is_defined": lambda training: lambda: request(training).is_defined,
        f"{path}._data_source.is_module": lambda training: lambda: request(training).is_module,
    }


def _results(path: str, collector: str) -> dict[str, Answer]:
    """Returns the answers of Lightning's ``_ResultCollection``: what is logged in a stage, or in the current one."""
    collector_of = operator.attrgetter(collector)
    return {
        **{f"{path}._results.{name}": f"{collector}.{name}" for name in ("batch", "batch_size", "dataloader_idx")},
        f"{path}._results.metrics": lambda training: functools.partial(_shown, collector_of(training)),
    }


def _shown(collector: MetricCollector, on_step: bool) -> dict[str, dict[str, Any]]:
    """Returns the last step's values, or the epoch's so far, for callbacks, loggers and the progress bar."""
    views = collector.collect(on_step)
    shown = {name: float(value) for name, value in views.progress_bar.items()}
    return {"callback": views.callback, "log": views.logged, "pbar": shown}


def _is_first_after_restart(training: Training) -> bool:
    restarted_at = training.training_loop.restarted_at
    return restarted_at is not None and training.session.progress.total_batch_idx <= restarted_at + 1


def _validates_in_epoch(training: Training) -> bool:
    session = training.session
    return training.evaluation_loop.is_enabled and session.validates_in_epoch(session.progress.current_epoch)


def _is_last_batch_of_training(training: Training) -> bool:
    session = training.session
    return session.progress.is_last_batch or 0 <= session.trainer.max_steps <= session.global_step


def _updates_logs(training: Training) -> bool:
    trainer, progress = training.session.trainer, training.session.progress
    every = trainer.log_every_n_steps
    # One more, because the current batch is counted only after its validation.
    step = training.session.progress.validated if trainer.validating else progress.batches_that_stepped + 1
    return bool(every > 0 and (step % every == 0 or trainer.should_stop))


def _log_metrics(trainer: Any, metrics: Mapping[str, Any], step: int | None = None) -> None:
    trainer.lightning_loggers.log_metrics(metrics, step=step, loggers=trainer.loggers)


def _set_max_epochs(part: Any, epochs: int) -> None:
    part._training.session.trainer.set_max_epochs(epochs)


_LOOP: Final = "Trainer.fit_loop"
_EPOCH_LOOP: Final = f"{_LOOP}.epoch_loop"
_VALIDATION: Final = f"{_EPOCH_LOOP}.val_loop"

_ANSWERS: Final[dict[str, Answer]] = {
    "Trainer._logger_connector.should_update_logs": _updates_logs,
    "Trainer._logger_connector.log_metrics": lambda training: functools.partial(_log_metrics, training.session.trainer),
    f"{_LOOP}.restarting": lambda training: training.training_loop.restarted_at is not None,
    f"{_LOOP}.max_epochs": "session.trainer.max_epochs",
    f"{_LOOP}.max_steps": "session.trainer.max_steps",
    f"{_LOOP}.max_batches": "training_loop.epoch_length.max_batches",
    f"{_LOOP}.setup_data": "training_loop.set_up",
    # Modules reach datasets by it.
    f"{_LOOP}._combined_loader": "training_loop.source.combined",
    f"{_LOOP}.batch_idx": lambda training: _batches_of_epoch(training)["ready"] - 1,
    f"{_LOOP}.total_batch_idx": lambda training: _batches_in_all(training)["ready"] - 1,
    # Callbacks call it.
    f"{_LOOP}._should_accumulate": "training_loop.optimization.should_accumulate",
    # Callbacks set it, to stop ``backward``.
    f"{_LOOP}._skip_backward": "training_loop.optimization.skips_backward",
    **_source(_LOOP, "training_loop.source"),
    **_results(_LOOP, "metrics.collector"),
    **_progress(f"{_LOOP}.epoch_progress.current", _epochs, "epochs"),
    **_progress(f"{_LOOP}.epoch_progress.total", _epochs, "epochs_in_all"),
    f"{_EPOCH_LOOP}.batch_idx": lambda training: _batches_of_epoch(training)["ready"] - 1,
    f"{_EPOCH_LOOP}.total_batch_idx": lambda training: _batches_in_all(training)["ready"] - 1,
    f"{_EPOCH_LOOP}.global_step": "session.global_step",
    f"{_EPOCH_LOOP}.restarting": _is_first_after_restart,
    # The step under which Lightning logs; modules set it.
    f"{_EPOCH_LOOP}._batches_that_stepped": "session.progress.batches_that_stepped",
    f"{_EPOCH_LOOP}._is_training_done": _is_last_batch_of_training,
    f"{_EPOCH_LOOP}._should_accumulate": "training_loop.optimization.should_accumulate",
    # Progress bars call it.
    f"{_EPOCH_LOOP}._should_check_val_epoch": lambda training: functools.partial(_validates_in_epoch, training),
    **_results(_EPOCH_LOOP, "metrics.training"),
    **_progress(f"{_EPOCH_LOOP}.batch_progress.current", _batches_of_epoch, "batches_of_epoch"),
    **_progress(f"{_EPOCH_LOOP}.batch_progress.total", _batches_in_all, "batches"),
    f"{_EPOCH_LOOP}.batch_progress.is_last_batch": "session.progress.is_last_batch",
    # Callbacks read it.
    f"{_VALIDATION}._has_run": "session.progress.has_validated",
    **_source(_VALIDATION, "evaluation_loop.source"),
    **_results(_VALIDATION, "metrics.validation"),
    **_progress(f"{_VALIDATION}.batch_progress.current", _batches_of_validation, "validated"),
    **_progress(f"{_VALIDATION}.batch_progress.total", _validation_batches_of_epoch, "validated_in_epoch"),
    f"{_VALIDATION}.batch_progress.is_last_batch": "session.progress.is_last_validated",
}
"""The answers by the path to each member of ``members/trainer_parts``."""


class TrainerPart:
    """A part of Lightning's Trainer, as :func:`trainer_part` makes it; it refuses the members that it does not have."""

    _path: str
    _replaced: Any = None
    """The counts of a script's own Trainer that this part stands for in its loops."""

    def __init__(self, path: str, training: Training) -> None:
        inner = {name: f"{path}.{name}" for name in TRAINER_PARTS[path] if f"{path}.{name}" in TRAINER_PARTS}
        parts = {name: trainer_part(inner_path, training) for name, inner_path in inner.items()}
        vars(self).update(parts, _path=path, _training=training)

    def __getattr__(self, name: str) -> Any:
        # copy, pickle and numpy look for such names and expect AttributeError.
        if name.startswith("__"):
            raise AttributeError(name)
        spelling = _spelling(self._path)
        raise RefusedMemberError(f"{caller_location()}: {spelling} has no {name!r}: {instead_of(self._path)}")

    def __deepcopy__(self, memo: Any) -> TrainerPart:
        """A copy of a script's Trainer, whose loops have it, shows the same training."""
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles what this part stands for, with the Trainer that has it."""
        if self._replaced is None:
            return super().__reduce_ex__(protocol)
        return operator.itemgetter(0), ((self._replaced,),)

    def __setattr__(self, name: str, value: Any) -> None:
        path = f"{self._path}.{name}"
        if path not in SETTABLE:
            raise RefusedMemberError(f"{caller_location()}: {_spelling(path)} cannot be set: {instead_of(self._path)}")
        object.__setattr__(self, name, value)


def _spelling(path: str) -> str:
    return path.replace("Trainer", "trainer", 1)


def trainer_part(path: str, training: Training) -> TrainerPart:
    """Makes the part of Lightning's Trainer at a path in ``TRAINER_PARTS``, which answers from ``training``."""
    return _class_of(path)(path, training)


@functools.cache
def _class_of(path: str) -> type[TrainerPart]:
    members = {name: f"{path}.{name}" for name in TRAINER_PARTS[path] if f"{path}.{name}" in _ANSWERS}
    return type("TrainerPart", (TrainerPart,), {name: _property(member) for name, member in members.items()})


def _property(path: str) -> property:
    answer = _ANSWERS[path]
    if not isinstance(answer, str):
        return property(lambda part: answer(part._training))
    put = _set_max_epochs if path == f"{_LOOP}.max_epochs" else setter(f"_training.{answer}")
    return property(operator.attrgetter(f"_training.{answer}"), put if path in SETTABLE else None)

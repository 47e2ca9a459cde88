"""Repairs of Determined's training loop, for trials of this package only."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, Final

import determined as det
import torch
import wrapt
from determined import pytorch

from lightning_shim.patching.registry import PatchRegistry, Wrapper
from lightning_shim.upstream.determined.checkpoint_errors import fitting_errors, is_complete, writing_errors
from lightning_shim.upstream.determined.context import replaced
from lightning_shim.upstream.determined.controller import Controller, go_on_counting


def repair_controller(registry: PatchRegistry, trial_class: type) -> None:
    """Patches Determined's training loop with ``_REPAIRS``, for trials of a class alone.

    These answer what the repairs ask of ``controller.trial``; for all others it runs as Determined wrote it.
    """

    def for_our_trials(repair: Wrapper) -> Callable[[Any], object]:
        def wrapper(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
            if isinstance(controller.trial, trial_class):
                return repair(wrapped, controller, args, kwargs)
            return wrapped(*args, **kwargs)

        return lambda function: wrapt.FunctionWrapper(function, wrapper)

    for name, repair in _REPAIRS.items():
        registry.wrap(pytorch._PyTorchTrialController, name, for_our_trials(repair))


# A LightningTrial is built before the loop is, but the module may ask how long it will train, and the trial pauses the
# loop. So the two are connected as soon as the loop runs.
def _run_connected(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    controlled: Controller = controller.trial.controller
    controlled.connect(controller)
    latest = controlled.latest
    with contextlib.nullcontext() if latest is None else latest.downloaded_once(controller.context):
        return wrapped(*args, **kwargs)


# Determined's loop looks at a request to stop only after a batch. Lightning trains none if a hook such as on_fit_start
# has set trainer.should_stop. Determined's run still shuts the trial down afterwards, as for any other.
def _run_unless_skipped(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    controlled: Controller = controller.trial.controller
    if controlled.skips_training:
        return None
    with replaced(controlled, is_running=True):
        return wrapped(*args, **kwargs)


# Determined's own inner loop asks every period after each batch whether it has ended, and measures times that nobody
# reads. That costs up to a fifth of a small model's step. Here they are asked only when one can have ended.
def _train_with_boundaries(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    return _train_until_boundary(controller, *args, **kwargs)


def _train_until_boundary(controller: Any, training_enumerator: Any, train_boundaries: list[Any]) -> Any:
    """Trains until a period ends; a shorter ``_train_with_boundaries`` with the same result."""
    trial, context = controller.trial, controller.context
    controlled: Controller = trial.controller
    controlled.start_workload(train_boundaries)
    if controller.is_chief:
        controller.core_context.train.set_status("training")
    for model in context.models:
        model.train()
    context.reset_reducers()
    # `_train_batch` updates the gradient scaler, steps schedulers and copies metrics for trials that leave these to
    # Determined. A LightningTrial does all of it itself, so only Determined's profiler needs that method.
    train_batch = controller._train_batch if context.profiler else trial.train_batch
    epoch_length = context._epoch_len
    training_metrics = []
    next_look = 0
    for batch_idx, batch in training_enumerator:
        epoch_idx, batch_in_epoch_idx = divmod(batch_idx, epoch_length)
        context._current_batch_idx = batch_idx
        if batch_in_epoch_idx == 0:
            controller._on_epoch_start(epoch_idx)
        metrics = train_batch(batch=batch, epoch_idx=epoch_idx, batch_idx=batch_idx)
        # LightningTrial returns none, since reducers report its metrics. A user's subclass may return some.
        training_metrics.append(_on_host(metrics) if metrics else metrics)
        controller._step_batch()
        if batch_idx + 1 < next_look and not controlled.pauses:
            continue
        for boundary in train_boundaries:
            boundary.limit_reached |= _is_reached(boundary, batch_idx + 1, epoch_length, controller.test_mode)
        if any(boundary.limit_reached for boundary in train_boundaries):
            break
        next_look = min(_may_be_reached(boundary, batch_idx + 1, epoch_length) for boundary in train_boundaries)
    return train_boundaries, training_metrics


def _on_host(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        for name, value in metrics.items()
    }


def _is_reached(boundary: Any, batches: int, epoch_length: int, test_mode: bool) -> bool:
    """Whether a period ends after a number of batches; in test mode the training ends after the first."""
    if test_mode and boundary.step_type is pytorch._TrainBoundaryType.TRAIN:
        return True
    if isinstance(boundary.unit, pytorch.Batch):
        return bool(boundary.unit.should_stop(batches))
    epochs, rest = divmod(batches, epoch_length)
    return rest == 0 and bool(boundary.unit.should_stop(epochs))


def _may_be_reached(boundary: Any, batches: int, epoch_length: int) -> int:
    """Returns the earliest number of batches after which a period can end that has not ended by now."""
    period = boundary.unit.value
    if isinstance(boundary.unit, pytorch.Epoch):
        period = epoch_length
    elif not isinstance(period, int):
        # A set of counts, such as Batch([5, 30]), may contain the next one.
        return batches + 1
    return batches - batches % max(period, 1) + max(period, 1)


# Determined loads a checkpoint when the optimizers exist, too late for a module that rebuilds layers for it, and
# since PyTorch 2.6 `torch.load` refuses what the loop itself has saved. The trial has loaded it before: the loop is
# given what was read, and takes random states and its own counts. It takes nothing of another trial's checkpoint.
# Off-cluster it counts batches from zero after it has loaded a checkpoint, so that it would train too long.
def _load(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    controlled: Controller = controller.trial.controller
    latest = controlled.latest
    assert latest is not None
    if latest.is_own:
        folder = pathlib.Path(args[0] if args else kwargs["load_path"])
        is_loading = latest.being_loaded(controller.context, folder)
        with replaced(controlled, checkpoint_folder=folder), fitting_errors(latest.folder), is_loading:
            wrapped(*args, **kwargs)
    else:
        controller.state = pytorch._TrialState(trial_id=controller.trial_id)
    controlled.latest = dataclasses.replace(latest, content={})
    if controller.local_training:
        go_on_counting(controller)


# Off-cluster Determined copies the whole working directory into each checkpoint, with virtual environments and data.
# On a cluster it copies the experiment's own small folder, which stays as it is.
def _save(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    if not controller.local_training:
        return wrapped(*args, **kwargs)
    controller.trial.controller.written_folder = args[0] if args else kwargs["path"]
    with replaced(det.util, write_user_code=lambda path, on_cluster: None):
        return wrapped(*args, **kwargs)


# Determined calls callbacks on the chief alone while it saves. Here every process is asked first, so that the state of
# all can be collected.
def _checkpoint(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    if not controller.trial.writes_checkpoints:
        return None
    controller.trial.gather_checkpoint()
    controller.trial.controller.written_folder = None
    try:
        with writing_errors(controller.state.batches_trained, controller.trial.checkpoint_path):
            return wrapped(*args, **kwargs)
    except BaseException:
        folder = controller.trial.controller.written_folder
        if folder is not None and not is_complete(folder):
            # Whether the disk is full, or a signal has come, such as PyTorch's for a dead data worker: Determined
            # leaves the incomplete folder, from which nobody could continue.
            shutil.rmtree(folder, ignore_errors=True)
        raise


# A whole validation is one batch for Determined, and what it takes for the records of it are the batches.
def _validate(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    make_timing_log: Callable[..., str] = det.util.make_timing_log

    def of_batches(*counts: Any) -> str:
        return make_timing_log(*counts).partition(", in ")[0].replace(" records", " batches")

    with replaced(det.util, make_timing_log=of_batches):
        metrics = wrapped(*args, **kwargs)
    controller.trial.after_validation()
    return metrics


# Determined validates once more at the end of the training. Lightning does not, so a script's trial must not either.
def _validation_is_current(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs) or controller.trial.validation_is_due is False


# Determined counts batches, and epochs of one length. Lightning's max_steps counts optimizer steps, its max_epochs
# epochs that end where the loaders do, and hooks may change both. So there the trial says when it is over.
def _steps_until_complete(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    is_over = controller.trial.is_over
    return wrapped(*args, **kwargs) if is_over is None else 0 if is_over else 1


# The length of such a trial is an estimate, and the master refuses to hear of more than all of it.
def _report_training_progress(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    length, batches = controller.max_length, controller.state.batches_trained
    if isinstance(length, pytorch.Epoch) or batches <= length.value:
        wrapped(*args, **kwargs)


_REPAIRS: Final[dict[str, Wrapper]] = {
    "run": _run_connected,
    "_run": _run_unless_skipped,
    "_train_with_boundaries": _train_with_boundaries,
    "_load": _load,
    "_save": _save,
    "_checkpoint": _checkpoint,
    "_validate": _validate,
    "_validation_is_current": _validation_is_current,
    "_steps_until_complete": _steps_until_complete,
    "_report_training_progress": _report_training_progress,
}
"""The replacements by the name of ``_PyTorchTrialController``'s method."""

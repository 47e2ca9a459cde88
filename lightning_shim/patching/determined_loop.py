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

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import determined as det
import torch
import wrapt
from determined import pytorch

from lightning_shim.patching.registry import PatchRegistry, Wrapper
from lightning_shim.upstream.determined.checkpoint_errors import fitting_errors, is_complete, writing_errors
from lightning_shim.upstream.determined.controller import Controller, go_on_counting


class ControlledTrial(Protocol):
    """A trial that is told of the loop that runs it."""

    @property
    def controller(self) -> Controller:
        """Where the loop is made known."""

    @property
    def checkpoint_path(self) -> pathlib.Path | str | None:
        """The newest checkpoint."""

    @property
    def has_taken_all_steps(self) -> bool:
        """Whether the training ends before its length has been trained."""

    def gather_checkpoint(self) -> None:
        """Called on all processes before the chief writes a checkpoint."""

    def after_validation(self) -> None:
        """Called on all processes after a validation has been reported."""


def repair_controller(registry: PatchRegistry, trial_class: type[ControlledTrial]) -> None:
    """Repairs Determined's training loop for trials of one class, and makes it known to their ``controller``.

    - It loads a checkpoint when the optimizers are there, which is too late for a module that builds layers for it; and
      since PyTorch 2.6 ``torch.load`` refuses what the loop itself has saved (NumPy's random state, callbacks' states).
      The trial has loaded it before; the loop takes the rest: random numbers, and its own counts.
    - From another trial's checkpoint, which is a warm start, it takes optimizers, schedulers, callbacks and random
      numbers too, and counts from zero. The trial takes the weights alone.
    - Off-cluster the whole working directory, a virtual environment and data included, is copied into each checkpoint.
      Nothing of it is copied; on a cluster it is the experiment's own small folder, and is.
    - What a process other than the chief has of its own is not saved; the trial is given the chance to collect it.
    - Off-cluster, what has been written of a checkpoint stays on the disk if an error comes in between. It is removed,
      and an error of the disk says which checkpoint is complete.
    - Off-cluster the loop counts batches from zero after it has loaded a checkpoint, so that it trains too long.
    - It validates once more at the end of the training, also where the script of a user has no validation.
    - It does not learn that a search has stopped the trial; the trial is given the chance to ask.
    - It counts batches, where the script of a user may say how many optimizer steps there are.
    - It has no way to end before the first batch, when a hook has asked to stop.
    - For each batch it asks every period whether it has ended, and measures times that it tells nobody; that costs as
      much as a fifth of a small model's step. It looks at the periods when one may have ended.

    Args:
        registry: Undoes the repairs.
        trial_class: The class; trials of any other are left as they are.
    """

    def for_our_trials(repair: Wrapper) -> Callable[[Any], object]:
        def wrapper(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
            if isinstance(controller.trial, trial_class):
                return repair(wrapped, controller, args, kwargs)
            return wrapped(*args, **kwargs)

        return lambda function: wrapt.FunctionWrapper(function, wrapper)

    for name, repair in _REPAIRS.items():
        registry.wrap(pytorch._PyTorchTrialController, name, for_our_trials(repair))


def _run(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    controller.trial.controller.connect(controller)
    return wrapped(*args, **kwargs)


def _run_unless_skipped(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    controlled: Controller = controller.trial.controller
    if controlled.skips_training:
        return None
    controlled.is_running = True
    try:
        return wrapped(*args, **kwargs)
    finally:
        controlled.is_running = False


def _train_with_boundaries(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    return _train_until_boundary(controller, *args, **kwargs)


def _train_until_boundary(controller: Any, training_enumerator: Any, train_boundaries: list[Any]) -> Any:
    """Does what the method does, as :func:`repair_controller` says, and returns what it returns."""
    trial, context = controller.trial, controller.context
    controlled: Controller = trial.controller
    controlled.start_workload(train_boundaries)
    if controller.is_chief:
        controller.core_context.train.set_status("training")
    for model in context.models:
        model.train()
    context.reset_reducers()
    # Without a profiler, what else Determined does for a batch is for trials that leave a part of their work to it.
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
        # A trial that leaves its metrics to reducers returns none; a subclass may add some.
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
    """Tells whether a period ends after a number of batches; test mode trains a single one."""
    if test_mode and boundary.step_type is pytorch._TrainBoundaryType.TRAIN:
        return True
    if isinstance(boundary.unit, pytorch.Batch):
        return bool(boundary.unit.should_stop(batches))
    epochs, rest = divmod(batches, epoch_length)
    return rest == 0 and bool(boundary.unit.should_stop(epochs))


def _may_be_reached(boundary: Any, batches: int, epoch_length: int) -> int:
    """Returns after how many batches a period may end, at the earliest, if it has not ended by now."""
    period = boundary.unit.value
    if isinstance(boundary.unit, pytorch.Epoch):
        period = epoch_length
    elif not isinstance(period, int):
        return batches + 1
    return batches - batches % max(period, 1) + max(period, 1)


def _load(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    controlled: Controller = controller.trial.controller
    latest = controlled.latest
    assert latest is not None
    if latest.is_own:
        controlled.checkpoint_folder = pathlib.Path(args[0] if args else kwargs["load_path"])
        try:
            with fitting_errors(latest.folder), latest.being_loaded(controller.context):
                wrapped(*args, **kwargs)
        finally:
            controlled.checkpoint_folder = None
    else:
        controller.state = pytorch._TrialState(trial_id=controller.trial_id)
    controlled.latest = dataclasses.replace(latest, content={})
    if controller.local_training:
        go_on_counting(controller)


def _save(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    if not controller.local_training:
        return wrapped(*args, **kwargs)
    controller.trial.controller.written_folder = args[0] if args else kwargs["path"]
    with _no_copy_of_the_working_directory():
        return wrapped(*args, **kwargs)


def _checkpoint(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    controller.trial.gather_checkpoint()
    controller.trial.controller.written_folder = None
    try:
        with writing_errors(controller.state.batches_trained, controller.trial.checkpoint_path):
            return wrapped(*args, **kwargs)
    except BaseException:
        folder = controller.trial.controller.written_folder
        if folder is not None and not is_complete(folder):
            # The disk may be full; or a signal has come, such as PyTorch's for a data worker that has died.
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _validate(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    metrics = wrapped(*args, **kwargs)
    controller.trial.after_validation()
    return metrics


def _validation_is_current(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    controlled: Controller = controller.trial.controller
    return wrapped(*args, **kwargs) or not (controlled.validates_at_the_end or controlled.validation_is_reached)


def _steps_until_complete(wrapped: Callable[..., Any], controller: Any, args: Any, kwargs: Any) -> Any:
    return 0 if controller.trial.has_taken_all_steps else wrapped(*args, **kwargs)


_REPAIRS: Final[dict[str, Wrapper]] = {
    "run": _run,
    "_run": _run_unless_skipped,
    "_train_with_boundaries": _train_with_boundaries,
    "_load": _load,
    "_save": _save,
    "_checkpoint": _checkpoint,
    "_validate": _validate,
    "_validation_is_current": _validation_is_current,
    "_steps_until_complete": _steps_until_complete,
}
"""By the name of the method of ``_PyTorchTrialController``, what is called in its place."""


@contextlib.contextmanager
def _no_copy_of_the_working_directory() -> Iterator[None]:
    write_user_code = det.util.write_user_code
    det.util.write_user_code = lambda path, on_cluster: None
    try:
        yield
    finally:
        det.util.write_user_code = write_user_code

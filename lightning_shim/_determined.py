"""All that is needed of Determined's private names, in one place.

- ``determined.util.write_user_code``, which ``_save`` calls: what a checkpoint holds beside the trial's state.
- ``PyTorchTrialContext._core``: the Core API context, for reports beside those that the training loop makes.
- ``TrainContext._tensorboard_manager`` and its ``_sync``: uploads TensorBoard files.
- ``PyTorchTrialContext._PyTorchDistributedDataParallel``: the class that ``wrap_model`` calls with the model alone.
- ``PyTorchTrialContext._tbd_writer``, ``_current_batch_idx`` and ``_epoch_len``.
- ``_PyTorchTrialController.run``, ``_run``, ``_load``, ``_save``, ``_checkpoint``, ``_train_with_boundaries``,
  ``_train_batch``, ``_step_batch``, ``_on_epoch_start``, ``_validation_is_current``, ``_steps_until_complete``,
  ``is_chief``, ``test_mode``, ``state``, ``start_from_batch``, ``training_iterator``, ``training_enumerator``,
  ``local_training``, the periods, ``max_length``: the loop itself. It is repaired for our trials only; see
  :func:`repair_controller`.
- ``_DistributedBackend``: how ``determined.launch`` has said what synchronises the processes.
- ``_core.checkpoint._storage_manager``: where checkpoints lie off-cluster.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import determined as det
import torch
import wrapt
from determined import core, pytorch, tensorboard

from lightning_shim._registry import PatchRegistry, Wrapper
from lightning_shim._warnings import CheckpointError, ConfigurationError
from lightning_shim.checkpoint_errors import STATE_FILE, is_complete, reading_errors, writing_errors

DEFAULT_REPORTING_PERIOD: Final = pytorch.Batch(100)
"""What Determined's ``Trainer.fit`` has."""


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


def repair_controller(registry: PatchRegistry, trial_class: type[ControlledTrial]) -> None:
    """Repairs Determined's training loop for trials of one class, and makes it known to their ``controller``.

    - Since PyTorch 2.6 ``torch.load`` refuses what the loop itself has saved (NumPy's random state, callbacks' states).
      A checkpoint directory is trusted already, since ``trial_state.pkl`` is unpickled from it.
    - Off-cluster the whole working directory, a virtual environment and data included, is copied into each checkpoint.
      Nothing of it is copied; on a cluster it is the experiment's own small folder, and is.
    - What a process other than the chief has of its own is not saved; the trial is given the chance to collect it.
    - Off-cluster, what has been written of a checkpoint stays on the disk if an error comes in between. It is removed,
      and an error of the disk says which checkpoint is complete.
    - Off-cluster the loop counts batches from zero after it has loaded a checkpoint, so that it trains too long.
    - It validates once more at the end of the training, also where the script of a user has no validation.
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
    path = pathlib.Path(args[0] if args else kwargs["load_path"])
    controlled: Controller = controller.trial.controller
    controlled.checkpoint_folder = path
    try:
        with reading_errors(path), _full_unpickling():
            result = wrapped(*args, **kwargs)
            if controller.state is None:
                raise CheckpointError(f"{path / STATE_FILE} holds no checkpoint of a PyTorchTrial.")
    finally:
        controlled.checkpoint_folder = None
    if controller.local_training:
        _go_on_counting(controller)
    return result


def _go_on_counting(controller: Any) -> None:
    controller.start_from_batch = controller.state.batches_trained
    controller.training_enumerator = enumerate(controller.training_iterator, start=controller.start_from_batch)


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
    "_validation_is_current": _validation_is_current,
    "_steps_until_complete": _steps_until_complete,
}
"""By the name of the method of ``_PyTorchTrialController``, what is called in its place."""


def _verify_checkpoint_is_there(controller: Any) -> None:
    base = pathlib.Path(controller.core_context.checkpoint._storage_manager._base_path)
    # Determined insists on its folder of checkpoints even where the checkpoint is in another one.
    base.mkdir(parents=True, exist_ok=True)
    if checkpoint_path(controller.context, controller.latest_checkpoint) is None:
        raise CheckpointError(
            f"There is no checkpoint {controller.latest_checkpoint!r} in {base}. latest_checkpoint is a "
            "checkpoint's folder (fit(...).checkpoint_path) or its UUID."
        )


@contextlib.contextmanager
def _no_copy_of_the_working_directory() -> Iterator[None]:
    write_user_code = det.util.write_user_code
    det.util.write_user_code = lambda path, on_cluster: None
    try:
        yield
    finally:
        det.util.write_user_code = write_user_code


@contextlib.contextmanager
def _full_unpickling() -> Iterator[None]:
    """Makes ``torch.load`` unpickle anything, by PyTorch's own switch for callers that cannot be changed."""
    switch = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    previous = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f".*{switch}.*", category=UserWarning)
            yield
    finally:
        if previous is None:
            del os.environ[switch]
        else:
            os.environ[switch] = previous


class Controller:
    """Determined's training loop, as far as a trial needs to know it; it is known only when the loop starts.

    Attributes:
        pauses: Whether the loop is asked to fetch no further batch before it has looked at its periods.
        skips_training: Whether the loop ends before its first batch.
        is_running: Whether the loop trains; its length is then fixed.
        validates_at_the_end: Whether the loop validates what was trained last, if no period ends with it.
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
        self.checkpoint_folder: pathlib.Path | None = None
        self.written_folder: pathlib.Path | None = None

    def connect(self, controller: Any) -> None:
        """Takes the ``_PyTorchTrialController``.

        Args:
            controller: The loop that is about to run the trial.

        Raises:
            CheckpointError: If it is to continue from a checkpoint that is not there.
        """
        self._controller = controller
        self._outer_error = sys.exc_info()[1]
        if self._max_epochs is not None:
            self.max_epochs = self._max_epochs
        if controller.local_training and controller.latest_checkpoint is not None:
            _verify_checkpoint_is_there(controller)

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
        _go_on_counting(loop)

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


def wrap_model(context: Any, model: torch.nn.Module, **options: Any) -> torch.nn.Module:
    """Gives a model to Determined, as ``PyTorchTrialContext.wrap_model``.

    Args:
        context: Determined's trial context.
        model: The model.
        **options: Arguments of DistributedDataParallel, which Determined has no way to pass.

    Returns:
        The model; on several processes DistributedDataParallel around it.
    """
    name = "_PyTorchDistributedDataParallel"
    setattr(context, name, functools.partial(getattr(context, name), **options))
    try:
        wrapped: torch.nn.Module = context.wrap_model(model)
    finally:
        delattr(context, name)
    return wrapped


def report_training_metrics(
    context: Any, steps_completed: int, metrics: dict[str, float], reported: frozenset[str]
) -> None:
    """Reports training metrics beside those that the loop reports for the same batch; the chief does it.

    Args:
        context: Determined's trial context.
        steps_completed: The batches trained.
        metrics: Numbers by name.
        reported: The names that the loop has reported for this batch; the master takes none of them twice.
    """
    fresh = {name: value for name, value in metrics.items() if name not in reported}
    if fresh:
        context._core.train.report_training_metrics(steps_completed=steps_completed, metrics=fresh)
    if metrics and context.get_enable_tensorboard_logging():
        pytorch._log_tb_metrics(context.get_tensorboard_writer(), "train", steps_completed, metrics)


def batches_trained(context: Any) -> int:
    """Returns the batches that a trial has trained, with the one that it is at.

    Args:
        context: Determined's trial context.
    """
    return (context._current_batch_idx or 0) + 1


def report_metrics(context: Any, group: str, metrics: dict[str, Any], step: int) -> None:
    """Reports metrics in a group of their own.

    Args:
        context: Determined's trial context.
        group: The group's name.
        metrics: Numbers by name; none of a name that has been reported for this step.
        step: The batches trained.
    """
    context._core.train.report_metrics(group=group, steps_completed=step, metrics=metrics)


def report_after_training(group: str, metrics: dict[str, Any], step: int) -> None:
    """Reports metrics when the context of the training has been closed; one process does it, on a cluster.

    Args:
        group: The group's name.
        metrics: Numbers by name; none of a name that has been reported for this step.
        step: The batches trained.
    """
    # The other processes have nothing to do with it.
    distributed = core.DummyDistributedContext()
    with core.init(distributed=distributed, tensorboard_mode=core.TensorboardMode.MANUAL) as context:
        context.train.report_metrics(group=group, steps_completed=step, metrics=metrics)


def tensorboard_writer(context: Any) -> Any:
    """Returns Determined's ``SummaryWriter``, which is made when it is first asked for."""
    return context.get_tensorboard_writer()


def tensorboard_folder(context: Any) -> str | None:
    """Returns the folder that holds the TensorBoard files, or None if none were written."""
    return None if context._tbd_writer is None else str(context._tbd_writer.log_dir)


def close_tensorboard(context: Any, is_chief: bool) -> None:
    """Closes the TensorBoard writer, and uploads all that has not been uploaded.

    Determined uploads at most once a second, and nothing when a trial ends.

    Args:
        context: Determined's trial context.
        is_chief: Whether this process's event files are the ones to upload.
    """
    if context._tbd_writer is not None:
        context._tbd_writer.close()
    manager = getattr(context._core.train, "_tensorboard_manager", None)
    if manager is not None:
        manager._sync(
            (lambda _: True) if is_chief else (lambda path: not path.match("*tfevents*")),
            tensorboard.util.get_rank_aware_path,
            context.distributed.rank,
        )


def checkpoint_path(context: Any, storage_id: str) -> pathlib.Path | None:
    """Returns the folder of a checkpoint, if it is on this machine."""
    path = pathlib.Path(context._core.checkpoint._storage_manager._base_path) / storage_id
    return path if path.is_dir() else None


def is_on_cluster() -> bool:
    """Returns whether this process belongs to a trial of a cluster."""
    info = det.get_cluster_info()
    return info is not None and info.task_type == "TRIAL"


def verify_backend() -> None:
    """Refuses what cannot synchronise the gradients of a LightningModule.

    Raises:
        ConfigurationError: If the processes were started for Horovod.
    """
    if det._DistributedBackend().use_horovod():
        raise ConfigurationError(
            "The processes were started for Horovod (USE_HOROVOD is set). It averages gradients in an optimizer of its "
            "own, which takes the place of the one that configure_optimizers returned, so that Lightning's hooks, "
            "clipping and manual optimization would work on the gradients of one process. Start them with "
            "determined.launch.torch_distributed; off-cluster with torchrun."
        )


def experiment_length(context: Any) -> pytorch.TrainUnit | None:
    """Returns the length that an experiment's configuration gives for the training, if it gives one.

    That is ``searcher.max_time`` with ``searcher.time_metric``, or the deprecated ``searcher.max_length``.

    Args:
        context: Determined's trial context.
    """
    try:
        searcher = context.get_experiment_config().get("searcher", {})
    except ValueError:
        return None
    max_length = searcher.get("max_length")
    lengths = max_length if isinstance(max_length, dict) else {searcher.get("time_metric"): searcher.get("max_time")}
    if lengths.get("epochs"):
        return pytorch.Epoch(int(lengths["epochs"]))
    if lengths.get("batches"):
        return pytorch.Batch(int(lengths["batches"]))
    return None


def accelerator() -> str:
    """Returns Lightning's name of what Determined trains on."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def devices() -> list[int] | int:
    """Returns the device of this process as Lightning's Trainer takes it: Determined's is that of the local rank."""
    return [int(os.environ.get("LOCAL_RANK", "0"))] if torch.cuda.is_available() else 1

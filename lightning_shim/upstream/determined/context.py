"""All that is needed of Determined's private names, in one place.

- ``determined.util.write_user_code``, which ``_save`` calls: what a checkpoint holds beside the trial's state.
- ``PyTorchTrialContext._core``: the Core API context, for reports beside those that the training loop makes.
- ``TrainContext._tensorboard_manager`` and its ``_sync``: uploads TensorBoard files.
- ``TrainContext._session`` and ``_trial_id``: ask the master for the trial's state.
- ``TrainContext._metrics``, its ``_shipper`` and the ``_post_metrics`` of that, which a thread sends each report with.
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

import functools
import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any, Final

import determined as det
import torch
from determined import core, pytorch, tensorboard
from determined.common.api import bindings, errors

from lightning_shim.diagnostics.errors import ConfigurationError


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


MASTER_ERRORS: Final = (errors.BadRequestException, OSError, ValueError, KeyError)
"""What is raised if the master cannot be reached, answers late, or with something else."""


def notify_of_sent_reports(context: Any, notify: Callable[[str, int | None], None]) -> None:
    """Has a function called when the master has taken a report of metrics; the chief does it, on a cluster.

    Args:
        context: Determined's trial context.
        notify: Is called by Determined's thread, with the group and the batches trained.
    """
    shipper = context._core.train._metrics._shipper
    post = shipper._post_metrics

    def post_and_notify(**report: Any) -> None:
        post(**report)
        notify(report["group"], report["steps_completed"])

    shipper._post_metrics = post_and_notify


def is_stopped_by_search(context: Any, seconds: float) -> bool:
    """Asks the master whether the search has stopped the trial; one process does it, on a cluster.

    Args:
        context: Determined's trial context.
        seconds: How long the master may take to answer.

    Returns:
        Whether it has. One of ``MASTER_ERRORS`` is raised if the master does not answer.
    """
    train = context._core.train
    # The bindings' get_GetTrial asks the same, but has no limit; the session would try again for half a minute.
    answer = train._session.with_retry(0).get(f"/api/v1/trials/{train._trial_id}", timeout=seconds)
    state: str = answer.json()["trial"]["state"]
    return state == bindings.trialv1State.STOPPING_COMPLETED.value


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


def lacks_launcher() -> bool:
    """Tells whether this is the only process of a trial on several slots, since no launcher has started one for each.

    On a cluster, ``determined.launch`` says which synchronises the processes; Determined looks at the same.
    """
    info = det.get_cluster_info() if is_on_cluster() else None
    if info is None or (len(info.container_addrs) == 1 and len(info.slot_ids) <= 1):
        return False
    backend = det._DistributedBackend()
    return not (backend.use_torch() or backend.use_horovod() or backend.use_deepspeed())


def verify_backend() -> None:
    """Refuses what cannot synchronise the gradients of a LightningModule.

    Raises:
        ConfigurationError: If the processes were started for Horovod, or only one was for several slots.
    """
    if lacks_launcher():
        command = shlex.join(["python3", *sys.orig_argv[1:]])
        raise ConfigurationError(
            "The trial has several slots, and one process was started for all of them. Start one for each by "
            f"`entrypoint: python3 -m determined.launch.torch_distributed {command}`. As `python3 -m lightning_shim "
            "run SCRIPT`, an entrypoint starts as many processes as there are slots by itself."
        )
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

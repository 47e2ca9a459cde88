"""Access to a trial's context in Determined: reports, TensorBoard, checkpoint storage and the cluster.

It relies on these private names of Determined:

- ``PyTorchTrialContext._core``: the Core API context, which reports metrics beside those of the training loop.
- ``PyTorchTrialContext._PyTorchDistributedDataParallel``: the class that ``wrap_model`` wraps a model with.
- ``PyTorchTrialContext._current_batch_idx``: the index of the current batch.
- ``PyTorchTrialContext._tbd_writer``: the TensorBoard writer, or None before it is first asked for.
- ``determined.pytorch._log_tb_metrics``: writes metrics to TensorBoard as the training loop does.
- ``_tensorboard_manager`` of the Core API's ``train``, and its ``_sync``: uploads TensorBoard files.
- ``_storage_manager`` of the Core API's ``checkpoint``, and its ``_base_path``: the folder of checkpoints.
- ``determined._DistributedBackend``: the library that synchronizes the processes.
"""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

import determined as det
import torch
from determined import core, pytorch, tensorboard

from lightning_shim.diagnostics.errors import ConfigurationError


def wrap_model(context: Any, model: torch.nn.Module, **options: Any) -> torch.nn.Module:
    """Calls ``PyTorchTrialContext.wrap_model`` with options for DistributedDataParallel.

    Args:
        context: Determined's trial context.
        model: The model.
        **options: Arguments of DistributedDataParallel.

    Returns:
        The model, wrapped in DistributedDataParallel if there are several processes.
    """
    # wrap_model passes the class nothing but the model, so the class is replaced for the call.
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
    """Reports training metrics in addition to those of the loop. Call it on the chief.

    Args:
        context: Determined's trial context.
        steps_completed: The number of batches trained.
        metrics: Numbers by name.
        reported: The names that the loop has reported for this batch. They go to TensorBoard only.
    """
    # The master refuses a second value of a name for the same batch.
    fresh = {name: value for name, value in metrics.items() if name not in reported}
    if fresh:
        context._core.train.report_training_metrics(steps_completed=steps_completed, metrics=fresh)
    if metrics and context.get_enable_tensorboard_logging():
        pytorch._log_tb_metrics(context.get_tensorboard_writer(), "train", steps_completed, metrics)


def batches_trained(context: Any) -> int:
    """Returns the number of batches that a trial has trained, the current one included.

    Args:
        context: Determined's trial context.
    """
    return (context._current_batch_idx or 0) + 1


def report_metrics(context: Any, group: str, metrics: dict[str, Any], step: int) -> None:
    """Reports metrics in a group of their own.

    Args:
        context: Determined's trial context.
        group: The group's name.
        metrics: Numbers by name; the master refuses a name that it has for this step.
        step: The number of batches trained.
    """
    context._core.train.report_metrics(group=group, steps_completed=step, metrics=metrics)


def report_after_training(group: str, metrics: dict[str, Any], step: int) -> None:
    """Reports metrics on a cluster when the training's context has been closed. Call it on one process.

    Args:
        group: The group's name.
        metrics: Numbers by name; the master refuses a name that it has for this step.
        step: The number of batches trained.
    """
    # A context for this process alone, since the others do not take part in the report.
    distributed = core.DummyDistributedContext()
    with core.init(distributed=distributed, tensorboard_mode=core.TensorboardMode.MANUAL) as context:
        context.train.report_metrics(group=group, steps_completed=step, metrics=metrics)


def tensorboard_writer(context: Any) -> Any:
    """Returns Determined's ``SummaryWriter``, which is created on first use."""
    return context.get_tensorboard_writer()


def tensorboard_folder(context: Any) -> str | None:
    """Returns the folder of the TensorBoard files, or None if none were written."""
    return None if context._tbd_writer is None else str(context._tbd_writer.log_dir)


def close_tensorboard(context: Any, is_chief: bool) -> None:
    """Closes the TensorBoard writer and uploads the remaining files.

    Determined uploads at most once a second, and not at the end of a trial, so the last values would be missing.

    Args:
        context: Determined's trial context.
        is_chief: Whether to upload this process's event files too; profiles are uploaded by every process.
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
    """Returns the folder of a checkpoint, or None if it is not on this machine."""
    path = pathlib.Path(context._core.checkpoint._storage_manager._base_path) / storage_id
    return path if path.is_dir() else None


def is_on_cluster() -> bool:
    """Whether this process belongs to a trial on a cluster."""
    # Notebooks and commands on a cluster have a ClusterInfo as well.
    info = det.get_cluster_info()
    return info is not None and info.task_type == "TRIAL"


def verify_backend() -> None:
    """Refuses a library that cannot synchronize the gradients of a LightningModule.

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
    """Returns the length of the training in the experiment's configuration, or None if there is none.

    It is ``searcher.max_time`` with ``searcher.time_metric``, or the deprecated ``searcher.max_length``.

    Args:
        context: Determined's trial context.
    """
    try:
        searcher = context.get_experiment_config().get("searcher", {})
    except ValueError:
        # Off-cluster there is no configuration.
        return None
    max_length = searcher.get("max_length")
    lengths = max_length if isinstance(max_length, dict) else {searcher.get("time_metric"): searcher.get("max_time")}
    if lengths.get("epochs"):
        return pytorch.Epoch(int(lengths["epochs"]))
    if lengths.get("batches"):
        return pytorch.Batch(int(lengths["batches"]))
    return None


def accelerator() -> str:
    """Returns Lightning's name for the device that Determined trains on."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def devices() -> list[int] | int:
    """Returns the ``devices`` argument of Lightning's Trainer for this process: Determined's GPU of the local rank."""
    return [int(os.environ.get("LOCAL_RANK", "0"))] if torch.cuda.is_available() else 1

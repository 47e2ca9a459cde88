"""Access to a trial's context in Determined: reports, TensorBoard, checkpoint storage and the cluster."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import determined as det
import torch
from determined import core, gpu, pytorch, tensorboard
from determined.common.api import bindings, errors
from determined.core import _context as core_context

from lightning_shim.diagnostics.errors import ConfigurationError


def wrap_model(context: Any, model: torch.nn.Module, is_distributed: bool, **options: Any) -> torch.nn.Module:
    """Calls ``PyTorchTrialContext.wrap_model`` with options for DistributedDataParallel, if that is to be around it."""
    # wrap_model passes the class nothing but the model, so the class is replaced for the call.
    wrapper = functools.partial(context._PyTorchDistributedDataParallel, **options)
    with replaced(context, _PyTorchDistributedDataParallel=wrapper):
        wrapped: torch.nn.Module = context.wrap_model(model)
    if is_distributed and wrapped is model:
        # Determined leaves the model of a single process as it is.
        return torch.nn.parallel.DistributedDataParallel(wrapped, **options)
    return wrapped


@contextlib.contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Replaces attributes of an object, a class or a module for the time of a block."""
    # An attribute that it only inherits is its own for that time.
    former = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in attributes:
            if name in former:
                setattr(owner, name, former[name])
            else:
                delattr(owner, name)


def own_device() -> torch.device:
    """Returns the device that Lightning's Trainer would give to this process: the GPU of its local rank, or the CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= count:
        raise ConfigurationError(
            f"There are {os.environ.get('LOCAL_WORLD_SIZE', local_rank + 1)} processes on this machine, and PyTorch "
            f"sees {count} GPU{'s' if count > 1 else ''}. Start one process for each GPU, or set "
            'CUDA_VISIBLE_DEVICES="" to train on the CPU.'
        )
    return torch.device("cuda", local_rank)


@contextlib.contextmanager
def process_group_with(settings: Mapping[str, Any]) -> Iterator[None]:
    """Has a process group that is made within the block, by Determined on a cluster, take further arguments."""
    initialize: Callable[..., None] = torch.distributed.init_process_group

    def with_settings(**arguments: Any) -> None:
        initialize(**{**arguments, **settings})

    with replaced(torch.distributed, init_process_group=with_settings):
        yield


def settle_device(context: Any) -> None:
    """Makes a trial's device the one that PyTorch sees, and the current one.

    Determined counts the GPUs that ``nvidia-smi`` names, of which PyTorch may see none or others.
    """
    context.device = own_device()
    make_current(context.device)


@contextlib.contextmanager
def no_device_of_determined() -> Iterator[None]:
    """Has contexts that are made within the block leave the GPUs alone, until :func:`settle_device` is called.

    One of several processes would otherwise fail where ``nvidia-smi`` names GPUs that PyTorch does not see. Nor are
    ``nvidia-smi`` and ``rocm-smi`` started to count them.
    """
    with (
        replaced(pytorch.PyTorchTrialContext, _init_device=lambda context: torch.device("cpu")),
        replaced(gpu, get_gpu_uuids=list),
    ):
        yield


def no_handler_of_determined() -> contextlib.AbstractContextManager[None]:
    """Leaves SIGUSR1 to the script off-cluster, such as for SLURM, while a context is made: it would print a trace."""
    if is_on_cluster():
        return contextlib.nullcontext()
    return replaced(core_context, _install_stacktrace_on_sigusr1=lambda: None)


def make_current(device: torch.device) -> None:
    """Makes a GPU the current one, as Lightning does with one process too; the CPU needs nothing.

    Its random states are used and new tensors of ``"cuda"`` are made on it from then on.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


def report_training_metrics(
    context: Any, steps_completed: int, metrics: dict[str, float], reported: frozenset[str]
) -> None:
    """Reports training metrics in addition to those of the loop. Call it on the chief.

    Those that the loop has ``reported`` for this batch go to TensorBoard only.
    """
    # The master refuses a second value of a name for the same batch.
    fresh = {name: value for name, value in metrics.items() if name not in reported}
    if fresh:
        context._core.train.report_training_metrics(steps_completed=steps_completed, metrics=fresh)
    if metrics and context.get_enable_tensorboard_logging():
        pytorch._log_tb_metrics(context.get_tensorboard_writer(), "train", steps_completed, metrics)


def batches_trained(context: Any) -> int:
    """Returns the number of batches that a trial has trained, the current one included."""
    return (context._current_batch_idx or 0) + 1


def report_metrics(context: Any, group: str, metrics: dict[str, Any], step: int) -> None:
    """Reports metrics in a group of their own; the master refuses a name that it has for this step."""
    context._core.train.report_metrics(group=group, steps_completed=step, metrics=metrics)


def report_after_training(group: str, metrics: dict[str, Any], step: int) -> None:
    """Reports metrics on a cluster when the training's context has been closed. Call it on one process."""
    # A context for this process alone, since the others do not take part in the report.
    distributed = core.DummyDistributedContext()
    with core.init(distributed=distributed, tensorboard_mode=core.TensorboardMode.MANUAL) as context:
        context.train.report_metrics(group=group, steps_completed=step, metrics=metrics)
        _upload_tensorboard_files(context, rank=0)


MASTER_ERRORS: Final = (errors.BadRequestException, OSError, ValueError, KeyError)
"""What is raised if the master cannot be reached, answers late, or with something else."""


def notify_of_sent_reports(context: Any, notify: Callable[[str, int | None], None]) -> None:
    """Has Determined's thread call a function, with group and batches, when the master has taken a report.

    The chief does it, on a cluster.
    """
    shipper = context._core.train._metrics._shipper
    post = shipper._post_metrics

    def post_and_notify(**report: Any) -> None:
        post(**report)
        notify(report["group"], report["steps_completed"])

    shipper._post_metrics = post_and_notify


def is_stopped_by_search(context: Any, seconds: float) -> bool:
    """Asks the master whether the search has stopped the trial; one process does it, on a cluster.

    One of ``MASTER_ERRORS`` is raised if the master does not answer.
    """
    train = context._core.train
    # The bindings' get_GetTrial asks the same, but has no limit; the session would try again for half a minute.
    answer = train._session.with_retry(0).get(f"/api/v1/trials/{train._trial_id}", timeout=seconds)
    state: str = answer.json()["trial"]["state"]
    return state == bindings.trialv1State.STOPPING_COMPLETED.value


def tensorboard_folder(context: Any) -> str | None:
    """Returns the folder of the TensorBoard files, or None if none were written."""
    return None if context._tbd_writer is None else str(context._tbd_writer.log_dir)


def write_tensorboard_files_to(context: Any, folder: str) -> None:
    """Says where TensorBoard files go off-cluster, unless that has been said; on a cluster Determined has a place."""
    train = context._core.train
    if isinstance(train, core.DummyTrainContext) and train._tbd_directory is None:
        train._tbd_directory = pathlib.Path(folder)


def close_tensorboard(context: Any) -> None:
    """Closes the TensorBoard writer and uploads the remaining files.

    Determined uploads at most once a second, and not at the end of a trial, so the last values would be missing.
    The first process uploads event files too, the others profiles alone.
    """
    if context._tbd_writer is not None:
        context._tbd_writer.close()
    _upload_tensorboard_files(context._core, context.distributed.rank)


def _upload_tensorboard_files(core_context: Any, rank: int) -> None:
    manager = getattr(core_context.train, "_tensorboard_manager", None)
    if manager is not None:
        manager._sync(
            (lambda path: not path.match("*tfevents*")) if rank else (lambda _: True),
            tensorboard.util.get_rank_aware_path,
            rank,
        )


def checkpoint_storage(context: Any) -> pathlib.Path:
    """Returns the folder of checkpoints on this machine."""
    return pathlib.Path(context._core.checkpoint._storage_manager._base_path)


def keep_checkpoints_in(context: Any, folder: str) -> None:
    """Says where checkpoints go off-cluster."""
    context._core.checkpoint._storage_manager._base_path = folder


def checkpoint_path(context: Any, storage_id: str) -> pathlib.Path | None:
    """Returns the folder of a checkpoint, or None if it is not on this machine."""
    path = checkpoint_storage(context) / storage_id
    return path if path.is_dir() else None


def add_to_checkpoint(context: Any, storage_id: str, name: str, text: str) -> None:
    """Puts a text file into a checkpoint that has been written; Determined's own API writes all files at once."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, name).write_text(text, encoding="utf-8")
        context._core.checkpoint._storage_manager.upload(folder, storage_id, {name})


def trial_info() -> det.ClusterInfo | None:
    """Returns what the cluster says of this process's trial; None off-cluster."""
    # Notebooks and commands on a cluster have a ClusterInfo as well.
    info = det.get_cluster_info()
    return info if info is not None and info.task_type == "TRIAL" else None


def is_on_cluster() -> bool:
    """Whether this process belongs to a trial on a cluster."""
    return trial_info() is not None


def trial_id() -> int | None:
    """Returns the number of the trial on a cluster; None off-cluster."""
    info = trial_info()
    return None if info is None else int(info.trial.trial_id)


def tensorboard_storage() -> pathlib.Path:
    """Returns the folder whose files Determined uploads for TensorBoard, on a cluster."""
    return tensorboard.get_base_path(experiment_config().get("checkpoint_storage") or {})


def name_of_trial() -> str | None:
    """Returns what the web interface calls this process's trial; off-cluster None."""
    info = trial_info()
    return None if info is None else f"trial {info.trial.trial_id} of experiment {info.trial.experiment_id}"


def lacks_launcher() -> bool:
    """Tells whether this is the only process of a trial on several slots, since no launcher has started one for each.

    On a cluster, ``determined.launch`` says which synchronises the processes; Determined looks at the same.
    """
    info = trial_info()
    if info is None or (len(info.container_addrs) == 1 and len(info.slot_ids) <= 1):
        return False
    backend = det._DistributedBackend()
    return not (backend.use_torch() or backend.use_horovod() or backend.use_deepspeed())


def verify_backend() -> None:
    """Refuses Horovod, and one process for several slots, which cannot synchronize a LightningModule's gradients."""
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


def experiment_config() -> dict[str, Any]:
    """Returns the experiment's configuration on a cluster, with the master's defaults; off-cluster it is empty."""
    info = trial_info()
    return {} if info is None else dict(info.trial._config)


def checkpoint_to_start_from(given: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """Returns the checkpoint that a trial of a cluster starts from: its own if it has trained, or the given one."""
    info = det.get_cluster_info()
    assert info is not None
    return info.latest_checkpoint if info.trial._steps_completed > 0 else given or info.latest_checkpoint


def experiment_length(config: Mapping[str, Any]) -> tuple[str, Any, pytorch.TrainUnit | None]:
    """Returns the name, the value and, if it is in epochs or batches, the unit of the experiment's length.

    The name is ``searcher.max_time`` or the deprecated ``searcher.max_length``.
    """
    searcher = config.get("searcher") or {}
    name = "max_length" if searcher.get("max_length") is not None else "max_time"
    given = searcher.get(name)
    lengths = given if isinstance(given, dict) else {searcher.get("time_metric"): given}
    return f"searcher.{name}", given, train_unit(lengths)


def train_unit(length: Mapping[Any, Any] | None) -> pytorch.TrainUnit | None:
    """Returns a length or period such as ``{"epochs": 5}`` if it is one; none at all is ``{"batches": 0}``."""
    units = {"epochs": pytorch.Epoch, "batches": pytorch.Batch}
    return next((units[name](int(n)) for name, n in (length or {}).items() if name in units and n), None)


def accelerator() -> str:
    """Returns Lightning's name for the device that Determined trains on."""
    return "gpu" if own_device().type == "cuda" else "cpu"


def devices() -> list[int] | int:
    """Returns the ``devices`` argument of Lightning's Trainer for this process: the GPU of its local rank."""
    device = own_device()
    return 1 if device.index is None else [device.index]

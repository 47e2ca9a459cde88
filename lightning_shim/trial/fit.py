"""``fit``: trains a module off-cluster, and unchanged on a cluster."""

from __future__ import annotations

import contextlib
import inspect
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import determined as det
from determined import pytorch

from lightning_shim.diagnostics.errors import CheckpointError, ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.session.progress_bar import ProgressBar
from lightning_shim.session.random_state import seed_generators
from lightning_shim.session.schedule import verify_train_unit
from lightning_shim.trial.processes import join_processes
from lightning_shim.trial.trial import LightningTrial
from lightning_shim.upstream.determined.context import is_on_cluster, tensorboard_folder, verify_backend
from lightning_shim.upstream.determined.controller import DEFAULT_REPORTING_PERIOD

_INSTEAD_OF: Final = {
    "max_epochs": "Pass max_length=determined.pytorch.Epoch(n).",
    "max_steps": "Pass max_length=determined.pytorch.Batch(n).",
    "check_val_every_n_epoch": "Pass validation_period=determined.pytorch.Epoch(n).",
    "val_check_interval": "Pass validation_period=determined.pytorch.Batch(n).",
    "log_every_n_steps": "Pass reporting_period=determined.pytorch.Batch(n).",
    **dict.fromkeys(
        ("accelerator", "devices", "num_nodes"),
        "Determined says on what to train: resources.slots_per_trial on a cluster, torchrun off-cluster.",
    ),
    "strategy": 'Several processes train as with "ddp"; pass find_unused_parameters=True for '
    '"ddp_find_unused_parameters_true".',
    "detect_anomaly": "Call torch.autograd.set_detect_anomaly(True) in the script.",
    **dict.fromkeys(("enable_checkpointing", "enable_progress_bar"), "Determined saves, and shows progress."),
}
"""What takes the place of Lightning's arguments of ``Trainer``."""

CHECKPOINT_POLICIES: Final = ("best", "all", "none")


def fit(
    module: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    *,
    max_length: pytorch.TrainUnit | None = None,
    validation_period: pytorch.TrainUnit | None = None,
    checkpoint_period: pytorch.TrainUnit | None = None,
    reporting_period: pytorch.TrainUnit = DEFAULT_REPORTING_PERIOD,
    checkpoint_policy: str = "best",
    latest_checkpoint: str | os.PathLike[str] | None = None,
    step_zero_validation: bool = False,
    test_mode: bool = False,
    hparams: Mapping[str, Any] | None = None,
    seed: int | None = None,
    **trial_options: Any,
) -> LightningTrial:
    """Trains a LightningModule with Determined.

    It calls ``determined.pytorch.init``, makes a :class:`LightningTrial` and calls ``determined.pytorch.Trainer.fit``.
    Off-cluster that needs no master: a progress bar is shown where there is a terminal, and where checkpoints and
    TensorBoard files are is printed at the end. Under ``torchrun`` the processes train together.

    Args:
        module: A LightningModule, or a class or function that gives one from the hyperparameters, by parameter name.
        train_dataloaders: A loader, or a list or dictionary of loaders.
        val_dataloaders: A loader or a list of loaders.
        datamodule: A LightningDataModule, or a class or function that gives one from the hyperparameters.
        max_length: How long to train: ``determined.pytorch.Epoch(n)`` or ``determined.pytorch.Batch(n)``, in all,
            batches trained before a checkpoint included.
        validation_period: How often to validate; by default after each epoch, as in Lightning.
        checkpoint_period: How often to write a checkpoint beside those of the policy.
        reporting_period: How often to report training metrics, as Lightning's ``log_every_n_steps``.
        checkpoint_policy: Whether to write a checkpoint after a validation: ``"best"``, ``"all"`` or ``"none"``.
            Off-cluster ``"best"`` means ``"all"``, since nobody knows what was best.
        latest_checkpoint: Where to continue: a checkpoint's folder or its UUID; by default what the cluster says. Of
            another trial's checkpoint the weights alone are taken. After a pause, a trial goes on from its own.
        step_zero_validation: Whether to validate before training.
        test_mode: Whether to train and validate one batch only; off-cluster.
        hparams: Hyperparameters; on a cluster those of the experiment take precedence.
        seed: Seeds Python, NumPy and PyTorch before the module is built; by default a cluster seeds with the trial's
            seed, and nobody does off-cluster.
        **trial_options: Further options of :class:`LightningTrial`, such as ``precision``.

    Returns:
        The trial, with ``module``, ``metrics`` and ``checkpoint_path``.

    Raises:
        ConfigurationError: If module, data, length or options cannot be trained.
        CheckpointError: If the checkpoint is missing, damaged or does not fit.
    """
    _verify_trial_options(trial_options)
    verify_train_unit("max_length", max_length, required=True)
    verify_train_unit("validation_period", validation_period, may_be_schedule=True)
    verify_train_unit("checkpoint_period", checkpoint_period, may_be_schedule=True)
    verify_train_unit("reporting_period", reporting_period, required=True, may_be_schedule=True)
    _verify_choices(checkpoint_policy, seed, hparams)

    def make_trial(context: pytorch.PyTorchTrialContext, latest_checkpoint: str | None) -> LightningTrial:
        if seed is not None:
            _seed(seed)
        return LightningTrial(
            context,
            module,
            train_dataloaders=train_dataloaders,
            val_dataloaders=val_dataloaders,
            datamodule=datamodule,
            max_length=max_length,
            validation_period=validation_period,
            reporting_period=reporting_period,
            latest_checkpoint=latest_checkpoint,
            **trial_options,
        )

    def periods(trial: LightningTrial) -> dict[str, Any]:
        by_default = None if trial.epoch_length is None else pytorch.Epoch(1)
        return {
            "max_length": max_length,
            "validation_period": validation_period or by_default,
            "checkpoint_period": checkpoint_period,
            "reporting_period": reporting_period,
        }

    return run_trial(
        make_trial,
        periods,
        hparams=hparams,
        latest_checkpoint=latest_checkpoint,
        checkpoint_policy=checkpoint_policy,
        step_zero_validation=step_zero_validation,
        test_mode=test_mode,
    )


# What is passed on to the trial is an option as well, but for the context, which Determined gives.
OPTIONS: Final = tuple(
    name
    for name in {**inspect.signature(fit).parameters, **inspect.signature(LightningTrial).parameters}
    if name not in ("context", "trial_options")
)
"""The names of the options of :func:`fit`."""

_Trial = TypeVar("_Trial", bound=LightningTrial)


def run_trial(
    make_trial: Callable[[pytorch.PyTorchTrialContext, str | None], _Trial],
    periods: Callable[[_Trial], Mapping[str, Any]],
    *,
    checkpoint_policy: str,
    hparams: Mapping[str, Any] | None = None,
    latest_checkpoint: str | os.PathLike[str] | None = None,
    shows_progress: bool = True,
    **fit_options: Any,
) -> _Trial:
    """Runs a trial, off-cluster or as the cluster says.

    Args:
        make_trial: Makes the trial, when the processes have come together, for the checkpoint that it starts from.
        periods: Gives the length and the periods of the training, by the names of Determined's ``Trainer.fit``.
        checkpoint_policy: As for :func:`fit`.
        hparams: As for :func:`fit`.
        latest_checkpoint: As for :func:`fit`.
        shows_progress: Whether there is a progress bar, off-cluster in a terminal.
        **fit_options: Further arguments of Determined's ``Trainer.fit``.

    Returns:
        The trial.
    """
    # Before Determined looks for a Horovod that is not installed, or for a launcher.
    verify_backend()
    info = det.get_cluster_info() if is_on_cluster() else None
    if info is not None:
        hparams = {**(hparams or {}), **info.trial.hparams}
        # A trial that continues after a pause goes on from its own.
        has_own = info.latest_checkpoint is not None and info.trial._steps_completed > 0
        latest_checkpoint = info.latest_checkpoint if has_own else latest_checkpoint or info.latest_checkpoint
    elif checkpoint_policy == "best":
        checkpoint_policy = "all"
    storage_id = None if latest_checkpoint is None else _storage_id(latest_checkpoint, info is not None)
    with pytorch.init(hparams=dict(hparams or {}), distributed=join_processes()) as context:
        trial = make_trial(context, storage_id)
        with _reporting(trial, info is None, shows_progress):
            pytorch.Trainer(trial, context).fit(
                checkpoint_policy=checkpoint_policy,
                latest_checkpoint=storage_id,
                **periods(trial),
                **fit_options,
            )
    return trial


def _verify_trial_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in OPTIONS:
            hint = _INSTEAD_OF.get(name, f"The options are {', '.join(OPTIONS)}.")
            raise ConfigurationError(f"{caller_location()}: fit has no option {name!r}. {hint}")


def _verify_choices(checkpoint_policy: Any, seed: Any, hparams: Any) -> None:
    if hparams is not None and not isinstance(hparams, Mapping):
        raise ConfigurationError(f"{caller_location()}: hparams={hparams!r} is no dictionary.")
    if checkpoint_policy not in CHECKPOINT_POLICIES:
        raise ConfigurationError(
            f"{caller_location()}: checkpoint_policy={checkpoint_policy!r} is none of {', '.join(CHECKPOINT_POLICIES)}."
        )
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise ConfigurationError(f"{caller_location()}: seed={seed!r} is no integer from 0 to 2**32 - 1.")


def _storage_id(checkpoint: str | os.PathLike[str], on_cluster: bool) -> str:
    name = os.fspath(checkpoint)
    if on_cluster:
        return name
    path = pathlib.Path(name)
    if path.is_dir():
        return str(path.absolute())
    if path.is_file():
        raise CheckpointError(f"{path} is a file. latest_checkpoint is the folder that it is in: {path.parent}.")
    if os.sep in name:
        raise CheckpointError(
            f"{path} is not there. latest_checkpoint is a checkpoint's folder (fit(...).checkpoint_path) or its UUID."
        )
    return name


def _seed(seed: int) -> None:
    # Lightning's samplers for several processes take their seed from this variable.
    os.environ["PL_GLOBAL_SEED"] = str(seed)
    seed_generators(seed)


@contextlib.contextmanager
def _reporting(trial: LightningTrial, off_cluster: bool, shows_progress: bool) -> Iterator[None]:
    """Shows progress while the trial runs, and says where its files are when it has ended."""
    if not (off_cluster and trial.trainer.is_global_zero):
        yield
        return
    if shows_progress and ProgressBar.has_terminal():
        trial.show_progress()
    try:
        yield
    finally:
        trial.hide_progress()
        tensorboard = tensorboard_folder(trial.context)
        if trial.checkpoint_path is not None:
            print(f"Checkpoint: {trial.checkpoint_path}")
        if tensorboard is not None:
            print(f"TensorBoard: tensorboard --logdir {os.path.abspath(tensorboard)}")

"""``fit``: trains a module, off-cluster and on a cluster with the same call."""

from __future__ import annotations

import contextlib
import inspect
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from determined import pytorch

from lightning_shim.diagnostics.errors import CheckpointError, ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.session.progress_bar import ProgressBar
from lightning_shim.session.random_state import seed_generators
from lightning_shim.session.schedule import verify_train_unit
from lightning_shim.trial.configuration import Configuration
from lightning_shim.trial.journal import BESIDE_A_PROGRESS_BAR, WITHOUT_A_PROGRESS_BAR, shown_on_standard_error
from lightning_shim.trial.processes import join_processes
from lightning_shim.trial.trial import LightningTrial
from lightning_shim.upstream.determined.context import (
    checkpoint_to_start_from,
    no_device_of_determined,
    no_handler_of_determined,
    process_group_with,
    tensorboard_folder,
    trial_info,
    verify_backend,
)
from lightning_shim.upstream.determined.controller import DEFAULT_REPORTING_PERIOD
from lightning_shim.upstream.lightning_strategy import StrategySettings

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
    "detect_anomaly": "Call torch.autograd.set_detect_anomaly(True) in the script.",
    **dict.fromkeys(("enable_checkpointing", "enable_progress_bar"), "Determined saves, and shows progress."),
}
"""Advice for arguments of Lightning's ``Trainer`` that ``fit`` does not have."""

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

    It calls ``determined.pytorch.init``, builds a :class:`LightningTrial` and calls ``determined.pytorch.Trainer.fit``.
    Off-cluster no master is needed: a progress bar is shown if there is a terminal, and the paths of the checkpoint
    and the TensorBoard files are printed at the end. Under ``torchrun`` the processes train together.

    On a cluster the experiment's configuration says what is left at its default here: ``searcher.max_length`` or
    ``max_time``, ``min_validation_period``, ``min_checkpoint_period``, ``scheduling_unit``, ``checkpoint_policy`` and
    ``perform_initial_validation``. What is given here counts, with a warning if the configuration has something else.

    Args:
        module: A LightningModule, or a class or function that returns one. Its parameters are hyperparameters by name.
        train_dataloaders: A loader, or a list or dictionary of loaders.
        val_dataloaders: A loader or a list of loaders.
        datamodule: A LightningDataModule, or a class or function that returns one, like ``module``.
        max_length: The length of the whole training, including batches trained before a checkpoint:
            ``determined.pytorch.Epoch(n)`` or ``determined.pytorch.Batch(n)``.
        validation_period: The period of validations; by default each epoch, as in Lightning.
        checkpoint_period: The period of checkpoints in addition to those of the policy.
        reporting_period: The period of reports of training metrics, like Lightning's ``log_every_n_steps``.
        checkpoint_policy: Whether to write a checkpoint after a validation: ``"best"``, ``"all"`` or ``"none"``.
            Off-cluster ``"best"`` writes one after each validation, which replaces the one before, since there is no
            searcher metric to compare. All are kept with ``"all"``, or if there is a ``checkpoint_period``.
        latest_checkpoint: The checkpoint to continue from, as a folder or a UUID; by default the cluster's. Only the
            weights of another trial's checkpoint are taken. After a pause a trial continues from its own.
        step_zero_validation: Whether to validate before training.
        test_mode: Whether to train and validate a single batch; off-cluster only.
        hparams: Hyperparameters; on a cluster those of the experiment take precedence.
        seed: The seed of Python, NumPy and PyTorch, set before the module is built. By default it is the trial's seed
            on a cluster, and nothing is seeded off-cluster.
        **trial_options: Further options of :class:`LightningTrial`, such as ``precision``.

    Returns:
        The trial, with ``module``, ``metrics`` and ``checkpoint_path``.

    Raises:
        ConfigurationError: If module, data, length or options cannot be used for training.
        CheckpointError: If the checkpoint is missing or damaged, or does not fit the module.
    """
    _verify_trial_options(trial_options)
    units: dict[str, Any] = {
        "max_length": max_length,
        "validation_period": validation_period,
        "checkpoint_period": checkpoint_period,
        "reporting_period": reporting_period,
    }
    for name, unit in units.items():
        verify_train_unit(name, unit, required=name == "reporting_period", may_be_schedule=name != "max_length")
    _verify_choices(checkpoint_policy, seed, hparams)
    configuration = Configuration.of_experiment()
    for name, unit in units.items():
        by_default = DEFAULT_REPORTING_PERIOD if name == "reporting_period" else None
        units[name] = configuration.settle(name, unit, by_default)
    checkpoint_policy = configuration.settle("checkpoint_policy", checkpoint_policy, "best")
    step_zero_validation = configuration.settle("step_zero_validation", step_zero_validation, False)
    latest_checkpoint = configuration.settle("latest_checkpoint", latest_checkpoint, None)
    verify_train_unit("max_length", units["max_length"], required=True)

    def make_trial(context: pytorch.PyTorchTrialContext, latest_checkpoint: str | None) -> LightningTrial:
        if seed is not None:
            _seed(seed)
        return LightningTrial(
            context,
            module,
            train_dataloaders=train_dataloaders,
            val_dataloaders=val_dataloaders,
            datamodule=datamodule,
            **{name: unit for name, unit in units.items() if name != "checkpoint_period"},
            latest_checkpoint=latest_checkpoint,
            # As with Lightning's fast_dev_run, there is no sanity check.
            **{**trial_options, **({"num_sanity_val_steps": 0} if test_mode else {})},
        )

    def periods(trial: LightningTrial) -> dict[str, Any]:
        by_default = None if trial.epoch_length is None else pytorch.Epoch(1)
        return {**units, "validation_period": units["validation_period"] or by_default}

    return run_trial(
        make_trial,
        periods,
        hparams=hparams,
        latest_checkpoint=latest_checkpoint,
        checkpoint_policy=checkpoint_policy,
        step_zero_validation=step_zero_validation,
        test_mode=test_mode,
        strategy=trial_options.get("strategy"),
    )


# Computed from the signatures, so that a new option of the trial is one of fit as well.
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
    strategy: Any = None,
    **fit_options: Any,
) -> _Trial:
    """Runs a trial, with the hyperparameters and the checkpoint of the cluster if it is on one.

    Args:
        make_trial: Makes the trial, when the processes have come together, for the checkpoint that it starts from.
        periods: Gives the length and the periods of the training, by the names of Determined's ``Trainer.fit``.
        checkpoint_policy: As for :func:`fit`.
        hparams: As for :func:`fit`.
        latest_checkpoint: As for :func:`fit`.
        shows_progress: Whether a terminal has a progress bar, unless Lightning's is among the callbacks; elsewhere, and
            on a cluster, there are lines.
        strategy: The option of the trial with the settings of the process group.
        **fit_options: Further arguments of Determined's ``Trainer.fit``.
    """
    # Before Determined looks for a Horovod that is not installed, or for a launcher.
    verify_backend()
    info = trial_info()
    if info is not None:
        hparams = {**(hparams or {}), **info.trial.hparams}
        configuration = Configuration.of_experiment()
        configuration.warn_of_other_units()
        fit_options["profiling_enabled"] = configuration.profiles
        latest_checkpoint = checkpoint_to_start_from(latest_checkpoint)
    storage_id = None if latest_checkpoint is None else _storage_id(latest_checkpoint, info is not None)
    with contextlib.ExitStack() as stack:
        with (
            no_device_of_determined(),
            no_handler_of_determined(),
            process_group_with(StrategySettings.of(strategy).process_group),
        ):
            context = stack.enter_context(
                pytorch.init(hparams=dict(hparams or {}), distributed=join_processes(strategy))
            )
        trial = make_trial(context, storage_id)
        with _reporting(trial, info is None, shows_progress):
            # A script's depend on its loaders, before which comes the sanity check.
            units = periods(trial)
            if info is None and checkpoint_policy == "best":
                # Nobody knows which is the best.
                checkpoint_policy = "all"
                if units.get("checkpoint_period") is None:
                    trial.keep_newest_checkpoint_only()
            pytorch.Trainer(trial, context).fit(
                checkpoint_policy=checkpoint_policy, latest_checkpoint=storage_id, **units, **fit_options
            )
    return trial


def _verify_trial_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in OPTIONS:
            hint = _INSTEAD_OF.get(name, f"The options are {', '.join(OPTIONS)}.")
            raise ConfigurationError(f"{caller_location()}: fit has no option {name!r}. {hint}")


def _verify_choices(checkpoint_policy: Any, seed: Any, hparams: Any) -> None:
    if hparams is not None and not isinstance(hparams, Mapping):
        raise ConfigurationError(f"{caller_location()}: hparams={hparams!r} is not a dictionary of hyperparameters.")
    if checkpoint_policy not in CHECKPOINT_POLICIES:
        raise ConfigurationError(
            f"{caller_location()}: checkpoint_policy={checkpoint_policy!r} is not one of "
            f"{', '.join(CHECKPOINT_POLICIES)}."
        )
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise ConfigurationError(f"{caller_location()}: seed={seed!r} is not an integer from 0 to 2**32 - 1.")


# Off-cluster Determined joins its own folder and the UUID. An absolute path replaces that folder, so a checkpoint may
# be anywhere.
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
            f"{path} does not exist. latest_checkpoint is a checkpoint's folder (fit(...).checkpoint_path) or its UUID."
        )
    return name


def _seed(seed: int) -> None:
    # Lightning's samplers for several processes take their seed from this variable.
    os.environ["PL_GLOBAL_SEED"] = str(seed)
    seed_generators(seed)


@contextlib.contextmanager
def _reporting(trial: LightningTrial, off_cluster: bool, shows_progress: bool) -> Iterator[None]:
    """Shows progress while the trial runs, and says where its files are."""
    if not trial.trainer.is_global_zero:
        yield
        return
    journal = trial.journal
    shows_progress = shows_progress and trial.trainer.progress_bar_callback is None
    if off_cluster and ProgressBar.has_terminal():
        journal.entries = BESIDE_A_PROGRESS_BAR if shows_progress else WITHOUT_A_PROGRESS_BAR
        if shows_progress:
            trial.show_progress()
    with shown_on_standard_error():
        try:
            yield
        except KeyboardInterrupt:
            trial.hide_progress()
            journal.interrupted(trial.newest_checkpoint)
            raise
        except BaseException:
            trial.hide_progress()
            _say_where_files_are(trial, off_cluster)
            raise
        _say_where_files_are(trial, off_cluster)


def _say_where_files_are(trial: LightningTrial, off_cluster: bool) -> None:
    if not off_cluster:
        return
    tensorboard = tensorboard_folder(trial.context)
    if trial.checkpoint_path is not None:
        print(f"Checkpoint: {trial.checkpoint_path}")
    if tensorboard is not None:
        print(f"TensorBoard: tensorboard --logdir {os.path.abspath(tensorboard)}")

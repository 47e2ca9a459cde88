"""A script's ``Trainer.fit`` as a trial: the settings come from the user's Trainer, and the results go back to it."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from typing import Any

import torch
from determined import pytorch

from lightning_shim.diagnostics.errors import ConfigurationError, HyperparameterWarning
from lightning_shim.diagnostics.lines import say
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.script.evaluation import remember_training
from lightning_shim.script.hyperparameters import untaken_hyperparameters
from lightning_shim.script.strategy import join_processes
from lightning_shim.script.trainer_patch import GIVEN
from lightning_shim.script.trainer_while_fitting import show_itself
from lightning_shim.script.trial import ScriptTrial
from lightning_shim.session.options import OPTION_NAMES
from lightning_shim.session.random_state import RandomState
from lightning_shim.trial.configuration import Configuration
from lightning_shim.trial.fit import run_trial
from lightning_shim.upstream.determined.context import is_on_cluster, make_current, own_device
from lightning_shim.upstream.lightning import lightning_of
from lightning_shim.upstream.lightning_strategy import is_distributed, join_alone
from lightning_shim.upstream.lightning_trainer import (
    fitted,
    has_nothing_to_fit,
    interrupted,
    resolved_checkpoint,
    set_loop_limits,
    started,
    taking_signals,
    verified_module,
)
from lightning_shim.upstream.namespaces import derives_from

_has_run_on_cluster = False


def fit_script(trainer: Any, model: Any, ckpt_path: Any = None, weights_only: Any = None, **data: Any) -> None:
    """Fits a module as a trial, with the settings of the user's Trainer; the arguments are Lightning's.

    ``weights_only`` has no effect: checkpoints are loaded with all that they hold. If the trial is paused it raises
    SystemExit, and the script continues in another process.
    """
    global _has_run_on_cluster
    given = vars(trainer)[GIVEN]
    _verify()
    model = verified_module(trainer, model)
    if derives_from(data.get("train_dataloaders"), "LightningDataModule"):
        # Lightning accepts a data module in this place too.
        data = {**data, "train_dataloaders": None, "datamodule": data["train_dataloaders"]}
    _warn_about_hyperparameters()
    # Before the settings are read, since max_epochs is None until Lightning's fit sets the default.
    set_loop_limits(trainer)
    if trainer.barebones:
        lightning_of(trainer).rank_zero_info(
            "`Trainer(barebones=True)` started running. The progress bar is disabled so you might want to manually "
            "print the progress in your model."
        )
    options: dict[str, Any] = {
        # The attribute comes first, since a script may set it after the constructor. Not every argument has one.
        name: getattr(trainer, name) if hasattr(trainer, name) else given[name]
        for name in OPTION_NAMES
        if hasattr(trainer, name) or name in given
    }
    options |= {
        # The Trainer's own one is for evaluations on this process alone.
        "strategy": given.get("strategy", "auto"),
        "callbacks": [callback for callback in trainer.callbacks if not has_nothing_to_fit(trainer, callback)],
        "logger": trainer.loggers,
    }
    configuration = Configuration.of_experiment()
    checkpoint_period = configuration.settle("checkpoint_period", None, None)
    if is_distributed(trainer.strategy):
        join_alone(trainer.strategy)
    # The script's random state is that of the device on which this process will train.
    make_current(own_device())
    # On a cluster Determined seeds all generators when its context is made, but the script goes on from its own state.
    random_state = RandomState.capture()

    def make_trial(context: pytorch.PyTorchTrialContext, latest_checkpoint: str | None) -> ScriptTrial:
        options["latest_checkpoint"] = latest_checkpoint
        return ScriptTrial(context, trainer, random_state, model, **data, **options)

    _has_run_on_cluster = is_on_cluster()

    def periods(trial: ScriptTrial) -> dict[str, Any]:
        if not is_on_cluster():
            # There it is Determined that asks for a pause.
            signals.enter_context(taking_signals(trainer))
        return trial.periods(checkpoint_period)

    started(trainer, model, data)
    try:
        options["ckpt_path"] = resolved_checkpoint(trainer, ckpt_path)
        with (
            contextlib.ExitStack() as signals,
            torch.autograd.set_detect_anomaly(bool(given.get("detect_anomaly"))),
        ):
            trial = run_trial(
                make_trial,
                periods,
                checkpoint_policy=_checkpoint_policy(trainer, configuration),
                step_zero_validation=configuration.settle("step_zero_validation", False, False),
                strategy=options["strategy"],
                # Its Trainer has a bar of Lightning's, or wants none.
                shows_progress=False,
            )
    except BaseException as error:
        is_told = trainer.interrupted
        _leave_as_lightning_does(trainer, model, data)
        interrupted(trainer, error, is_told)
        if isinstance(error, KeyboardInterrupt):
            # As in Lightning; a line has said it.
            sys.exit(1)
        raise
    _leave_as_lightning_does(trainer, model, data)
    if not trial.is_complete:
        # The lines after fit expect a trained module. They run when the trial has been continued to its end.
        say("the script ends here, and runs again when the trial goes on.")
        sys.exit(0)
    remember_training(trial.controller.batches_trained)


def _leave_as_lightning_does(trainer: Any, model: Any, data: dict[str, Any]) -> None:
    """Gives the user's Trainer what its trial has come to, if there has been one."""
    facade = show_itself(trainer)
    if facade is not None:
        join_processes(trainer)
        fitted(trainer, facade, model, data)


def _checkpoint_policy(trainer: Any, configuration: Configuration) -> str:
    # Off-cluster the script's own callback writes what it wants to keep.
    own = "best" if trainer.checkpoint_callback and is_on_cluster() else "none"
    argument = "barebones=True" if trainer.barebones else "enable_checkpointing=False"
    policy: str = configuration.settle("checkpoint_policy", own, "best", f"Trainer({argument})")
    return policy


def _verify() -> None:
    if _has_run_on_cluster:
        raise ConfigurationError(
            f"{caller_location()}: the script has fitted a module already, and a trial of a cluster is one training: "
            "the first fit is the trial's. Make each training a trial of its own, for example by a hyperparameter of a "
            "grid search that says which one to run; off-cluster a script may fit as often as it likes."
        )


def verify_tuning(who: str) -> None:
    """Refuses a search where it would be repeated after each pause, or by each process alone."""
    if is_on_cluster() or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigurationError(
            f"{caller_location()}: {who} searches off-cluster and on one process only. Run the script there first, and "
            "write what it finds into the script or the experiment's hyperparameters."
        )


def _warn_about_hyperparameters() -> None:
    untaken = untaken_hyperparameters()
    if untaken:
        warn_at_caller(
            f"The hyperparameters {', '.join(untaken)} have no effect, unless the script reads them by itself: no "
            "LightningModule or LightningDataModule that it has made has a parameter of that name, and neither "
            "LightningCLI nor hydra an option.",
            HyperparameterWarning,
        )


def arguments_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call by name."""
    return dict(inspect.signature(function).bind(*args, **kwargs).arguments)

"""The parts of a trial, and the way in which they are put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_shim.checkpoint.attributes import OwnAttributes
from lightning_shim.checkpoint.kept_files import KeptFiles
from lightning_shim.checkpoint.lightning_format import LightningCheckpoint
from lightning_shim.checkpoint.starting_checkpoint import StartingCheckpoint
from lightning_shim.checkpoint.trial_state import TrialState
from lightning_shim.checkpoint.weight_averaging import WeightAveragingState
from lightning_shim.compatibility.before_training import verify_members
from lightning_shim.data.requests import LoaderRequest
from lightning_shim.data.source import DataSource
from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location, definition_location
from lightning_shim.facade.trainer import TrainerFacade
from lightning_shim.loop.optimization import Optimization
from lightning_shim.loop.optimizers_in_turn import FormerOptimization, needs_former_optimization
from lightning_shim.loop.runtime import Runtime
from lightning_shim.loop.training import TrainingLoop
from lightning_shim.loop.validation import EvaluationLoop
from lightning_shim.metrics.lightning_loggers import Loggers
from lightning_shim.session.session import Session
from lightning_shim.trial.processes import Processes
from lightning_shim.trial.reporting import Reports


@dataclass(frozen=True, slots=True)
class TrialParts:
    """Everything that a trial works with.

    Attributes:
        session: The training.
        runtime: The parts that run the batches.
        training_loop: The loop over epochs.
        evaluation_loop: The loop of a validation.
        trainer: What the module has as its trainer.
        lightning_checkpoint: Saves and restores what Lightning would.
        starting_checkpoint: Restores what the training starts from.
        trial_state: Saves and restores what is needed beside it to continue exactly.
        attributes: Keeps what module and callbacks have in attributes of their own.
        kept_files: Keeps the files that callbacks have written.
        reports: Reports metrics.
        processes: The processes that train together.
    """

    session: Session
    runtime: Runtime
    training_loop: TrainingLoop
    evaluation_loop: EvaluationLoop
    trainer: TrainerFacade
    lightning_checkpoint: LightningCheckpoint
    starting_checkpoint: StartingCheckpoint
    trial_state: TrialState
    attributes: OwnAttributes
    kept_files: KeptFiles
    reports: Reports
    processes: Processes


@dataclass(frozen=True, slots=True)
class Given:
    """What a trial was given beside its options.

    Attributes:
        train_dataloaders: The training loaders, or None.
        val_dataloaders: The validation loaders, or None.
        callbacks: Lightning callbacks.
        loggers: Loggers of Lightning's.
        tests_afterwards: Whether Lightning's own Trainer tests and predicts after the training.
    """

    train_dataloaders: Any
    val_dataloaders: Any
    callbacks: list[Any]
    loggers: list[Any]
    tests_afterwards: bool


def assemble(
    session: Session, given: Given, processes: Processes, make_trainer: Callable[..., TrainerFacade]
) -> TrialParts:
    """Makes the parts of a trial, and attaches the module.

    Args:
        session: The training.
        given: What the trial was given.
        processes: The processes that train together.
        make_trainer: Makes the trainer of the module; its arguments are those of :class:`TrainerFacade`.

    Returns:
        The parts.

    Raises:
        ConfigurationError: If module, data or callbacks cannot be trained.
        RefusedMemberError: If the module relies on a hook that Determined has no counterpart for.
    """
    runtime = Runtime.of(session)
    loggers = Loggers(session.lightning, given.loggers, session.progress)
    optimization = (FormerOptimization if needs_former_optimization(session.module) else Optimization)(runtime)
    reports = Reports(runtime, loggers, optimization)
    train_source, val_source = (
        DataSource(session, LoaderRequest(session, stage, loaders))
        for stage, loaders in (("train", given.train_dataloaders), ("val", given.val_dataloaders))
    )
    evaluation_loop = EvaluationLoop(runtime, val_source)
    training_loop = TrainingLoop(runtime, train_source, evaluation_loop, optimization, reports.report_epoch)
    averaging = WeightAveragingState(runtime)
    lightning_checkpoint = LightningCheckpoint(runtime, averaging)
    trainer = make_trainer(runtime, training_loop, evaluation_loop, lightning_checkpoint, loggers)
    trainer.attach(given.callbacks)
    verify_members(session.module, session.datamodule, session.callbacks, given.tests_afterwards)
    runtime.hooks.refresh()
    _verify_training_loaders(session, train_source)
    evaluation_loop.warn_if_incomplete()
    attributes = OwnAttributes(
        session.lightning, session.module, session.datamodule, trainer, session.callbacks, runtime.strategy
    )
    trial_state = TrialState(runtime, training_loop, averaging, attributes)
    return TrialParts(
        session=session,
        runtime=runtime,
        training_loop=training_loop,
        evaluation_loop=evaluation_loop,
        trainer=trainer,
        lightning_checkpoint=lightning_checkpoint,
        starting_checkpoint=StartingCheckpoint(runtime, lightning_checkpoint, trial_state),
        trial_state=trial_state,
        attributes=attributes,
        kept_files=KeptFiles(session.lightning, session.callbacks, trainer.default_root_dir),
        reports=reports,
        processes=processes,
    )


def _verify_training_loaders(session: Session, source: DataSource) -> None:
    if not source.request.is_defined:
        owner = session.module if session.datamodule is None else session.datamodule
        raise ConfigurationError(
            f"{definition_location(type(owner))}: there is no training loader. Define train_dataloader there, or "
            "pass train_dataloaders to fit."
        )
    if source.is_switched_off:
        raise ConfigurationError(f"{caller_location()}: limit_train_batches=0 leaves nothing to train on.")

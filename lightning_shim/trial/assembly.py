"""The parts of a trial, and the order in which they are created."""

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
from lightning_shim.loop.optimizers_in_turn import Lightning1Optimization, needs_lightning1_optimization
from lightning_shim.loop.runtime import Runtime
from lightning_shim.loop.training import TrainingLoop
from lightning_shim.loop.validation import EvaluationLoop
from lightning_shim.metrics.lightning_loggers import Loggers
from lightning_shim.session.session import Session
from lightning_shim.trial.journal import Journal
from lightning_shim.trial.processes import Processes
from lightning_shim.trial.reporting import Reports


@dataclass(frozen=True, slots=True)
class TrialParts:
    """The parts of a trial."""

    session: Session
    runtime: Runtime  # the objects that both loops use
    training_loop: TrainingLoop
    evaluation_loop: EvaluationLoop
    trainer: TrainerFacade  # the facade
    lightning_checkpoint: LightningCheckpoint  # saves and restores what a checkpoint of Lightning's has
    starting_checkpoint: StartingCheckpoint  # restores what the training starts from
    trial_state: TrialState  # saves and restores what else is needed to continue exactly
    attributes: OwnAttributes  # saves and restores the attributes of module, data module and callbacks
    kept_files: KeptFiles  # saves and restores the files that callbacks write
    reports: Reports
    journal: Journal
    processes: Processes


@dataclass(frozen=True, slots=True)
class Given:
    """The arguments of a trial that only its assembly needs."""

    train_dataloaders: Any  # the training loaders, or None
    val_dataloaders: Any  # the validation loaders, or None
    callbacks: list[Any]
    loggers: list[Any]


def assemble(
    session: Session, given: Given, processes: Processes, make_trainer: Callable[..., TrainerFacade]
) -> TrialParts:
    """Creates the parts of a trial, and attaches the module."""
    # Each part takes the ones above it.
    runtime = Runtime.of(session)
    loggers = Loggers(session.lightning, given.loggers, session.progress)
    optimization = (Lightning1Optimization if needs_lightning1_optimization(session.module) else Optimization)(runtime)
    journal = Journal(session)
    reports = Reports(runtime, loggers, optimization, journal)
    attributes = OwnAttributes(runtime)
    train_source, val_source = (
        DataSource(session, LoaderRequest(session, stage, loaders), attributes)
        for stage, loaders in (("train", given.train_dataloaders), ("val", given.val_dataloaders))
    )
    evaluation_loop = EvaluationLoop(runtime, val_source, loggers)
    training_loop = TrainingLoop(runtime, train_source, evaluation_loop, optimization, reports.report_epoch)
    averaging = WeightAveragingState(runtime)
    lightning_checkpoint = LightningCheckpoint(runtime, averaging)
    trainer = make_trainer(runtime, training_loop, evaluation_loop, lightning_checkpoint, loggers)
    trainer.attach(given.callbacks)
    # Only now the callbacks are known, to which the module's configure_callbacks adds its own.
    verify_members(session.module, session.datamodule, session.callbacks, session.script_trainer)
    runtime.hooks.refresh()
    _verify_training_loaders(session, train_source)
    evaluation_loop.warn_if_incomplete()
    trial_state = TrialState(runtime, training_loop, averaging, attributes)
    kept_files = KeptFiles(session.callbacks)
    return TrialParts(
        session=session,
        runtime=runtime,
        training_loop=training_loop,
        evaluation_loop=evaluation_loop,
        trainer=trainer,
        lightning_checkpoint=lightning_checkpoint,
        starting_checkpoint=StartingCheckpoint(runtime, lightning_checkpoint, trial_state, kept_files),
        trial_state=trial_state,
        attributes=attributes,
        kept_files=kept_files,
        reports=reports,
        journal=journal,
        processes=processes,
    )


def _verify_training_loaders(session: Session, source: DataSource) -> None:
    if not source.request.is_defined:
        owner = session.module if session.datamodule is None else session.datamodule
        raise ConfigurationError(
            f"{definition_location(type(owner))}: `train_dataloader` must be implemented to be used with the Lightning "
            "Trainer. An invalid dataloader was passed to `Trainer.fit(train_dataloaders=...)`. Found None. Either "
            f"pass the dataloader to `fit`, or implement `def train_dataloader(self):` in {type(owner).__qualname__}.",
            # As in Lightning, whose own hook raises the other one.
            also=TypeError if owner.train_dataloader is None else None,
        )
    if source.is_switched_off and session.script_trainer is None:
        raise ConfigurationError(f"{caller_location()}: limit_train_batches=0 leaves nothing to train on.")

"""``self.trainer`` on Determined: Lightning's attributes, each with the trial's true value.

The other attributes are looked up in the table of members: a refused one raises, an ignored one warns and is None, and
one that Lightning does not have raises ``AttributeError``, so that ``hasattr`` works.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, Final

from determined import pytorch

from lightning_shim.checkpoint.lightning_format import LightningCheckpoint
from lightning_shim.compatibility.before_training import no_accumulation, usable_callbacks
from lightning_shim.diagnostics.errors import IgnoredMemberWarning, RefusedMemberError
from lightning_shim.diagnostics.locations import caller_location, caller_name
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.facade.delegation import Answer, delegates
from lightning_shim.facade.logger import LoggerFacade
from lightning_shim.facade.loops import Training, trainer_part
from lightning_shim.lightning1.attributes import OF_TRAINER, FormerAttributes
from lightning_shim.loop.runtime import Runtime
from lightning_shim.loop.training import TrainingLoop
from lightning_shim.loop.transfer import hook_owner
from lightning_shim.loop.validation import EvaluationLoop
from lightning_shim.members.member import Support
from lightning_shim.members.query import find
from lightning_shim.metrics.lightning_loggers import Loggers
from lightning_shim.metrics.store import MetricStore
from lightning_shim.patching.attachment import FIXED, FIXED_SENTENCE, Attached
from lightning_shim.session.loops_state import loops_state
from lightning_shim.session.options import root_dir_of, verify_option

_ANSWERS: Final = {
    "current_epoch": "_session.progress.current_epoch",
    "global_step": "_session.global_step",
    "is_last_batch": "_session.progress.is_last_batch",
    "ckpt_path": "_session.ckpt_path",
    "min_epochs": "_session.min_epochs",
    "min_steps": "_session.options.min_steps",
    "gradient_clip_val": "_session.options.gradient_clip_val",
    "gradient_clip_algorithm": "_session.options.gradient_clip_algorithm",
    "limit_train_batches": "_session.options.limit_train_batches",
    "limit_val_batches": "_session.options.limit_val_batches",
    "overfit_batches": "_session.options.overfit_batches",
    "reload_dataloaders_every_n_epochs": "_session.options.reload_dataloaders_every_n_epochs",
    "fit_loop": "_fit_loop",
    "_evaluation_loop": "_fit_loop.epoch_loop.val_loop",
    "_logger_connector": "_logging",
    "_results": "_fit_loop._results",
    "num_training_batches": "_training_loop.epoch_length.max_batches",
    "train_dataloader": "_training_loop.source.loaders",
    "val_dataloaders": "_validation_loop.source.loaders",
    "num_val_batches": "_validation_loop.source.num_batches",
    "enable_validation": "_validation_loop.is_enabled",
    "lightning_module": "_session.module",
    "model": "_session.module",
    "callbacks": "_session.callbacks",
    "optimizers": "strategy.optimizers",
    "lr_scheduler_configs": "strategy.lr_scheduler_configs",
    "precision_plugin": "strategy.precision_plugin",
    "precision": "strategy.precision_plugin.precision",
    "scaler": "strategy.precision_plugin.scaler",
    "world_size": "strategy.world_size",
    "num_nodes": "strategy.num_nodes",
    "distributed_sampler_kwargs": "strategy.distributed_sampler_kwargs",
    "global_rank": "strategy.global_rank",
    "local_rank": "strategy.local_rank",
    "node_rank": "strategy.node_rank",
    "is_global_zero": "strategy.is_global_zero",
}
"""The path to the value of each of these attributes of Trainer. The table of members says what they mean."""


def _is_in(stage: str) -> Callable[[Any], bool]:
    return lambda trainer: bool(trainer.state.stage == getattr(trainer._lightning.RunningStage, stage))


def _callbacks_of(name: str) -> Callable[[Any], list[Any]]:
    return lambda trainer: [each for each in trainer.callbacks if isinstance(each, getattr(trainer._lightning, name))]


_progress_bars: Final = _callbacks_of("ProgressBar")

_COMPUTED: Final[dict[str, Answer]] = {
    "num_devices": lambda trainer: trainer.strategy.world_size // trainer.strategy.num_nodes,
    "device_ids": lambda trainer: list(range(trainer.num_devices)),
    "accelerator": lambda trainer: trainer._lightning.accelerators[trainer.strategy.root_device.type](),
    "default_root_dir": lambda trainer: root_dir_of(trainer._session.options.default_root_dir),
    "training": _is_in("TRAINING"),
    "validating": _is_in("VALIDATING"),
    "sanity_checking": _is_in("SANITY_CHECKING"),
    "evaluating": lambda trainer: trainer.validating or trainer.sanity_checking,
    "interrupted": lambda trainer: bool(trainer.state.status == trainer._lightning.TrainerStatus.INTERRUPTED),
    "num_sanity_val_batches": lambda trainer: [
        min(trainer.num_sanity_val_steps, batches) for batches in trainer.num_val_batches
    ],
    "callback_metrics": lambda trainer: trainer.metrics.current_views().callback,
    "logged_metrics": lambda trainer: trainer.metrics.current_views().logged,
    "progress_bar_metrics": lambda trainer: {
        name: float(value) for name, value in trainer.metrics.current_views().progress_bar.items()
    },
    "progress_bar_callback": lambda trainer: next(iter(_progress_bars(trainer)), None),
    "checkpoint_callbacks": _callbacks_of("Checkpoint"),
    "checkpoint_callback": lambda trainer: next(iter(trainer.checkpoint_callbacks), None),
    "early_stopping_callbacks": _callbacks_of("EarlyStopping"),
    "early_stopping_callback": lambda trainer: next(iter(trainer.early_stopping_callbacks), None),
}
"""The functions that compute the values of these attributes."""


@delegates(_COMPUTED)
@delegates(_ANSWERS, settable={"callbacks"})
class TrainerFacade(Attached):
    """Lightning's ``Trainer`` for an attached module.

    Attributes:
        metrics: The values that the module logs.
        state: Lightning's ``TrainerState``.
        datamodule: The LightningDataModule, if there is one.
        strategy: Devices, processes and optimizers.
        lightning_loggers: Lightning's own loggers.
        logger: The first logger.
        profiler: The profiler of a script's Trainer, or one that does nothing.
    """

    # The values in a Lightning Trainer that does nothing but fit, and has been left at its defaults.
    testing: Final = False
    predicting: Final = False
    received_sigterm: Final = False
    fast_dev_run: int | bool = False

    def __init__(
        self,
        runtime: Runtime,
        training_loop: TrainingLoop,
        evaluation_loop: EvaluationLoop,
        lightning_checkpoint: LightningCheckpoint,
        loggers: Loggers,
    ) -> None:
        session = runtime.session
        session.trainer = self._lightning_shim_facade = self
        self._session: Final = session
        self._lightning: Final = session.lightning
        self._hooks: Final = runtime.hooks
        self.metrics: MetricStore = runtime.metrics
        self.strategy: Final = runtime.strategy
        self._training_loop: Final = training_loop
        self._validation_loop: Final = evaluation_loop
        self._lightning_checkpoint: Final = lightning_checkpoint
        training = Training(session, training_loop, evaluation_loop, self.metrics)
        self._fit_loop: Final = trainer_part("Trainer.fit_loop", training)
        self._logging: Final = trainer_part("Trainer._logger_connector", training)
        self.lightning_loggers: Final = loggers
        self._loggers: Final = [*loggers.loggers, *self._loggers_of_determined()]
        self.logger: Any = next(iter(self._loggers), None)
        is_measured = session.profiling.is_on
        self.profiler: Any = session.script_trainer.profiler if is_measured else session.lightning.PassThroughProfiler()
        self._former_attributes: Final = FormerAttributes()
        self.datamodule: Any = None
        # Lightning's own methods of the module look here when they run an example through the transfer hooks. The
        # facade answers for both: it has get_instance.
        self._data_connector = self
        self._datahook_selector = self
        self.state: Any = session.lightning.TrainerState(
            status=session.lightning.TrainerStatus.RUNNING,
            fn=session.lightning.TrainerFn.FITTING,
            stage=session.lightning.RunningStage.TRAINING,
        )

    def __getattr__(self, name: str) -> Any:
        if hasattr(type(self), name):
            # Python also comes here if a property has raised AttributeError, perhaps in the user's code. Reading it
            # again raises that error, which says more than one about a missing attribute.
            return object.__getattribute__(self, name)
        if name in OF_TRAINER:
            return OF_TRAINER[name](self)
        row = find("Trainer", name)
        if row is None:
            raise AttributeError(f"Lightning's Trainer has no attribute {name!r}.")
        if row.support is Support.IGNORED:
            warn_at_caller(f"trainer.{name} is ignored: {row.sentence}", IgnoredMemberWarning)
            return None
        raise RefusedMemberError(f"{caller_location()}: trainer.{name} is refused: {row.sentence}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIXED:
            raise RefusedMemberError(f"{caller_location()}: trainer.{name} is refused: {FIXED_SENTENCE}")
        object.__setattr__(self, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Returns the trainer itself, for a copy of a callback that has it as an attribute: a trial is there once."""
        return self

    def _loggers_of_determined(self) -> list[LoggerFacade]:
        """Returns Determined's loggers, which come after the user's own."""
        return [LoggerFacade(self._session, self.default_root_dir)]

    # Called by the trial.

    def attach(self, callbacks: list[Any]) -> None:
        """Becomes the trainer of module and data module, and collects the callbacks.

        Those from the module's ``configure_callbacks`` replace callbacks of the same type.
        """
        module, datamodule = self._session.module, self._session.datamodule
        module.trainer = self._session.trainer_of_hooks
        if datamodule is not None:
            datamodule.trainer = self._session.trainer_of_hooks
            self.datamodule = datamodule
        for submodule in module.modules():
            if isinstance(submodule, self._lightning.LightningModule):
                self._former_attributes.give(submodule, self)
        self.callbacks = callbacks
        own = self._hooks.run("configure_callbacks", module.configure_callbacks) or []
        own = list(own) if isinstance(own, (list, tuple)) else [own]
        replaced = {type(callback) for callback in own}
        merged = [callback for callback in callbacks if type(callback) not in replaced] + own
        # As in Lightning, callbacks that save come last, so that a checkpoint has the newest states of the others.
        merged.sort(key=lambda callback: isinstance(callback, self._lightning.Checkpoint))
        self.callbacks = usable_callbacks(self._lightning, merged)
        for callback in self.callbacks:
            # As in Lightning's Trainer: a callback logs through the module.
            callback.log, callback.log_dict = module.log, module.log_dict

    def enter_stage(self, training: bool) -> None:
        """Makes a stage the current one."""
        stages = self._lightning.RunningStage
        self.state.stage = stages.TRAINING if training else stages.VALIDATING
        self.metrics.enter_stage(training)

    def enter_sanity_check(self) -> None:
        """Enters the sanity check, which tries a few batches of the validation."""
        self.state.stage = self._lightning.RunningStage.SANITY_CHECKING
        self.metrics.enter_stage(training=False)

    def forget_sanity_check(self) -> None:
        """Returns to training as if nothing had been validated."""
        self.metrics.forget_views()
        self.enter_stage(training=True)

    def finish(self) -> None:
        """Marks the training as finished."""
        self.state.status = self._lightning.TrainerStatus.FINISHED
        self.state.stage = None

    def release(self) -> None:
        """Removes the attributes of Lightning 1.x from the modules, which only attached ones have."""
        self._former_attributes.take_back()

    def loops_state(self) -> dict[str, Any]:
        """Returns the progress of the training in the form of Lightning's loops."""
        restarted = self._session.restarted_loops
        return loops_state(self._session.progress) if restarted is None else {"fit_loop": restarted.state}

    # Called by the module and its callbacks.

    def get_instance(self, hook_name: str) -> Any:
        """Returns the object whose transfer hook is called: the data module or the module."""
        return hook_owner(self._session, hook_name)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints on rank 0, above the progress bar if there is one."""
        if not self.is_global_zero:
            return
        bar = self._session.progress_bar
        (print if bar is None else bar.print)(*args, **kwargs)

    def save_checkpoint(
        self, filepath: str | os.PathLike[str], weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Writes a Lightning checkpoint beside those of Determined. All processes have to call it.

        Args:
            filepath: A path, or a URL that fsspec supports.
            weights_only: Whether to leave out all that only a resumed training needs.
            storage_options: As in Lightning.
        """
        with self._session.profiling.action("save_checkpoint"):
            checkpoint = self._lightning_checkpoint.dump(bool(weights_only))
            self.strategy.save_checkpoint(checkpoint, filepath, storage_options=storage_options)
        self.strategy.barrier("Trainer.save_checkpoint")

    @property
    def should_stop(self) -> bool:
        """Whether somebody has asked to stop. It is Determined that then stops the trial."""
        return self._session.should_stop

    @should_stop.setter
    def should_stop(self, stops: bool) -> None:
        if stops and not self._session.should_stop:
            self._session.stopped_by = caller_name()
        self._session.should_stop = stops

    # The length, the periods and the data.

    @property
    def max_epochs(self) -> int:
        """The number of epochs to train; -1 if the length is given in batches, as in Lightning with ``max_steps``."""
        _, epochs = self._session.schedule.batches_and_epochs
        return -1 if epochs is None else epochs

    def set_max_epochs(self, epochs: int) -> None:
        """Changes the number of epochs to train, as ``trainer.fit_loop.max_epochs`` may be assigned."""
        self._session.schedule.set_max_epochs(epochs)

    @property
    def max_steps(self) -> int:
        """The number of optimizer steps to train; -1 if the length is given in epochs."""
        batches, _ = self._session.schedule.batches_and_epochs
        if batches is None:
            return -1
        # The option's value: nobody knows in advance how callbacks will change it from epoch to epoch.
        accumulate = self._session.options.accumulate_grad_batches
        if accumulate == 1:
            return batches
        if self.num_training_batches == float("inf"):
            return batches // accumulate
        # Each epoch ends with a step, whether its last accumulation is complete or not.
        epochs, rest = divmod(batches, int(self.num_training_batches))
        return epochs * self._steps_of_an_epoch(accumulate) + rest // accumulate

    @property
    def estimated_stepping_batches(self) -> int | float:
        """The number of optimizer steps of the whole training, from the length and the loaders."""
        if self.max_epochs == -1 and self._session.options.accumulate_grad_batches == 1:
            # As in Lightning, which requests the loaders only if the number depends on them.
            return self.max_steps
        self._training_loop.set_up()
        if self.max_epochs == -1 or self.num_training_batches == float("inf"):
            return self.max_steps
        return self._steps_of_an_epoch(self.accumulate_grad_batches) * int(self.max_epochs)

    def _steps_of_an_epoch(self, accumulate_grad_batches: int) -> int:
        steps: int = math.ceil(self.num_training_batches / accumulate_grad_batches)
        return steps

    @property
    def val_check_interval(self) -> Any:
        """The number of batches between two validations; 1.0, for whole epochs, unless it is given in batches."""
        period = self._session.schedule.validation_period
        return period.value if isinstance(period, pytorch.Batch) else 1.0

    @property
    def check_val_every_n_epoch(self) -> Any:
        """The number of epochs between two validations; None if the period is given in batches."""
        period = self._session.schedule.validation_period
        return period.value if isinstance(period, pytorch.Epoch) else None

    @property
    def val_check_batch(self) -> Any:
        """The number of batches between two validations; None before the loaders are requested, as in Lightning.

        The batches are those of an epoch or, if ``check_val_every_n_epoch`` is None, those of the whole training.
        """
        if not self._training_loop.source.is_set_up:
            return None
        interval = self.val_check_interval
        if not isinstance(interval, float):
            return interval
        # Without a batch that StochasticWeightAveraging has added.
        batches = self._training_loop.source.length
        return math.inf if batches is None else max(1, int(batches * interval))

    @property
    def log_every_n_steps(self) -> int:
        """The number of batches between two reports of step values."""
        period = self._session.schedule.reporting_period
        if not isinstance(period.value, int):
            return 1
        return int(period.value if isinstance(period, pytorch.Batch) else period.value * self.num_training_batches)

    @property
    def num_sanity_val_steps(self) -> int | float:
        """The limit of validation batches of the sanity check; infinite if all of them are tried."""
        steps = self._session.options.num_sanity_val_steps
        return float("inf") if steps == -1 else steps

    # Options, devices, files, metrics and callbacks.

    @property
    def accumulate_grad_batches(self) -> int:
        """The number of batches whose gradients add up to a step. Callbacks may change it for the batches to come."""
        return self._training_loop.optimization.accumulate_grad_batches

    @accumulate_grad_batches.setter
    def accumulate_grad_batches(self, batches: int) -> None:
        verify_option("accumulate_grad_batches", batches)
        optimization, module = self._training_loop.optimization, self.lightning_module
        # A callback that skips backward, as StochasticWeightAveraging does for an epoch, accumulates nothing.
        if batches > 1 and not (module.automatic_optimization or optimization.skips_backward):
            raise no_accumulation(module, batches)
        optimization.accumulate_grad_batches = batches

    @property
    def log_dir(self) -> str | None:
        """The folder of the TensorBoard files, the same on all processes."""
        logger: Any = self.logger
        if logger is None:
            return str(self.strategy.broadcast(self.default_root_dir))
        is_folder_of_a_run = isinstance(logger, (self._lightning.TensorBoardLogger, self._lightning.CSVLogger))
        folder: str | None = self.strategy.broadcast(logger.log_dir if is_folder_of_a_run else logger.save_dir)
        return folder

    @property
    def loggers(self) -> list[Any]:
        """Lightning's own loggers and Determined's, or the one that somebody has assigned to ``logger``."""
        if self.logger is next(iter(self._loggers), None):
            return list(self._loggers)
        return [] if self.logger is None else [self.logger]

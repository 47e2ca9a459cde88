"""The generic trial: Determined's PyTorchTrial for any LightningModule."""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any, ClassVar, Final

from determined import pytorch
from torch import nn

from lightning_shim.checkpoint.attributes import OwnAttributes
from lightning_shim.checkpoint.kept_files import CheckpointFiles
from lightning_shim.checkpoint.lightning_format import LightningCheckpoint
from lightning_shim.checkpoint.trial_state import CheckpointState
from lightning_shim.checkpoint.weight_averaging import WeightAveragingState
from lightning_shim.compatibility.before_training import (
    is_datamodule,
    takes_batch_idx,
    usable_callbacks,
    verify_datamodule,
    verify_manual_optimization,
    verify_members,
    verify_module,
    warn_about_validation,
)
from lightning_shim.compatibility.inspection import may_change_optimization
from lightning_shim.data.requests import find_source
from lightning_shim.data.source import warn_about_global_batch_size
from lightning_shim.diagnostics.errors import CheckpointError, ConfigurationError
from lightning_shim.diagnostics.locations import caller_location, definition_location
from lightning_shim.facade.logger import LoggerFacade
from lightning_shim.facade.trainer import TrainerFacade
from lightning_shim.lightning1.hook_arguments import Values
from lightning_shim.loop.epoch_outputs import TrainingOutputs
from lightning_shim.loop.hooks import Hooks
from lightning_shim.loop.optimization import Optimization
from lightning_shim.loop.optimizers_in_turn import FormerOptimization, needs_former_optimization
from lightning_shim.loop.precision import Precision
from lightning_shim.loop.setup import prepare_module
from lightning_shim.loop.strategy import StrategyFacade
from lightning_shim.loop.training import SKIPPED, TrainingBatches, TrainingLoop
from lightning_shim.loop.transfer import BatchTransfer
from lightning_shim.loop.validation import EvaluationLoop, Validation, ValidationLoader
from lightning_shim.metrics.collector import MetricCollector, ReturnedMetrics
from lightning_shim.metrics.lightning_loggers import Loggers
from lightning_shim.patching.determined_loop import repair_controller
from lightning_shim.patching.lightning_module import is_patched, patch, registry
from lightning_shim.session.hyperparameters import HyperparameterBuilder
from lightning_shim.session.options import TrainerOptions
from lightning_shim.session.progress import Progress
from lightning_shim.session.schedule import Schedule
from lightning_shim.trial.determined_callback import CALLBACK_NAME, LightningCallback
from lightning_shim.trial.processes import Processes
from lightning_shim.trial.reporting import Reports
from lightning_shim.upstream.determined.context import experiment_length, is_on_cluster, verify_backend
from lightning_shim.upstream.determined.controller import Controller
from lightning_shim.upstream.lightning import lightning_of, unwrapped


class LightningTrial(pytorch.PyTorchTrial):
    """A PyTorchTrial that trains a LightningModule as it is.

    It is used as it is, with objects or with classes that are built from the trial's hyperparameters, or subclassed
    with :meth:`build_module` and :meth:`build_datamodule` for an entry point such as ``model_def:MyTrial``.

    Args:
        context: Determined's trial context.
        module: A LightningModule, or a class or function that gives one; its parameters are hyperparameters by name.
        train_dataloaders: A loader, or a list or dictionary of loaders.
        val_dataloaders: A loader or a list of loaders.
        datamodule: A LightningDataModule, or a class or function that gives one.
        max_length: How long Determined will train, which ``trainer.max_epochs``, ``trainer.max_steps`` and
            ``trainer.estimated_stepping_batches`` tell the module; by default what the experiment's configuration says.
        validation_period: How often Determined will validate, which ``trainer.val_check_interval`` and
            ``trainer.check_val_every_n_epoch`` tell the callbacks; by default after each epoch.
        reporting_period: How often Determined will report, which ``trainer.log_every_n_steps`` tells; by default
            Determined's own.
        precision: One of Lightning's names, such as ``"32-true"`` or ``"bf16-mixed"``.
        accumulate_grad_batches: Batches whose gradients are added up before a step.
        gradient_clip_val: The largest norm, or value, of the gradients.
        gradient_clip_algorithm: ``"norm"`` (the default) or ``"value"``.
        callbacks: A Lightning callback, or a list of them.
        limit_train_batches: Batches of a training epoch, or the fraction of them.
        limit_val_batches: Batches of each validation loader, or the fraction of them.
        overfit_batches: Batches, or the fraction of them, that are trained and validated on, the same in each epoch:
            the loaders' own samplers do not count then; 0 for all, by the limits.
        reload_dataloaders_every_n_epochs: Epochs after which the hooks are asked for other loaders; 0 for never.
            Determined's epochs stay as long as the first one: another may have fewer batches, not more.
        use_distributed_sampler: Whether several processes share out the samples of each map-style loader, unless it has
            a DistributedSampler already.
        sync_batchnorm: Whether several processes take mean and variance of a batch over all of them.
        find_unused_parameters: Whether several processes look for parameters that have no part in a loss, as
            ``strategy="ddp_find_unused_parameters_true"`` of Lightning's Trainer. Optimizers that are toggled need it.
        logger: A logger of Lightning's that runs beside Determined's, or a list of them.
        num_sanity_val_steps: Batches of each validation loader that are tried before training; -1 for all of them.
        min_epochs: Epochs before which nobody stops the training early.
        min_steps: Optimizer steps before which nobody stops the training early.
        default_root_dir: Where callbacks write files by default; the working directory if nothing is said.
        ckpt_path: A checkpoint of Lightning's to start from. A trial that continues after a pause goes on from its own.

    Attributes:
        context: Determined's trial context.
        controller: Determined's training loop.
        module: The user's module.
        datamodule: The data module, if there is one.
        trainer: What the module has as ``self.trainer``.

    Raises:
        ConfigurationError: If module, data or options cannot be trained.
        RefusedMemberError: If the module relies on a hook that Determined has no counterpart for.
    """

    trainer: TrainerFacade
    _tests_afterwards: ClassVar[bool] = False
    _hooks: Hooks
    _strategy: StrategyFacade
    _reports: Reports
    _training_loop: TrainingLoop
    _evaluation_loop: EvaluationLoop
    _callback: LightningCallback

    def __init__(
        self,
        context: pytorch.PyTorchTrialContext,
        module: Any = None,
        *,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        max_length: pytorch.TrainUnit | None = None,
        validation_period: pytorch.TrainUnit | None = None,
        reporting_period: pytorch.TrainUnit | None = None,
        precision: str | int = "32-true",
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
        callbacks: Any = None,
        limit_train_batches: int | float = 1.0,
        limit_val_batches: int | float = 1.0,
        overfit_batches: int | float = 0.0,
        reload_dataloaders_every_n_epochs: int = 0,
        use_distributed_sampler: bool = True,
        sync_batchnorm: bool = False,
        find_unused_parameters: bool = False,
        logger: Any = None,
        num_sanity_val_steps: int = 0,
        min_epochs: int | None = None,
        min_steps: int | None = None,
        default_root_dir: str | os.PathLike[str] | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
    ) -> None:
        if not is_patched():
            patch()
        verify_backend()
        repair_controller(registry, LightningTrial)
        self.context = context
        self.controller: Final = Controller()
        self._schedule: Final = Schedule(
            self.controller,
            max_length or experiment_length(context),
            validation_period,
            reporting_period,
        )
        self._ckpt_path: Final = ckpt_path
        self._validates_by_default: Final = validation_period is None
        if is_datamodule(train_dataloaders):
            # As Lightning's fit takes it.
            train_dataloaders, datamodule = None, train_dataloaders
        self._given: Final = (module, datamodule)
        self._processes: Final = Processes(context.distributed.rank, context.distributed.size)
        with self._processes:
            self.module, self.datamodule = self._build()
            self._lightning: Final = lightning_of(self.module)
            verify_module(self._lightning, self.module)
            verify_datamodule(self._lightning, self.datamodule, train_dataloaders, val_dataloaders)
            options = TrainerOptions.checked(
                self._lightning,
                accumulate_grad_batches=accumulate_grad_batches,
                gradient_clip_val=gradient_clip_val,
                gradient_clip_algorithm=gradient_clip_algorithm,
                limit_train_batches=limit_train_batches,
                limit_val_batches=limit_val_batches,
                overfit_batches=overfit_batches,
                reload_dataloaders_every_n_epochs=reload_dataloaders_every_n_epochs,
                use_distributed_sampler=use_distributed_sampler,
                sync_batchnorm=sync_batchnorm,
                find_unused_parameters=find_unused_parameters,
                num_sanity_val_steps=num_sanity_val_steps,
                min_epochs=min_epochs,
                min_steps=min_steps,
                default_root_dir=default_root_dir,
            )
            verify_manual_optimization(self.module, options)
            self._make_parts(
                options,
                Precision(precision, context.device),
                _as_list(logger),
                _as_list(callbacks),
                train_dataloaders,
                val_dataloaders,
            )
            context.experimental.disable_dataset_reproducibility_checks()
            context.experimental.disable_auto_to_device()
            with self._hooks.telling_of_errors():
                self.trainer.lightning_loggers.start()
                prepare_module(
                    self._lightning, context, self.module, self.datamodule, self._hooks, self._strategy, options
                )
                self.trainer.lightning_loggers.log_hyperparams(self.module, self.datamodule)

    def build_module(self) -> Any:
        """Gives the LightningModule; override it in a subclass.

        Returns:
            A LightningModule, or a class or function that is called with the hyperparameters.
        """
        module = self._given[0]
        if module is None and isinstance(self.context, pytorch.CheckpointLoadContext):
            raise CheckpointError(
                f"{caller_location()}: a checkpoint that fit has written does not say which module was trained. "
                "Load it as Lightning does, by LitModel.load_from_checkpoint(path + '/state_dict.pth'), or pass what "
                "fit was given: load_trial_from_checkpoint_path(path, trial_kwargs={'module': LitModel, ...})."
            )
        if module is None:
            raise ConfigurationError(
                f"{caller_location()}: there is no module. Pass one, or override build_module in a subclass of "
                "LightningTrial."
            )
        return module

    def build_datamodule(self) -> Any:
        """Gives the LightningDataModule, if there is one; override it in a subclass.

        Returns:
            A LightningDataModule, a class or function that is called with the hyperparameters, or None.
        """
        return self._given[1]

    @property
    def _hparams(self) -> dict[str, Any]:
        try:
            hparams: dict[str, Any] = self.context.get_hparams()
        except ValueError:
            return {}
        return hparams

    def _build(self) -> tuple[Any, Any]:
        builder = HyperparameterBuilder(self._hparams)
        built = []
        reads_by_itself = False
        # On a cluster a script may have read them by itself, and built objects of them.
        knows_who_takes_what = not is_on_cluster()
        for method in (self.build_module, self.build_datamodule):
            given = method()
            # A module is callable as well, but is no recipe for one.
            is_recipe = callable(given) and not isinstance(given, nn.Module)
            built.append(builder.build(given) if is_recipe else given)
            is_own_method = getattr(type(self), method.__name__) is not getattr(LightningTrial, method.__name__)
            knows_who_takes_what |= is_recipe
            reads_by_itself |= is_own_method and not is_recipe
        if knows_who_takes_what and not reads_by_itself:
            builder.warn_about_unused()
        return unwrapped(built[0]), built[1]

    def _make_trainer(self, *parts: Any) -> TrainerFacade:
        return TrainerFacade(*parts)

    def _make_parts(
        self,
        options: TrainerOptions,
        precision: Precision,
        loggers: list[Any],
        callbacks: list[Any],
        train_dataloaders: Any,
        val_dataloaders: Any,
    ) -> None:
        """Makes what the trial works with, and attaches the module."""
        lightning, context, module, datamodule = self._lightning, self.context, self.module, self.datamodule
        progress = Progress()
        strategy = self._strategy = StrategyFacade(lightning, context, precision)
        training_collector, validation_collector, returned_collector = (
            MetricCollector(
                training,
                lightning.extract_batch_size,
                self._names_of_submodules,
                strategy.reduce if strategy.world_size > 1 else None,
            )
            for training in (True, False, False)
        )
        returned_metrics = ReturnedMetrics(validation_collector, returned_collector)
        trainer = self.trainer = self._make_trainer(
            lightning,
            options,
            strategy,
            progress,
            LoggerFacade(lightning, context, strategy.is_global_zero),
            Loggers(lightning, loggers, progress),
            training_collector,
            validation_collector,
            self._schedule,
            self._ckpt_path,
        )
        trainer.attach(module, datamodule, callbacks)
        trainer.callbacks = usable_callbacks(lightning, trainer.callbacks)
        for callback in trainer.callbacks:
            # As Lightning's Trainer, so that callbacks log as the module does.
            callback.log, callback.log_dict = module.log, module.log_dict
        verify_members(module, datamodule, trainer.callbacks, self._tests_afterwards)
        outputs = TrainingOutputs()
        former_values: Values = {
            **strategy.former_values,
            "dataloader_idx": lambda args: 0,
            "outputs": lambda args: outputs.of_epoch(),
        }
        hooks = self._hooks = Hooks(lightning, trainer, module, datamodule, trainer.callbacks, former_values)
        outputs.is_needed = hooks.overridden("training_epoch_end") or hooks.takes_former_arguments("on_train_epoch_end")
        strategy.connect(module, hooks, (options.gradient_clip_val, options.gradient_clip_algorithm))
        train_source, val_source = (
            find_source(
                stage,
                given,
                lightning,
                module,
                datamodule,
                strategy.global_rank,
                strategy.world_size,
                options,
                progress,
            )
            for stage, given in (("train", train_dataloaders), ("val", val_dataloaders))
        )
        if not train_source.is_defined:
            owner = module if datamodule is None else datamodule
            raise ConfigurationError(
                f"{definition_location(type(owner))}: there is no training loader. Define train_dataloader there, or "
                "pass train_dataloaders to fit."
            )
        if train_source.is_switched_off:
            raise ConfigurationError(f"{caller_location()}: limit_train_batches=0 leaves nothing to train on.")
        has_validation_step = hooks.overridden("validation_step")
        validates = val_source.is_defined and has_validation_step and not val_source.is_switched_off
        warn_about_validation(val_source.is_defined, has_validation_step)
        transfer = BatchTransfer(lightning, module, datamodule, hooks, precision, strategy)
        self._reports = Reports(
            context,
            self.controller,
            trainer,
            progress,
            training_collector,
            returned_metrics,
            lambda: self._training_loop.accumulates_gradients,
        )
        optimization = FormerOptimization if needs_former_optimization(module) else Optimization
        self._training_loop = TrainingLoop(
            train_source,
            val_source,
            hooks,
            progress,
            optimization(module, strategy, hooks, progress, options.accumulate_grad_batches),
            training_collector,
            trainer.current_views,
            transfer,
            takes_batch_idx(module.training_step),
            self.controller,
            self._stops_at_once,
            self._reports.report_epoch,
            outputs,
        )
        self._evaluation_loop = EvaluationLoop(
            val_source,
            module,
            hooks,
            progress,
            strategy,
            validation_collector,
            returned_metrics,
            trainer.views,
            transfer,
            takes_batch_idx(module.validation_step),
            is_enabled=validates,
        )
        averaging = WeightAveragingState(lightning, module, trainer.callbacks, strategy)
        lightning_checkpoint = LightningCheckpoint(
            lightning, module, datamodule, trainer.callbacks, hooks, progress, strategy, averaging
        )
        trainer.connect(self._training_loop, self._evaluation_loop, lightning_checkpoint)
        attributes = OwnAttributes(lightning, module, datamodule, trainer, trainer.callbacks, strategy)
        checkpoint_state = CheckpointState(
            module,
            progress,
            self._training_loop,
            training_collector,
            trainer.views,
            averaging,
            attributes,
            functools.cache(lambda: may_change_optimization([module, datamodule, *trainer.callbacks])),
        )
        self._callback = LightningCallback(
            context,
            self.controller,
            trainer,
            hooks,
            self._training_loop,
            self._evaluation_loop,
            lightning_checkpoint,
            checkpoint_state,
            attributes,
            CheckpointFiles(lightning, trainer.callbacks, trainer.default_root_dir),
            self._reports,
            self._processes,
        )

    def _stops_at_once(self) -> bool:
        # Several processes agree first, when Determined reports: one that stopped alone would leave the others waiting.
        return self.trainer.stops_early and self.trainer.world_size == 1

    def _names_of_submodules(self) -> dict[int, str]:
        return {id(submodule): name for name, submodule in self.module.named_modules()}

    # What Determined asks of a trial.

    def build_training_data_loader(self) -> Any:
        """Gives Determined the batches of all epochs, and the number of batches of one."""
        batches = TrainingBatches(self._training_loop)
        warn_about_global_batch_size(self._hparams, self._training_loop.source, self._strategy.world_size)
        return batches

    def build_validation_data_loader(self) -> Any:
        """Gives Determined a loader that validates when iterated; the user's are asked for when training starts."""
        return ValidationLoader(lambda: self._evaluation_loop.run(only_one=self.controller.test_mode))

    def build_callbacks(self) -> dict[str, pytorch.PyTorchCallback]:
        """Gives Determined the callback through which its events arrive; a subclass may add its own."""
        return {CALLBACK_NAME: self._callback}

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        """Trains on a batch; metrics are reported by reducers, so that nothing is copied to the host for each batch."""
        self._training_loop.train_batch(batch)
        if self.trainer.should_stop and self._stops_at_once():
            self.controller.pause_after_this_batch(validates=batch is not SKIPPED and self._evaluation_loop.is_enabled)
        elif self.trainer.is_last_batch and self._validates_by_default and self.epoch_length is None:
            # Determined cannot know where such an epoch ends.
            self.controller.pause_after_this_batch(validates=self._evaluation_loop.is_enabled)
        return self._reports.end_batch()

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Does nothing: the batches have been evaluated when Determined gets here, and reducers report the metrics."""
        return {}

    def get_batch_length(self, batch: Any) -> int:
        """Tells the samples of a validation for Determined's log; it shows none of training."""
        return batch.samples if isinstance(batch, Validation) else 1

    def gather_checkpoint(self) -> None:
        """Collects the state of all processes, before the chief writes a checkpoint."""
        self._callback.on_checkpoint_gather()

    @property
    def has_taken_all_steps(self) -> bool:
        """Whether the training ends before its length has been trained."""
        return False

    # What the user may ask.

    @property
    def is_complete(self) -> bool:
        """Whether the training has ended; otherwise it is paused, and goes on in another process."""
        return self.controller.is_complete or self.context.get_stop_requested()

    @property
    def metrics(self) -> dict[str, float]:
        """The newest value of everything that was reported, by name."""
        return dict(self._reports.metrics)

    @property
    def checkpoint_path(self) -> pathlib.Path | str | None:
        """The folder of the newest checkpoint if it is on this machine, otherwise its UUID; None if there is none."""
        return self._callback.checkpoint_path

    @property
    def epoch_length(self) -> int | None:
        """The number of batches of a training epoch, or None if the loaders have no length."""
        with self._hooks.telling_of_errors():
            return self._training_loop.length

    def show_progress(self) -> None:
        """Shows a progress bar until :meth:`hide_progress` is called."""
        batches, epochs = self._schedule.batches_and_epochs
        if epochs is not None and self.epoch_length is not None:
            batches = epochs * self.epoch_length
        self._reports.show_progress(batches)

    def hide_progress(self) -> None:
        """Closes the progress bar if there is one."""
        self._reports.hide_progress()


def _as_list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


# Where users find it. Determined's load_trial_from_checkpoint_path drops the module that a trial's class names and
# imports it anew; this module would then be there twice, with another LightningTrial.
LightningTrial.__module__ = "lightning_shim"

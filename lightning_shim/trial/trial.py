"""LightningTrial: Determined's PyTorchTrial for any LightningModule."""

from __future__ import annotations

import inspect
import os
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from determined import pytorch
from torch import nn

from lightning_shim.compatibility.before_training import verify_datamodule, verify_manual_optimization, verify_module
from lightning_shim.compatibility.monitored_names import warn_of_names_never_logged
from lightning_shim.data.source import warn_about_global_batch_size
from lightning_shim.diagnostics.errors import CheckpointError, ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.diagnostics.writable import verify_writable
from lightning_shim.facade.trainer import TrainerFacade
from lightning_shim.loop.setup import configure_module, prepare_training
from lightning_shim.loop.training import SKIPPED, TrainingLoop
from lightning_shim.loop.validation import Validation, ValidationLoader
from lightning_shim.patching.determined_loop import repair_controller
from lightning_shim.patching.lightning_module import is_patched, patch, registry
from lightning_shim.session.hyperparameters import HyperparameterBuilder
from lightning_shim.session.options import DEFAULTS, TrainerOptions
from lightning_shim.session.schedule import Schedule
from lightning_shim.session.session import Session
from lightning_shim.trial.assembly import Given, TrialParts, assemble
from lightning_shim.trial.configuration import Configuration
from lightning_shim.trial.determined_callback import CALLBACK_NAME, LightningCallback
from lightning_shim.trial.journal import Journal
from lightning_shim.trial.processes import Processes
from lightning_shim.upstream.determined.context import (
    experiment_length,
    is_on_cluster,
    keep_checkpoints_in,
    settle_device,
    verify_backend,
)
from lightning_shim.upstream.determined.controller import Controller
from lightning_shim.upstream.determined.latest_checkpoint import name_of_latest_checkpoint
from lightning_shim.upstream.determined.tensorboard_writer import spare_imports
from lightning_shim.upstream.lightning import lightning_of, unwrapped
from lightning_shim.upstream.namespaces import derives_from

CHECKPOINTS: Final = "determined_checkpoints"
"""The folder of Determined's checkpoints in ``default_root_dir``, off-cluster.

Were it called as Determined's package, tools would take it for a package of the user's.
"""


class _TrainingBatches:
    """The training loader that Determined sees: it iterates it, and takes the length of an epoch from it."""

    def __init__(self, loop: TrainingLoop, controller: Controller) -> None:
        self._loop: Final = loop
        if loop.length_of_all_epochs is None and controller.counts_epochs:
            raise loop.source.request.error(
                "gave a loader without a length, so that Determined cannot count epochs. Give max_length and the "
                "periods as determined.pytorch.Batch(n), or give the loader a __len__."
            )

    def __iter__(self) -> Iterator[Any]:
        return self._loop.batches()

    def __len__(self) -> int:
        length = self._loop.length_of_all_epochs
        if length is None:
            # The error by which Determined recognises a loader without a length.
            raise TypeError("the training loaders have no length")
        return length


class LightningTrial(pytorch.PyTorchTrial):
    """A PyTorchTrial that trains an unchanged LightningModule.

    It can be given objects, or classes that it builds from the trial's hyperparameters. Or it can be subclassed with
    :meth:`build_module` and :meth:`build_datamodule`, for an entry point such as ``model_def:MyTrial``.

    Args:
        context: Determined's trial context.
        module: A LightningModule, or a class or function that returns one. Its parameters are hyperparameters by name.
        train_dataloaders: A loader, or a list or dictionary of loaders.
        val_dataloaders: A loader or a list of loaders.
        datamodule: A LightningDataModule, or a class or function that returns one, like ``module``.
        max_length: The length that Determined will train for, for ``trainer.max_epochs``, ``trainer.max_steps`` and
            ``trainer.estimated_stepping_batches``; by default the length in the experiment's configuration.
        validation_period: The period at which Determined will validate, for ``trainer.val_check_interval`` and
            ``trainer.check_val_every_n_epoch``; by default each epoch.
        reporting_period: The period at which Determined will report, for ``trainer.log_every_n_steps``; by default
            Determined's own.
        callbacks: A Lightning callback, or a list of them.
        logger: A logger of Lightning's that runs beside Determined's, or a list of them.
        ckpt_path: A checkpoint of Lightning's to start from. A trial that continues after a pause goes on from its own.
        latest_checkpoint: What Determined's ``Trainer.fit`` will be given, by default what the cluster says: the trial
            loads it before it makes its optimizers.
        **options: The options of :class:`~lightning_shim.session.options.TrainerOptions`, such as ``precision``.

    Attributes:
        context: Determined's trial context.
        controller: Determined's training loop.
        module: The user's module.
        datamodule: The data module, or None.
        trainer: The module's ``self.trainer``.

    Raises:
        ConfigurationError: If module, data or options cannot be used for training.
        RefusedMemberError: If the module overrides a hook that is refused.
    """

    trainer: TrainerFacade
    was_made: ClassVar[bool] = False
    """Whether this process has made a trial."""
    _script_trainer: Any = None

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
        callbacks: Any = None,
        logger: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        latest_checkpoint: str | None = None,
        **options: Any,
    ) -> None:
        if not is_patched():
            patch()
        verify_backend()
        configuration = Configuration.of_experiment()
        configuration.warn_of_what_has_no_effect()
        ckpt_path = configuration.settle("ckpt_path", ckpt_path, None)
        repair_controller(registry, LightningTrial)
        # Before anything draws random numbers, which the module may do on the current device.
        settle_device(context)
        spare_imports(context)
        self.context = context
        LightningTrial.was_made = True
        self.controller: Final = Controller()
        schedule = Schedule(
            self.controller, max_length or _length_asked_for(context), validation_period, reporting_period
        )
        self._validates_by_default: Final = validation_period is None
        if derives_from(train_dataloaders, "LightningDataModule"):
            # Lightning's fit accepts a data module in this place too.
            train_dataloaders, datamodule = None, train_dataloaders
        self._given: Final = (module, datamodule)
        processes = Processes(context.distributed.rank, context.distributed.size)
        # Whatever fails from here on may fail on this process alone.
        with processes:
            self.module, self.datamodule = self._build()
            lightning = lightning_of(self.module)
            verify_module(lightning, self.module)
            if "_hparams" in vars(self.module):
                # Asking a module that has saved none would give it some, and its copies too.
                lightning.clean_namespace(self.module.hparams)
            verify_datamodule(lightning, self.datamodule, train_dataloaders, val_dataloaders)
            checked = TrainerOptions.checked(lightning, **options)
            verify_manual_optimization(self.module, checked)
            self._session: Final = Session(
                lightning,
                context,
                self.controller,
                schedule,
                checked,
                self.module,
                self.datamodule,
                ckpt_path,
                latest_checkpoint or name_of_latest_checkpoint(context),
                self._script_trainer,
            )
            given = Given(train_dataloaders, val_dataloaders, _as_list(callbacks), _as_list(logger))
            self._parts: Final = assemble(self._session, given, processes, self._make_trainer)
            self.trainer = self._parts.trainer
            self._callback: Final = LightningCallback(self._parts)
            # The user's loaders are used as they are, and the module's own hooks move batches to the device.
            context.experimental.disable_dataset_reproducibility_checks()
            context.experimental.disable_auto_to_device()
            if self.writes_checkpoints and not is_on_cluster():
                self._keep_checkpoints_below(self.trainer.default_root_dir)
            with self._parts.runtime.hooks.telling_of_errors():
                self.trainer.lightning_loggers.start()
                configure_module(self._parts.runtime)
                self._parts.starting_checkpoint.restore_module()
                self._parts.kept_files.verify_folders()
                prepare_training(self._parts.runtime)
                self.trainer.lightning_loggers.log_hyperparams(self.module, self.datamodule)
                self._parts.starting_checkpoint.restore_training_state()
            warn_of_names_never_logged(
                lightning,
                self.module,
                [*self._session.callbacks, self.datamodule],
                _monitors(self._parts),
                configuration.searcher_metric,
            )

    def build_module(self) -> Any:
        """Returns the LightningModule; override it in a subclass.

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
        """Returns the LightningDataModule, if there is one; override it in a subclass.

        Returns:
            A LightningDataModule, a class or function that is called with the hyperparameters, or None.
        """
        return self._given[1]

    @property
    def _hparams(self) -> dict[str, Any]:
        try:
            hparams: dict[str, Any] = self.context.get_hparams()
        except ValueError:
            # Determined's context has none if it was initialized without.
            return {}
        return hparams

    def _build(self) -> tuple[Any, Any]:
        builder = HyperparameterBuilder(self._hparams)
        built = []
        reads_by_itself = False
        # On a cluster a script may have read the hyperparameters itself and passed objects, which needs no warning.
        knows_who_takes_what = not is_on_cluster()
        for method in (self.build_module, self.build_datamodule):
            given = method()
            # A module is callable too, but must not be called to build one.
            is_recipe = callable(given) and not isinstance(given, nn.Module)
            built.append(builder.build(given) if is_recipe else given)
            is_own_method = getattr(type(self), method.__name__) is not getattr(LightningTrial, method.__name__)
            knows_who_takes_what |= is_recipe
            reads_by_itself |= is_own_method and not is_recipe
        if knows_who_takes_what and not reads_by_itself:
            builder.warn_about_unused()
        return unwrapped(built[0]), built[1]

    def _keep_checkpoints_below(self, folder: str) -> None:
        if "://" in folder:
            # Determined writes to disks alone; it has a folder of its own.
            return
        verify_writable(folder, "fit(default_root_dir=...)")
        keep_checkpoints_in(self.context, os.path.join(os.path.abspath(folder), CHECKPOINTS))

    def _make_trainer(self, *parts: Any) -> TrainerFacade:
        return TrainerFacade(*parts)

    # Determined's interface of a trial.

    def build_training_data_loader(self) -> Any:
        """Returns a loader of the batches of all epochs, whose length is that of one epoch."""
        self._callback.before_training_loaders()
        batches = _TrainingBatches(self._parts.training_loop, self.controller)
        warn_about_global_batch_size(self._hparams, self._parts.training_loop.source, self._session.world_size)
        return batches

    def build_validation_data_loader(self) -> Any:
        """Returns a loader that runs a whole validation when Determined iterates it."""
        # The user's own loaders are requested later, when training starts, as Lightning does.
        return ValidationLoader(lambda: self._parts.evaluation_loop.run(only_one=self.controller.test_mode))

    def build_callbacks(self) -> dict[str, pytorch.PyTorchCallback]:
        """Returns the callback that receives Determined's events; a subclass may add its own."""
        return {CALLBACK_NAME: self._callback}

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        """Trains on a batch; metrics are reported by reducers, so that nothing is copied to the host for each batch."""
        outputs = self._parts.training_loop.train_batch(batch)
        if self._session.should_stop and self._session.stops_at_once:
            self.controller.pause_after_this_batch(
                validates=batch is not SKIPPED
                and self._session.validates_early
                and self._parts.evaluation_loop.is_enabled
            )
        elif self.trainer.is_last_batch and self._validates_epochs_itself:
            self.controller.pause_after_this_batch(validates=self._parts.evaluation_loop.is_enabled)
        return self._parts.reports.end_batch(outputs, is_trained=batch is not SKIPPED)

    @property
    def _validates_epochs_itself(self) -> bool:
        """Whether the epoch that ends is validated, and Determined's period of validations does not say so."""
        if self.epoch_length is None and self._validates_by_default:
            # Without a length, Determined cannot know where the epoch ends.
            return True
        # As in Lightning, if its step takes the batches: besides those of a period in batches.
        is_in_batches = isinstance(self.controller.validation_period, pytorch.Batch)
        is_taken_by_steps = self._parts.training_loop.source.is_taken_by_steps
        return is_in_batches and is_taken_by_steps and self._session.progress.batch_end_is_due

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Does nothing: the loader has run the validation already, and reducers report the metrics."""
        return {}

    def get_batch_length(self, batch: Any) -> int:
        """Returns the batches of a validation for Determined's log, which shows none of training."""
        return batch.batches if isinstance(batch, Validation) else 1

    def gather_checkpoint(self) -> None:
        """Collects the state of all processes before the chief writes a checkpoint."""
        self._callback.on_checkpoint_gather()

    def after_validation(self) -> None:
        """Looks whether the search has stopped the trial, after a validation has been reported."""
        self._callback.on_validation_report()

    @property
    def writes_checkpoints(self) -> bool:
        """Whether Determined writes checkpoints."""
        return self._session.writes_checkpoints

    @property
    def is_over(self) -> bool | None:
        """Whether the training has ended; None where the length that Determined was given says so."""
        return None

    @property
    def validation_is_due(self) -> bool | None:
        """Whether to validate after the batch trained last; None where Determined's period of validations says so."""
        return None

    # The user's interface.

    @property
    def is_complete(self) -> bool:
        """Whether the training has ended; otherwise it is paused, and will continue in another process."""
        return self.controller.is_complete or self.context.get_stop_requested()

    @property
    def metrics(self) -> dict[str, float]:
        """The newest value of each reported metric, by name."""
        return dict(self._parts.reports.metrics)

    @property
    def checkpoint_path(self) -> pathlib.Path | str | None:
        """The folder of the newest checkpoint, or its UUID if it is not on this machine, or None."""
        return self._callback.checkpoint_path

    @property
    def newest_checkpoint(self) -> pathlib.Path | str | None:
        """The newest of Determined's checkpoints, as :attr:`checkpoint_path`, or else of Lightning's callbacks."""
        return self.checkpoint_path or self._parts.kept_files.newest()

    @property
    def journal(self) -> Journal:
        """Where it is written what happens."""
        return self._parts.journal

    @property
    def epoch_length(self) -> int | None:
        """The number of batches of a training epoch, or None if the loaders have no length."""
        try:
            self._callback.before_training_loaders()
            return self._parts.training_loop.length
        except BaseException:
            # Determined's loop, which would do it, has not begun.
            if not self.controller.is_connected:
                self._callback.on_trial_shutdown()
            raise

    def keep_newest_checkpoint_only(self) -> None:
        """Has each checkpoint of this training replace the one before it."""
        self._callback.keeps_newest_only = True

    def show_progress(self) -> None:
        """Shows a progress bar until :meth:`hide_progress` is called."""
        self._parts.reports.show_progress()

    def hide_progress(self) -> None:
        """Closes the progress bar, if there is one."""
        self._parts.reports.hide_progress()


def _length_asked_for(context: pytorch.PyTorchTrialContext) -> pytorch.TrainUnit | None:
    try:
        return experiment_length(context.get_experiment_config())[2]
    except ValueError:
        # Off-cluster there may be no configuration.
        return None


def _monitors(parts: TrialParts) -> list[tuple[str, str]]:
    """Returns who monitors a metric, in words, and the metric's name."""
    callbacks = [(type(each).__qualname__, getattr(each, "monitor", None)) for each in parts.session.callbacks]
    configs = [config for config in parts.runtime.strategy.lr_scheduler_configs if config.reduce_on_plateau]
    schedulers = [(type(config.scheduler).__qualname__, config.monitor) for config in configs]
    return [(who, name) for who, name in (*callbacks, *schedulers) if isinstance(name, str)]


def _as_list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


# The public module. Determined's load_trial_from_checkpoint_path removes the module that a trial's class names from
# sys.modules and imports it again. With this module's own name there would then be two LightningTrial classes.
LightningTrial.__module__ = "lightning_shim"

_SIGNATURE: Final = inspect.signature(LightningTrial.__init__)
# **options replaced by the options' names and defaults, for help() and for fit's list of options.
LightningTrial.__signature__ = _SIGNATURE.replace(  # type: ignore[attr-defined]
    parameters=[
        *list(_SIGNATURE.parameters.values())[1:-1],
        *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS[name]) for name in DEFAULTS),
    ]
)

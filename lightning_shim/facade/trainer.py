"""What ``self.trainer`` is on Determined: Lightning's attributes, each answered from the trial; none of them lies.

Attributes that are not here come from the table: what is refused raises, what is ignored warns and is None, and what
Lightning does not have raises ``AttributeError``, so that ``hasattr`` works.
"""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from determined import pytorch

from lightning_shim.checkpoint.lightning_format import LightningCheckpoint, loops_state
from lightning_shim.compatibility.before_training import no_accumulation
from lightning_shim.diagnostics.errors import IgnoredMemberWarning, RefusedMemberError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.facade.logger import LoggerFacade
from lightning_shim.facade.loops import FitLoopFacade, LoggerConnectorFacade
from lightning_shim.facade.progress_bar import ProgressBar
from lightning_shim.lightning1.attributes import OF_TRAINER, FormerAttributes
from lightning_shim.loop.precision import Precision
from lightning_shim.loop.strategy import StrategyFacade
from lightning_shim.loop.training import TrainingLoop
from lightning_shim.loop.transfer import hook_owner
from lightning_shim.loop.validation import EvaluationLoop
from lightning_shim.members.member import Support
from lightning_shim.members.query import find
from lightning_shim.metrics.collector import MetricCollector, MetricViews
from lightning_shim.metrics.lightning_loggers import Loggers
from lightning_shim.patching.attachment import FIXED, FIXED_SENTENCE, Attached
from lightning_shim.session.options import TrainerOptions, verify_option
from lightning_shim.session.progress import Progress
from lightning_shim.session.schedule import Schedule
from lightning_shim.upstream.lightning import Lightning


class TrainerFacade(Attached):
    """Lightning's ``Trainer`` for an attached module.

    Args:
        lightning: The module's Lightning.
        options: The trial's options.
        strategy: Devices, processes and optimizers.
        progress: Where training stands.
        logger: The logger facade.
        loggers: Lightning's own loggers that run beside it.
        training_collector: Keeps what is logged in training.
        validation_collector: Keeps what is logged in validation.
        schedule: How long Determined trains, and how often it validates and reports.
        ckpt_path: A checkpoint of Lightning's that the trial starts from, or None.

    Attributes:
        collector: Keeps what the module logs in the present stage.
        state: Lightning's ``TrainerState``.
        datamodule: The LightningDataModule, if there is one.
        callbacks: The Lightning callbacks.
        should_stop: Whether somebody has asked to stop; the trial then stops through Determined.
        progress_bar: The bar that :meth:`print` must not tear, if one is shown.
    """

    # What Lightning's Trainer answers when these options are left alone, as they are on Determined.
    testing: Final = False
    predicting: Final = False
    barebones: Final = False
    progress_bar_callback: Final = None
    received_sigterm: Final = False
    interrupted: Final = False

    def __init__(
        self,
        lightning: Lightning,
        options: TrainerOptions,
        strategy: StrategyFacade,
        progress: Progress,
        logger: LoggerFacade,
        loggers: Loggers,
        training_collector: MetricCollector,
        validation_collector: MetricCollector,
        schedule: Schedule,
        ckpt_path: str | os.PathLike[str] | None,
    ) -> None:
        self._lightning: Final = lightning
        self._options: Final = options
        self._progress: Final = progress
        self._collectors: Final = {True: training_collector, False: validation_collector}
        self.collector = training_collector
        self._schedule: Final = schedule
        self._ckpt_path: Final = ckpt_path
        self.should_stop = False
        self._fit_loop: FitLoopFacade | None = None
        self._logging: LoggerConnectorFacade | None = None
        self._lightning_checkpoint: LightningCheckpoint | None = None
        self._loops: tuple[TrainingLoop, EvaluationLoop] | None = None
        self.views: Final = MetricViews()
        self.strategy: Final = strategy
        self.lightning_loggers: Final = loggers
        self._loggers: Final = [*loggers.loggers, logger]
        self.logger: Any = self._loggers[0]
        self.profiler: Any = lightning.PassThroughProfiler()
        self._former_attributes: Final = FormerAttributes()
        self.datamodule: Any = None
        self.callbacks: list[Any] = []
        self.progress_bar: ProgressBar | None = None
        # What Lightning's own methods of the module ask when they run an example through the transfer hooks.
        self._data_connector = self
        self._datahook_selector = self
        self.state: Any = lightning.TrainerState(
            status=lightning.TrainerStatus.RUNNING,
            fn=lightning.TrainerFn.FITTING,
            stage=lightning.RunningStage.TRAINING,
        )

    def __getattr__(self, name: str) -> Any:
        if hasattr(type(self), name):
            # A property has raised AttributeError, perhaps in the user's own code: raise that one.
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

    def get_instance(self, hook_name: str) -> Any:
        """Tells whose transfer hook counts: the data module's or the module's.

        Args:
            hook_name: The hook's name.
        """
        return hook_owner(self._lightning, hook_name, self.lightning_module, self.datamodule)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIXED:
            raise RefusedMemberError(f"{caller_location()}: trainer.{name} is refused: {FIXED_SENTENCE}")
        object.__setattr__(self, name, value)

    # What the trial does with the facade.

    def attach(self, module: Any, datamodule: Any, callbacks: list[Any]) -> None:
        """Becomes the trainer of a module and its data module, and collects the callbacks.

        Args:
            module: The LightningModule; what its ``configure_callbacks`` returns replaces callbacks of the same type.
            datamodule: The LightningDataModule, if there is one.
            callbacks: The callbacks that were passed.
        """
        module.trainer = self
        if datamodule is not None:
            datamodule.trainer = self
            self.datamodule = datamodule
        for submodule in module.modules():
            if isinstance(submodule, self._lightning.LightningModule):
                self._former_attributes.give(submodule, self)
        own = module.configure_callbacks() or []
        own = list(own) if isinstance(own, (list, tuple)) else [own]
        replaced = {type(callback) for callback in own}
        merged = [callback for callback in callbacks if type(callback) not in replaced] + own
        # As in Lightning, so that a checkpoint has what the other callbacks have made of their states.
        self.callbacks = sorted(merged, key=lambda callback: isinstance(callback, self._lightning.Checkpoint))

    def connect(
        self, training_loop: TrainingLoop, evaluation_loop: EvaluationLoop, lightning_checkpoint: LightningCheckpoint
    ) -> None:
        """Takes the loops, which know the loaders, and what makes a checkpoint of Lightning's."""
        self._lightning_checkpoint = lightning_checkpoint
        self._loops = (training_loop, evaluation_loop)
        self._fit_loop = FitLoopFacade(self, self._progress, self._schedule, training_loop, evaluation_loop)
        self._logging = LoggerConnectorFacade(self, self._progress, evaluation_loop)

    def enter_stage(self, training: bool) -> None:
        """Says which stage runs.

        Args:
            training: Whether it is training; otherwise it is validation.
        """
        stages = self._lightning.RunningStage
        self.state.stage = stages.TRAINING if training else stages.VALIDATING
        self.collector = self._collectors[training]

    def enter_sanity_check(self) -> None:
        """Says that batches of the validation are tried."""
        self.state.stage = self._lightning.RunningStage.SANITY_CHECKING
        self.collector = self._collectors[False]

    def loops_state(self) -> dict[str, Any]:
        """Says how far the training is, as Lightning's loops do."""
        return loops_state(self._progress)

    def isolated_random_numbers(self) -> AbstractContextManager[None]:
        """Gives back the random state after a block, as Lightning does after the sanity check."""
        return self._lightning.isolate_rng()

    def forget_sanity_check(self) -> None:
        """Goes on with the training as if nothing had been validated."""
        self._progress.has_validated = False
        for view in MetricViews.__slots__:
            getattr(self.views, view).clear()
        self.enter_stage(training=True)

    def finish(self) -> None:
        """Says that the trial has ended."""
        self.state.status = self._lightning.TrainerStatus.FINISHED
        self.state.stage = None

    def release(self) -> None:
        """Takes from the modules what only an attached one has."""
        self._former_attributes.take_back()

    def current_views(self) -> MetricViews:
        """Returns what may be seen of the metrics at this moment."""
        self.views.update(self.collector.current())
        return self.views

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints on rank 0, above the progress bar if there is one.

        Args:
            *args: As for :func:`print`.
            **kwargs: As for :func:`print`.
        """
        if not self.is_global_zero:
            return
        if self.progress_bar is None:
            print(*args, **kwargs)
        else:
            self.progress_bar.print(*args, **kwargs)

    def save_checkpoint(
        self, filepath: str | os.PathLike[str], weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Writes a checkpoint of Lightning's beside those of Determined; all processes have to call it.

        Args:
            filepath: The file, or a URL that fsspec knows.
            weights_only: Whether to leave out what is needed to go on training.
            storage_options: As in Lightning.
        """
        assert self._lightning_checkpoint is not None
        checkpoint = self._lightning_checkpoint.dump(bool(weights_only))
        self.strategy.save_checkpoint(checkpoint, filepath, storage_options=storage_options)
        self.strategy.barrier("Trainer.save_checkpoint")

    # Progress.

    @property
    def current_epoch(self) -> int:
        """The number of epochs that have ended."""
        return self._progress.current_epoch

    @property
    def global_step(self) -> int:
        """The number of optimizer steps; a module that switches has a count for each kind of optimization."""
        module = self.lightning_module
        is_automatic = module is None or module.automatic_optimization
        return self._progress.automatic_steps if is_automatic else self._progress.manual_steps

    @property
    def is_last_batch(self) -> bool:
        """Whether the present training batch is the last one of its epoch."""
        return self._progress.is_last_batch

    @property
    def training(self) -> bool:
        """Whether training runs."""
        return bool(self.state.stage == self._lightning.RunningStage.TRAINING)

    @property
    def sanity_checking(self) -> bool:
        """Whether batches of the validation are tried before training."""
        return bool(self.state.stage == self._lightning.RunningStage.SANITY_CHECKING)

    @property
    def num_sanity_val_steps(self) -> int | float:
        """Batches of each validation loader that are tried before training."""
        steps = self._options.num_sanity_val_steps
        return float("inf") if steps == -1 else steps

    @property
    def validating(self) -> bool:
        """Whether validation runs."""
        return bool(self.state.stage == self._lightning.RunningStage.VALIDATING)

    @property
    def evaluating(self) -> bool:
        """Whether validation runs, or is tried."""
        return self.validating or self.sanity_checking

    @property
    def fast_dev_run(self) -> int | bool:
        """False, since a trial has no such mode; a script's trial has that of its Trainer."""
        return False

    # The length.

    @property
    def max_epochs(self) -> int:
        """Epochs to train for; -1 if the length is given in batches, as in Lightning if only ``max_steps`` is."""
        _, epochs = self._schedule.batches_and_epochs
        return -1 if epochs is None else epochs

    @property
    def max_steps(self) -> int:
        """Optimizer steps to train for; -1 if the length is given in epochs."""
        batches, _ = self._schedule.batches_and_epochs
        if batches is None:
            return -1
        # Of the option: what callbacks make of it from epoch to epoch is not known before.
        accumulate = self._options.accumulate_grad_batches
        if accumulate == 1:
            return batches
        if self.num_training_batches == float("inf"):
            return batches // accumulate
        epochs, rest = divmod(batches, int(self.num_training_batches))
        return epochs * self._steps_of_an_epoch(accumulate) + rest // accumulate

    @property
    def estimated_stepping_batches(self) -> int | float:
        """The number of optimizer steps of the whole training, from the length and the loaders."""
        assert self._loops is not None
        if self.max_epochs == -1 and self._options.accumulate_grad_batches == 1:
            # As in Lightning, which asks for the loaders only if the number depends on them.
            return self.max_steps
        self._loops[0].set_up()
        if self.max_epochs == -1 or self.num_training_batches == float("inf"):
            return self.max_steps
        return self._steps_of_an_epoch(self.accumulate_grad_batches) * self.max_epochs

    def _steps_of_an_epoch(self, accumulate_grad_batches: int) -> int:
        return math.ceil(self.num_training_batches / accumulate_grad_batches)

    @property
    def val_check_interval(self) -> Any:
        """Batches between two validations if the period is given in batches, otherwise 1.0: whole epochs."""
        period = self._schedule.validation_period
        return period.value if isinstance(period, pytorch.Batch) else 1.0

    @property
    def check_val_every_n_epoch(self) -> Any:
        """Epochs between two validations; None if the period is given in batches."""
        period = self._schedule.validation_period
        return period.value if isinstance(period, pytorch.Epoch) else None

    @property
    def val_check_batch(self) -> Any:
        """Batches between two validations, of an epoch or, if ``check_val_every_n_epoch`` is None, of all epochs.

        As in Lightning it is None before the loaders are asked for.
        """
        assert self._loops is not None
        if not self._loops[0].source.is_set_up:
            return None
        interval = self.val_check_interval
        if not isinstance(interval, float):
            return interval
        batches = self.num_training_batches
        return math.inf if batches == math.inf else max(1, int(batches * interval))

    @property
    def min_epochs(self) -> int:
        """Epochs before which nobody stops the training early; as in Lightning one if there is a least of steps."""
        epochs, steps = self._options.min_epochs, self._options.min_steps
        return epochs if epochs is not None else 0 if steps is None else 1

    @property
    def min_steps(self) -> int | None:
        """Optimizer steps before which nobody stops the training early."""
        return self._options.min_steps

    @property
    def stops_early(self) -> bool:
        """Whether somebody has asked to stop, and the training has been as long as it has to be."""
        if not self.should_stop:
            return False
        progress = self._progress
        # As in Lightning, an epoch counts when its last batch has been trained.
        epochs = progress.current_epoch + (progress.epoch_is_running and progress.is_last_batch)
        return epochs >= self.min_epochs and self.global_step >= (self.min_steps or 0)

    # Data.

    @property
    def ckpt_path(self) -> str | os.PathLike[str] | None:
        """The checkpoint of Lightning's that the trial was told to start from."""
        return self._ckpt_path

    @property
    def fit_loop(self) -> FitLoopFacade:
        """The few things that modules read from Lightning's loops."""
        assert self._fit_loop is not None
        return self._fit_loop

    @property
    def _logger_connector(self) -> LoggerConnectorFacade:
        """Says when callbacks log, by the private name that those of Lightning ask."""
        assert self._logging is not None
        return self._logging

    @property
    def num_training_batches(self) -> int | float:
        """The number of batches of an epoch; infinite if the loaders have no length, or before they are asked for."""
        assert self._loops is not None
        return self._loops[0].max_batches

    @property
    def num_val_batches(self) -> list[int | float]:
        """The number of batches of each validation loader."""
        assert self._loops is not None
        loop = self._loops[1]
        return loop.source.num_batches if loop.source.is_set_up else []

    @property
    def num_sanity_val_batches(self) -> list[int | float]:
        """The number of batches of each validation loader that are tried before training."""
        return [min(self.num_sanity_val_steps, batches) for batches in self.num_val_batches]

    @property
    def train_dataloader(self) -> Any:
        """The user's training loader or loaders, once they have been asked for."""
        assert self._loops is not None
        return self._loops[0].source.loaders

    @property
    def val_dataloaders(self) -> Any:
        """The user's validation loader or loaders, once they have been asked for."""
        assert self._loops is not None
        return self._loops[1].source.loaders

    @property
    def enable_validation(self) -> bool:
        """Whether there is anything to validate."""
        assert self._loops is not None
        return self._loops[1].is_enabled

    # Options.

    @property
    def accumulate_grad_batches(self) -> int:
        """Batches whose gradients are added up before a step; callbacks may set it for those to come."""
        if self._loops is None:
            return self._options.accumulate_grad_batches
        return self._loops[0].optimization.accumulate_grad_batches

    @accumulate_grad_batches.setter
    def accumulate_grad_batches(self, batches: int) -> None:
        assert self._loops is not None
        verify_option("accumulate_grad_batches", batches)
        optimization, module = self._loops[0].optimization, self.lightning_module
        # Whoever skips backward, as StochasticWeightAveraging does for an epoch, has nothing to accumulate.
        if batches > 1 and not (module.automatic_optimization or optimization.skips_backward):
            raise no_accumulation(module, batches)
        optimization.accumulate_grad_batches = batches

    @property
    def gradient_clip_val(self) -> float | None:
        """The largest norm, or value, of the gradients."""
        return self._options.gradient_clip_val

    @property
    def gradient_clip_algorithm(self) -> Any:
        """Lightning's ``GradClipAlgorithmType``, or None."""
        return self._options.gradient_clip_algorithm

    @property
    def limit_train_batches(self) -> int | float:
        """Batches of a training epoch, or the fraction of them."""
        return self._options.limit_train_batches

    @property
    def reload_dataloaders_every_n_epochs(self) -> int:
        """Epochs after which the loaders are asked for anew; 0 for never."""
        return self._options.reload_dataloaders_every_n_epochs

    @property
    def limit_val_batches(self) -> int | float:
        """Batches of each validation loader, or the fraction of them."""
        return self._options.limit_val_batches

    @property
    def overfit_batches(self) -> int | float:
        """Batches, or the fraction of them, that are trained and validated on in each epoch; 0 for all."""
        return self._options.overfit_batches

    @property
    def log_every_n_steps(self) -> int:
        """Batches between two reports of step values."""
        period = self._schedule.reporting_period
        if not isinstance(period.value, int):
            return 1
        return int(period.value if isinstance(period, pytorch.Batch) else period.value * self.num_training_batches)

    # Optimizers, model and devices.

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers."""
        return self.strategy.optimizers

    @property
    def lr_scheduler_configs(self) -> list[Any]:
        """The schedulers, each with when it is stepped."""
        return self.strategy.lr_scheduler_configs

    @property
    def lightning_module(self) -> Any:
        """The user's module."""
        return self.strategy.lightning_module

    @property
    def model(self) -> Any:
        """The user's module; Lightning's default hooks switch its mode."""
        return self.strategy.lightning_module

    @property
    def precision_plugin(self) -> Precision:
        """What converts, scales and clips."""
        return self.strategy.precision_plugin

    @property
    def precision(self) -> str:
        """Lightning's name of the precision."""
        return self.precision_plugin.name

    @property
    def scaler(self) -> Any:
        """The gradient scaler, if there is one."""
        return self.precision_plugin.scaler

    @property
    def accelerator(self) -> Any:
        """Lightning's accelerator for the device of this process, which knows the device's statistics."""
        return self._lightning.accelerators[self.strategy.root_device.type]()

    @property
    def world_size(self) -> int:
        """The number of processes that train together."""
        return self.strategy.world_size

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return self.strategy.num_nodes

    @property
    def num_devices(self) -> int:
        """The number of devices on this node, one for each process."""
        return self.world_size // self.num_nodes

    @property
    def device_ids(self) -> list[int]:
        """The indices of the devices on this node."""
        return list(range(self.num_devices))

    @property
    def global_rank(self) -> int:
        """The index of this process among all."""
        return self.strategy.global_rank

    @property
    def local_rank(self) -> int:
        """The index of this process on its node."""
        return self.strategy.local_rank

    @property
    def node_rank(self) -> int:
        """The index of this node."""
        return self.strategy.node_rank

    @property
    def is_global_zero(self) -> bool:
        """Whether this process is the one that reports."""
        return self.strategy.is_global_zero

    # Metrics and files.

    @property
    def callback_metrics(self) -> dict[str, torch.Tensor]:
        """The metrics that callbacks may follow."""
        return self.current_views().callback

    @property
    def logged_metrics(self) -> dict[str, torch.Tensor]:
        """The metrics that loggers get."""
        return self.current_views().logged

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """The metrics logged with ``prog_bar=True``, as numbers."""
        return {name: float(value) for name, value in self.current_views().progress_bar.items()}

    @property
    def loggers(self) -> list[Any]:
        """Lightning's own loggers, if there are some, and the stand-in; what was set as the logger instead of them."""
        if self.logger is self._loggers[0]:
            return list(self._loggers)
        return [] if self.logger is None else [self.logger]

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
    def default_root_dir(self) -> str:
        """The folder that was given, or the working directory, as in Lightning."""
        given = self._options.default_root_dir
        return os.getcwd() if given is None else os.path.normpath(os.path.expanduser(given))

    @property
    def checkpoint_callback(self) -> Any:
        """The first callback that writes checkpoints of Lightning's, or None."""
        return next(iter(self.checkpoint_callbacks), None)

    @property
    def checkpoint_callbacks(self) -> list[Any]:
        """The callbacks that write checkpoints of Lightning's."""
        return [callback for callback in self.callbacks if isinstance(callback, self._lightning.Checkpoint)]

    @property
    def early_stopping_callback(self) -> Any:
        """The first callback that stops early, or None."""
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def early_stopping_callbacks(self) -> list[Any]:
        """The callbacks that stop early."""
        return [callback for callback in self.callbacks if isinstance(callback, self._lightning.EarlyStopping)]

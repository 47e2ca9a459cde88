"""All that is needed of Lightning, public or private, in one place and for either namespace.

The private names that this package relies on are named here, in :mod:`lightning_shim.patching.attachment` and in
:mod:`lightning_shim.checkpoint.weight_averaging`:

- ``HyperparametersMixin._hparams_name``: what ``load_from_checkpoint`` looks for in a checkpoint.
- ``_DeviceDtypeModuleMixin._device``: what ``self.device`` answers before the module is moved.
- ``utilities.compile.from_compiled``, and PyTorch's ``OptimizedModule._orig_mod``.
- ``CombinedLoader._mode``: how it combines; its ``_iterator`` and the ``iterators`` of that, one for each loader.
- The state of the loops in a checkpoint: what :func:`loops_state` writes and :func:`progress_of_loops` reads.
- ``LightningOptimizer._to_lightning_optimizer``, ``_on_after_step``: what ``self.optimizers()`` returns, and how manual
  optimization counts steps. Its public ``toggle_model`` asks the private ``_block_parallel_sync_behavior``, which knows
  Lightning's own strategies only.
- ``overrides.distributed.prepare_for_backward``, which has no underscore, but is not documented.
- ``LightningModule._on_before_batch_transfer``, ``_apply_batch_transfer_handler``: take an example through the hooks.
- ``trainer.connectors.data_connector._replace_dunder_methods``, ``_get_distributed_sampler``, and
  ``utilities.data._update_dataloader``, ``_is_dataloader_shuffled``: how loaders are shared by several processes.
- ``DistributedSamplerWrapper.dataset``, and the ``_sampler`` of that: the sampler whose indices it shares out.
- ``core.mixins.hparams_mixin._given_hyperparameters``: what LightningCLI has ``save_hyperparameters`` save.
- ``core.optimizer._MockOptimizer``: what hooks and ``self.optimizers()`` get if ``configure_optimizers`` returns None.
"""

from __future__ import annotations

from typing import Any

from lightning_shim.upstream.lightning import _parts
from lightning_shim.upstream.namespaces import namespace_of


def resolved_checkpoint(trainer: Any, ckpt_path: Any) -> Any:
    """Returns the file that ``Trainer.fit(ckpt_path=...)`` means, which may be ``"last"`` or ``"hpc"``.

    The Trainer's private ``_checkpoint_connector`` knows.
    """
    connector = trainer._checkpoint_connector
    fitting = _parts(namespace_of(trainer)).TrainerFn.FITTING
    return connector._select_ckpt_path(fitting, ckpt_path, model_provided=True, model_connected=True)


def uses_time_interval(trainer: Any) -> bool:
    """Tells whether a Trainer validates by the clock; its private ``_val_check_time_interval`` knows."""
    return trainer._val_check_time_interval is not None


def set_loop_limits(trainer: Any) -> None:
    """Gives a Trainer the limits of its training where the user has said nothing, as its private ``_run`` does."""
    parse = namespace_of(trainer).module("loops.utilities")._parse_loop_limits
    loop = trainer.fit_loop
    loop.min_epochs, loop.max_epochs = parse(
        trainer.min_steps, trainer.max_steps, trainer.min_epochs, trainer.max_epochs, trainer
    )


def has_nothing_to_fit(trainer: Any, callback: Any) -> bool:
    """Tells whether a callback is not for a trial but for what a Trainer does after ``fit``.

    Determined shows the progress of a trial, and a trial predicts nothing that could be written.
    """
    lightning = _parts(namespace_of(trainer))
    return isinstance(callback, (lightning.ProgressBar, lightning.BasePredictionWriter))


def has_bar_of_lightning(trainer: Any) -> bool:
    """Tells whether a Trainer has a progress bar of Lightning's, not one of the user's own."""
    callbacks = namespace_of(trainer).module("callbacks")
    return type(trainer.progress_bar_callback) in (callbacks.TQDMProgressBar, callbacks.RichProgressBar)


def fitted(trainer: Any, stand_in: Any, module: Any, datamodule: Any, loaders: tuple[Any, Any]) -> None:
    """Gives a Trainer what it would have after ``fit``.

    Its loops, its strategy and the private connectors of data and loggers keep what its attributes tell.

    Args:
        trainer: The user's Trainer.
        stand_in: What the module had as its trainer.
        module: The module that was trained.
        datamodule: The LightningDataModule, if there is one.
        loaders: The CombinedLoaders of training and of validation, None where nobody has asked for loaders.
    """
    trainer.state.fn = stand_in.state.fn
    trainer.state.status, trainer.state.stage = stand_in.state.status, stand_in.state.stage
    trainer.should_stop = stand_in.should_stop
    kept = [each for each in trainer.callbacks if each in stand_in.callbacks or has_nothing_to_fit(trainer, each)]
    added = [each for each in stand_in.callbacks if each not in kept]
    trainer.callbacks = trainer._callback_connector._reorder_callbacks([*kept, *added])
    trainer._data_connector.attach_data(module, datamodule=datamodule)
    _fitted_loops(trainer, stand_in, *loaders)
    trainer.strategy.connect(module)
    trainer.strategy.optimizers = stand_in.optimizers
    trainer.strategy.lr_scheduler_configs = stand_in.lr_scheduler_configs
    connector, views = trainer._logger_connector, stand_in.metrics.current_views()
    connector._callback_metrics = dict(views.callback)
    connector._logged_metrics = dict(views.logged)
    connector._progress_bar_metrics = stand_in.progress_bar_metrics
    connector.teardown()
    trainer.strategy.teardown()


def _fitted_loops(trainer: Any, stand_in: Any, training_loader: Any, validation_loader: Any) -> None:
    fit_loop = trainer.fit_loop
    fit_loop.load_state_dict(stand_in.loops_state()["fit_loop"])
    fit_loop.restarting = False
    if training_loader is not None:
        fit_loop._combined_loader = training_loader
        fit_loop.max_batches = stand_in.num_training_batches
        fit_loop._last_train_dl_reload_epoch = stand_in.current_epoch
        trainer.val_check_batch = stand_in.val_check_batch
    if validation_loader is not None:
        validation_loop = fit_loop.epoch_loop.val_loop
        validation_loop._combined_loader = validation_loader
        validation_loop._max_batches = stand_in.num_val_batches

"""The state that a script's own Trainer has before and after ``fit``, though the trial has trained in its place."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from lightning_shim.upstream.lightning import lightning_of
from lightning_shim.upstream.lightning_behaviour import TELLS_DATA_MODULES_OF_ERRORS
from lightning_shim.upstream.namespaces import derives_from, namespace_of


def warn_of_module(stand_in: Any) -> None:
    """Warns before the first batch, as Lightning does, of what may be wrong with a module: layers in eval mode."""
    module = stand_in.lightning_module
    namespace = namespace_of(module)
    getattr(namespace.module("trainer.configuration_validator"), "__warn_dataloader_iter_limitations")(module)
    loop = namespace.module("loops.fit_loop")._FitLoop
    if hasattr(loop, "_warn_if_modules_in_eval_mode"):
        loop._warn_if_modules_in_eval_mode(SimpleNamespace(trainer=stand_in))


def start_profiler(trainer: Any, stand_in: Any) -> None:
    """Tells the profiler of a script's Trainer what it will measure."""
    rank = stand_in.local_rank if stand_in.world_size > 1 else None
    trainer.profiler._lightning_module = weakref.proxy(stand_in.lightning_module)
    trainer.profiler.setup(stage=stand_in.state.fn, local_rank=rank, log_dir=stand_in.log_dir)


def verified_module(trainer: Any, module: Any) -> Any:
    """Returns the module for ``Trainer.fit``, under ``torch.compile`` or not, or raises Lightning's error about it."""
    return namespace_of(trainer).module("utilities.compile")._maybe_unwrap_optimized(module)


@contextlib.contextmanager
def taking_signals(trainer: Any) -> Iterator[None]:
    """Has a Trainer take the signals that it takes during its own ``fit``, and puts the script's handlers back."""
    connector = trainer._signal_connector
    if trainer.world_size > 1:
        # Lightning's own would have the other processes take part in a collective of its loop.
        connector._sigterm_notifier_fn = lambda *signal: setattr(connector, "received_sigterm", True)
    connector.register_signal_handlers()
    try:
        yield
    finally:
        connector.teardown()
        vars(connector).pop("_sigterm_notifier_fn", None)


def started(trainer: Any, module: Any, data: dict[str, Any]) -> None:
    """Puts a Trainer into the state in which its ``fit`` begins.

    Args:
        trainer: The user's Trainer.
        module: The LightningModule.
        data: The loaders or the data module, by the names of the arguments of ``fit``.
    """
    lightning = lightning_of(trainer)
    trainer.strategy._lightning_module = module
    trainer.state.fn, trainer.state.status = lightning.TrainerFn.FITTING, lightning.TrainerStatus.RUNNING
    trainer.training = True
    trainer._data_connector.attach_data(module, **data)


def resolved_checkpoint(trainer: Any, ckpt_path: Any) -> Any:
    """Returns the file for ``Trainer.fit(ckpt_path=...)``, which may be a name such as ``"last"``, and remembers it."""
    connector = trainer._checkpoint_connector
    fitting = lightning_of(trainer).TrainerFn.FITTING
    connector._ckpt_path = connector._select_ckpt_path(fitting, ckpt_path, model_provided=True, model_connected=True)
    return connector._ckpt_path


def validation_seconds(trainer: Any) -> float | None:
    """Returns a Trainer's ``val_check_interval`` if it is a time, which Lightning has since 2.6, otherwise None."""
    seconds: float | None = getattr(trainer, "_val_check_time_interval", None)
    return seconds


def set_loop_limits(trainer: Any) -> None:
    """Sets the default limits of a Trainer's loop, as Lightning's ``fit`` does: 1000 epochs if no limit is given."""
    parse = namespace_of(trainer).module("loops.utilities")._parse_loop_limits
    loop = trainer.fit_loop
    loop.min_epochs, loop.max_epochs = parse(
        trainer.min_steps, trainer.max_steps, trainer.min_epochs, trainer.max_epochs, trainer
    )


def has_nothing_to_fit(trainer: Any, callback: Any) -> bool:
    """Whether a callback has no use in a trial, and waits for the Trainer's own loops after ``fit``.

    A trial makes no predictions to write, and searches have ended before.
    """
    return derives_from(callback, "BasePredictionWriter") or callback in finders(trainer)


def arguments_of_environment(trainer_class: type) -> dict[str, Any]:
    """Returns the arguments that environment variables give to each Trainer of a class, as in Lightning."""
    parse = namespace_of(trainer_class).module("utilities.argparse")._parse_env_variables
    return dict(vars(parse(trainer_class)))


def interrupted(trainer: Any, error: BaseException, is_told: bool) -> None:
    """Ends a Trainer's ``fit`` with an error.

    Args:
        trainer: The user's Trainer.
        error: The error.
        is_told: Whether callbacks, strategy and loggers know of it already.
    """
    lightning = lightning_of(trainer)
    trainer.state.fn, trainer.state.status = lightning.TrainerFn.FITTING, lightning.TrainerStatus.INTERRUPTED
    if not is_told:
        for callback in trainer.callbacks:
            callback.on_exception(trainer, trainer.lightning_module, error)
        if trainer.datamodule is not None and TELLS_DATA_MODULES_OF_ERRORS.is_of(lightning.version):
            trainer.datamodule.on_exception(error)
        trainer.strategy.on_exception(error)
        for logger in trainer.loggers:
            logger.finalize("failed")
    # After Ctrl+C the stage is still what it was.
    if not isinstance(error, KeyboardInterrupt):
        trainer.state.stage = None


def loops_that_go_on(trainer: Any) -> dict[str, Any]:
    """Returns the state of a Trainer's ``fit_loop`` from which its next ``fit`` goes on counting."""
    state: dict[str, Any] = trainer.fit_loop.state_dict()
    epochs = state["epoch_progress"]["current"]
    # An epoch that an error has ended is trained again.
    epochs["completed"] = epochs["processed"]
    return state


def is_tuning(trainer: Any) -> bool:
    """Whether a Tuner has called ``fit``, for a search that ends before anything is trained for good."""
    return any(getattr(callback, "_early_exit", False) for callback in trainer.callbacks)


def finders(trainer: Any) -> list[Any]:
    """Returns the callbacks that search a learning rate or a batch size before anything is trained."""
    return [
        callback
        for callback in trainer.callbacks
        for name in ("BatchSizeFinder", "LearningRateFinder")
        # One of the user's own may search at another time.
        if derives_from(callback, name)
        and type(callback).on_fit_start is getattr(namespace_of(callback).module("callbacks"), name).on_fit_start
    ]


@contextlib.contextmanager
def searching(trainer: Any, finder: Any) -> Iterator[None]:
    """Makes a Trainer's ``fit`` end with the search of one of its callbacks, as with a Tuner."""
    # A Tuner has the finder raise this itself. One of the other namespace has another exception.
    ends: type[Exception] = namespace_of(trainer).module("utilities.exceptions")._TunerExitException
    base: Any = lightning_of(trainer).Callback

    class Ending(base):  # type: ignore[misc]  # it is not known before
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            raise ends

    callbacks, others = trainer.callbacks, finders(trainer)
    trainer.callbacks = [finder, Ending(), *(callback for callback in callbacks if callback not in others)]
    try:
        yield
    finally:
        trainer.callbacks = callbacks


def fitted(trainer: Any, stand_in: Any, module: Any, data: dict[str, Any]) -> None:
    """Puts a Trainer into the state that it would be in after ``fit``, given the trial's facade.

    Most of its attributes are read from its loops, strategy and connectors, so these are what is set. Of the
    CombinedLoaders of training and validation one is None if it was never requested.
    """
    trainer.state.fn = stand_in.state.fn
    trainer.state.status, trainer.state.stage = stand_in.state.status, stand_in.state.stage
    trainer.should_stop = stand_in.should_stop
    trainer.accumulate_grad_batches = stand_in.accumulate_grad_batches
    # Callbacks of configure_callbacks, and the trial's own, belong to the Trainer now, in Lightning's order.
    kept = [each for each in trainer.callbacks if each in stand_in.callbacks or has_nothing_to_fit(trainer, each)]
    added = [each for each in stand_in.callbacks if each not in kept]
    trainer.callbacks = trainer._callback_connector._reorder_callbacks([*kept, *added])
    # This clears the loaders of all loops, which are set afterwards.
    trainer._data_connector.attach_data(module, **data)
    _fitted_loops(trainer, stand_in, *stand_in.loaders)
    trainer.strategy.connect(module)
    trainer.strategy.optimizers = stand_in.optimizers
    trainer.strategy.lr_scheduler_configs = stand_in.lr_scheduler_configs
    connector, views = trainer._logger_connector, stand_in.metrics.current_views()
    connector._callback_metrics = dict(views.callback)
    connector._logged_metrics = dict(views.logged)
    connector._progress_bar_metrics = stand_in.progress_bar_metrics
    # As at the end of Lightning's fit: metrics and module go to the CPU.
    connector.teardown()
    trainer.strategy.teardown()


def _fitted_loops(trainer: Any, stand_in: Any, training_loader: Any, validation_loader: Any) -> None:
    fit_loop = trainer.fit_loop
    # The loops count for the Trainer: its current_epoch, its global_step and the file names of ModelCheckpoint.
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

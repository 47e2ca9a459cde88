"""All that is needed of Lightning, public or private, in one place and for either namespace.

The private names that this package relies on are named here, in :mod:`lightning_shim._attachment` and in
:mod:`lightning_shim._weight_averaging`:

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

import dis
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from lightning_fabric.utilities.seed import pl_worker_init_function, reset_seed
from lightning_utilities.core.apply_func import apply_to_collection
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.distributed import DistributedSampler

from lightning_shim._versions import Namespace, namespace_of
from lightning_shim.progress import Progress

__all__ = [
    "Lightning",
    "announce_device",
    "apply_to_collection",
    "batches_of",
    "call_after_step",
    "fitted",
    "given_hyperparameters",
    "hyperparameters_name",
    "is_overridden",
    "lightning_of",
    "lightning_optimizer",
    "loops_state",
    "names_in_code",
    "original",
    "pl_worker_init_function",
    "progress_of_loops",
    "request_loaders",
    "reset_seed",
    "resolved_checkpoint",
    "set_loop_limits",
    "shared_sampler",
    "transferred_example",
    "unwrapped",
    "uses_time_interval",
    "visits_loaders_in_turn",
    "with_distributed_sampler",
]


@dataclass(frozen=True, slots=True)
class Lightning:
    """The parts of one Lightning namespace that a trial uses; each is what Lightning calls by the same name.

    The ``accelerators`` are by the type of device. Only ``NoOptimizer`` is Lightning's private ``_MockOptimizer``: an
    optimizer over nothing, whose step does nothing; and the last four are called by the same names with an underscore.
    """

    version: str
    LightningModule: type
    LightningDataModule: type
    Callback: type
    Checkpoint: type
    ModelCheckpoint: type
    EarlyStopping: type
    StochasticWeightAveraging: type
    GradientAccumulationScheduler: type
    ProgressBar: type
    BasePredictionWriter: type
    TensorBoardLogger: type
    CSVLogger: type
    WandbLogger: type
    PassThroughProfiler: type
    log_hyperparams: Callable[[Any], None]
    isolate_rng: Callable[[], AbstractContextManager[None]]
    migrate_checkpoint: Callable[[dict[str, Any]], tuple[dict[str, Any], Any]]
    LightningOptimizer: type
    NoOptimizer: type
    LRSchedulerConfig: type
    TorchCheckpointIO: type
    CombinedLoader: type
    TrainerState: type
    TrainerFn: Any
    TrainerStatus: Any
    RunningStage: Any
    GradClipAlgorithmType: Any
    accelerators: dict[str, type]
    extract_batch_size: Callable[[Any], int]
    move_data_to_device: Callable[[Any, torch.device], Any]
    prepare_for_backward: Callable[[torch.nn.parallel.DistributedDataParallel, Any], None]
    MisconfigurationException: type[Exception]
    replace_dunder_methods: Callable[..., AbstractContextManager[None]]
    get_distributed_sampler: Callable[..., DistributedSampler[Any]]
    update_dataloader: Callable[[DataLoader[Any], Any], DataLoader[Any]]
    is_dataloader_shuffled: Callable[[DataLoader[Any]], bool]


@functools.cache
def _parts(namespace: Namespace) -> Lightning:
    states = namespace.module("trainer.states")
    callbacks = namespace.module("callbacks")
    accelerators = namespace.module("accelerators")
    loggers = namespace.module("loggers")
    optimizer = namespace.module("core.optimizer")
    data = namespace.module("utilities.data")
    data_connector = namespace.module("trainer.connectors.data_connector")
    return Lightning(
        version=namespace.version,
        LightningModule=namespace.module("core.module").LightningModule,
        LightningDataModule=namespace.module("core.datamodule").LightningDataModule,
        Callback=callbacks.Callback,
        Checkpoint=callbacks.Checkpoint,
        ModelCheckpoint=callbacks.ModelCheckpoint,
        EarlyStopping=callbacks.EarlyStopping,
        StochasticWeightAveraging=callbacks.StochasticWeightAveraging,
        GradientAccumulationScheduler=callbacks.GradientAccumulationScheduler,
        ProgressBar=callbacks.ProgressBar,
        BasePredictionWriter=callbacks.BasePredictionWriter,
        migrate_checkpoint=namespace.module("utilities.migration").migrate_checkpoint,
        TensorBoardLogger=loggers.TensorBoardLogger,
        CSVLogger=loggers.CSVLogger,
        WandbLogger=loggers.WandbLogger,
        PassThroughProfiler=namespace.module("profilers").PassThroughProfiler,
        log_hyperparams=namespace.module("loggers.utilities")._log_hyperparams,
        isolate_rng=namespace.module("utilities.seed").isolate_rng,
        LightningOptimizer=optimizer.LightningOptimizer,
        NoOptimizer=optimizer._MockOptimizer,
        LRSchedulerConfig=namespace.module("utilities.types").LRSchedulerConfig,
        TorchCheckpointIO=namespace.module("plugins.io").TorchCheckpointIO,
        CombinedLoader=namespace.module("utilities.combined_loader").CombinedLoader,
        TrainerState=states.TrainerState,
        TrainerFn=states.TrainerFn,
        TrainerStatus=states.TrainerStatus,
        RunningStage=states.RunningStage,
        GradClipAlgorithmType=namespace.module("utilities").GradClipAlgorithmType,
        accelerators={
            "cpu": accelerators.CPUAccelerator,
            "cuda": accelerators.CUDAAccelerator,
            "mps": accelerators.MPSAccelerator,
        },
        extract_batch_size=data.extract_batch_size,
        move_data_to_device=namespace.module("utilities").move_data_to_device,
        prepare_for_backward=namespace.module("overrides.distributed").prepare_for_backward,
        MisconfigurationException=namespace.module("utilities.exceptions").MisconfigurationException,
        replace_dunder_methods=data_connector._replace_dunder_methods,
        get_distributed_sampler=data_connector._get_distributed_sampler,
        update_dataloader=data._update_dataloader,
        is_dataloader_shuffled=data._is_dataloader_shuffled,
    )


def lightning_of(instance: Any) -> Lightning:
    """Returns the parts of the namespace that a module or data module comes from.

    Args:
        instance: A LightningModule or LightningDataModule, or its class.

    Returns:
        The parts.

    Raises:
        ConfigurationError: If it comes from no Lightning namespace.
    """
    return _parts(namespace_of(instance))


def original(module: Any) -> Any:
    """Returns the module that ``torch.compile`` was given, as it is; anything else is returned itself."""
    return getattr(module, "_orig_mod", module)


@contextmanager
def given_hyperparameters(owner: Any, overriding: dict[str, Any]) -> Iterator[None]:
    """Has ``save_hyperparameters`` save other values, where LightningCLI says which; otherwise they are in the call.

    Args:
        owner: The module or data module that is being made.
        overriding: The values by name.
    """
    variable = namespace_of(owner).module("core.mixins.hparams_mixin")._given_hyperparameters
    given = variable.get()
    token = variable.set(None if given is None else {**given, **overriding})
    try:
        yield
    finally:
        variable.reset(token)


def unwrapped(module: Any) -> Any:
    """Takes a module out of what ``torch.compile`` has made of it; its steps stay compiled, as under Lightning."""
    inner = original(module)
    if inner is module:
        return module
    return namespace_of(inner).module("utilities.compile").from_compiled(module)


def is_overridden(name: str, instance: Any, base: type) -> bool:
    """Tells whether a user has replaced a member, in a class or on the instance itself.

    Args:
        name: The member's name.
        instance: The user's object, or its class.
        base: The Lightning class that defines the default.

    Returns:
        Whether it is another than the default; a member that Lightning does not have counts as overridden.
    """
    # As they stand in the classes: a patched method gives another wrapper each time that it is asked for.
    is_class = isinstance(instance, type)
    own = inspect.getattr_static(instance if is_class else type(instance), name, None)
    default = inspect.getattr_static(base, name, None)
    if not is_class and name in getattr(instance, "__dict__", {}):
        # torch.compile leaves compiled methods on the instance, the default ones too.
        method = inspect.unwrap(vars(instance)[name])
        own, default = getattr(method, "__func__", method), inspect.unwrap(default)
    return own is not None and own is not default


@dataclass(frozen=True, slots=True)
class NamesInCode:
    """The names of attributes in the code of a class.

    Attributes:
        read: Those that are read or called.
        written: Those that are set, and whatever stands in strings.
    """

    read: frozenset[str]
    written: frozenset[str]

    @staticmethod
    def union(parts: Iterable[NamesInCode]) -> NamesInCode:
        """Puts together what was found in several pieces of code."""
        parts = list(parts)
        return NamesInCode(
            frozenset().union(*(part.read for part in parts)), frozenset().union(*(part.written for part in parts))
        )


@functools.lru_cache
def names_in_code(user_class: type, without: str = "") -> NamesInCode:
    """Finds the names of attributes in the methods of a class and of its bases.

    Args:
        user_class: The user's class.
        without: A method to leave out.
    """
    functions = [
        function
        for base in user_class.__mro__
        if not _is_library(base)
        for name, entry in vars(base).items()
        if name != without and inspect.isfunction(function := inspect.unwrap(getattr(entry, "__func__", entry)))
    ]
    return NamesInCode.union(_names_in(function.__code__) for function in functions)


# Whoever asks about a class does so for one method after another, and each time of the same code.
@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> NamesInCode:
    read: set[str] = set()
    written: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            read.add(instruction.argval)
        elif instruction.opname == "STORE_ATTR":
            written.add(instruction.argval)
    written.update(constant for constant in code.co_consts if isinstance(constant, str))
    inner = [_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return NamesInCode.union([NamesInCode(frozenset(read), frozenset(written)), *inner])


def _is_library(base: type) -> bool:
    """Tells whether a class is PyTorch's or Lightning's own, not one of its demonstrations."""
    package, _, rest = base.__module__.partition(".")
    return package in ("torch", "builtins", "lightning_fabric") or (
        package in ("lightning", "pytorch_lightning") and "demos" not in rest
    )


def _counts(**counts: int) -> dict[str, dict[str, int]]:
    return {"total": dict(counts), "current": dict(counts)}


def loops_state(progress: Progress, hook: str | None = None) -> dict[str, Any]:
    """Writes what Lightning's checkpoints say of its loops.

    Args:
        progress: Where training stands.
        hook: The hook that is running, if the checkpoint is written in one: what has called it is not completed yet.
    """
    batches, total = progress.batch_idx + 1, progress.total_batch_idx + 1
    started = progress.current_epoch + progress.epoch_is_running
    ended = progress.current_epoch
    processed = ended + (hook == "on_train_epoch_end")
    in_batch = hook == "on_train_batch_end"
    no_batches = {**_counts(ready=0, started=0, processed=0, completed=0), "is_last_batch": False}
    steps = progress.automatic_steps
    fit_loop = {
        "state_dict": {},
        "epoch_progress": _counts(ready=started, started=started, processed=processed, completed=ended),
        "epoch_loop.state_dict": {"_batches_that_stepped": progress.batches_that_stepped},
        "epoch_loop.batch_progress": {
            "total": {**dict.fromkeys(("ready", "started", "processed"), total), "completed": total - in_batch},
            "current": {**dict.fromkeys(("ready", "started", "processed"), batches), "completed": batches - in_batch},
            "is_last_batch": progress.is_last_batch,
        },
        "epoch_loop.scheduler_progress": _counts(ready=0, completed=0),
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": _counts(ready=steps, completed=steps),
                "zero_grad": _counts(ready=steps, started=steps, completed=steps),
            }
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": _counts(
            ready=progress.manual_steps, completed=progress.manual_steps
        ),
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": no_batches,
    }
    other = {"state_dict": {}, "batch_progress": no_batches}
    return {"fit_loop": fit_loop, "validate_loop": other, "test_loop": other, "predict_loop": other}


def progress_of_loops(loops: dict[str, Any]) -> dict[str, Any]:
    """Reads what Lightning's checkpoints say of its loops.

    Args:
        loops: What :func:`loops_state` would write.

    Returns:
        The counters of :class:`Progress` by name.
    """
    fit_loop = loops["fit_loop"]
    batches = fit_loop["epoch_loop.batch_progress"]
    epochs = fit_loop["epoch_progress"]["current"]
    # Lightning saves in `on_train_batch_end`, before it counts the batch as completed, and likewise with epochs.
    trained, is_last = batches["current"]["processed"], batches["is_last_batch"]
    is_running = not is_last and trained > 0 and epochs["processed"] < epochs["ready"]
    optimizer = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    return {
        "current_epoch": epochs["ready"] - is_running,
        "batch_idx": trained - 1,
        "total_batch_idx": batches["total"]["processed"] - 1,
        "is_last_batch": is_last,
        "epoch_is_running": is_running,
        "automatic_steps": optimizer["step"]["total"]["completed"],
        "manual_steps": fit_loop["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"],
        "batches_that_stepped": fit_loop["epoch_loop.state_dict"].get("_batches_that_stepped", 0),
    }


def announce_device(module: torch.nn.Module, device: torch.device) -> None:
    """Makes ``self.device`` answer the device to come, as Lightning does before ``setup`` is called."""
    for submodule in module.modules():
        if hasattr(submodule, "_device"):
            submodule._device = device  # type: ignore[assignment]


def transferred_example(module: Any, example: Any) -> Any:
    """Takes an example through the transfer hooks, as Lightning does before it exports a module or logs its graph."""
    return module._apply_batch_transfer_handler(module._on_before_batch_transfer(example))


def lightning_optimizer(lightning: Lightning, optimizer: torch.optim.Optimizer, strategy: Any) -> Any:
    """Wraps an optimizer as ``self.optimizers()`` returns it.

    Its ``step`` goes to ``strategy.optimizer_step``, its ``toggle_model(sync_grad=False)`` to
    ``strategy.block_backward_sync``.
    """
    wrapped: Any = lightning.LightningOptimizer._to_lightning_optimizer(optimizer, strategy)  # type: ignore[attr-defined]
    toggle_model = wrapped.toggle_model

    @contextmanager
    def toggle_synchronised_model(sync_grad: bool = True) -> Iterator[None]:
        with nullcontext() if sync_grad else strategy.block_backward_sync(), toggle_model(sync_grad):
            yield

    wrapped.toggle_model = toggle_synchronised_model
    return wrapped


def hyperparameters_name(owner: Any) -> str | None:
    """Returns the name of the constructor's parameter that took the hyperparameters, if Lightning knows one."""
    name: str | None = getattr(owner, "_hparams_name", None)
    return name


def visits_loaders_in_turn(combined_loader: Any) -> bool:
    """Tells whether a CombinedLoader gives one loader's batches after the other's; its private ``_mode`` knows."""
    return bool(combined_loader._mode == "sequential")


def batches_of(combined_loader: Any) -> Iterator[tuple[Any, int, int]]:
    """Starts to iterate a CombinedLoader.

    Args:
        combined_loader: The loader.

    Returns:
        Its iterator; that of the one loader itself where nothing is combined, so that no batch is put together anew.
    """
    iterator: Iterator[tuple[Any, int, int]] = iter(combined_loader)
    if len(combined_loader.flattened) != 1 or combined_loader.iterables is not combined_loader.flattened[0]:
        return iterator
    (own,) = combined_loader._iterator.iterators
    return zip(own, itertools.count(), itertools.repeat(0), strict=False)


def request_loaders(lightning: Lightning, hook: Callable[[], Any]) -> Any:
    """Asks the user for loaders as Lightning does: each keeps the arguments that it was made with.

    Args:
        lightning: Which Lightning.
        hook: Gives the loaders.

    Returns:
        What it gave.
    """
    failure: BaseException | None = None
    loaders = None
    with lightning.replace_dunder_methods(DataLoader, "dataset"), lightning.replace_dunder_methods(BatchSampler):
        # Lightning puts the methods back only if nothing is raised.
        try:
            loaders = hook()
        except BaseException as error:
            failure = error
    if failure is not None:
        raise failure
    return loaders


def with_distributed_sampler(
    lightning: Lightning, loader: DataLoader[Any], *, is_training: bool, overfits: bool, num_replicas: int, rank: int
) -> DataLoader[Any]:
    """Makes a loader anew for one of several processes, as Lightning's ``use_distributed_sampler``.

    Args:
        lightning: Which Lightning.
        loader: The user's loader.
        is_training: Whether it is a training loader.
        overfits: Whether each epoch is to have the same samples.
        num_replicas: The number of processes.
        rank: The index of the process.

    Returns:
        The loader of that process's part.
    """
    sampler = lightning.get_distributed_sampler(
        loader,
        shuffle=is_training or lightning.is_dataloader_shuffled(loader),
        overfit_batches=int(overfits),
        num_replicas=num_replicas,
        rank=rank,
    )
    return lightning.update_dataloader(loader, sampler)


def shared_sampler(sampler: Any) -> Any:
    """Returns the sampler whose indices Lightning's DistributedSamplerWrapper shares out; None for any other."""
    return getattr(sampler.dataset, "_sampler", None) if isinstance(sampler, DistributedSampler) else None


def call_after_step(optimizers: list[Any], function: Callable[[], None]) -> None:
    """Has a function called after each ``step()`` of Lightning's wrapped optimizers."""
    for optimizer in optimizers:
        optimizer._on_after_step = function


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
    connector, views = trainer._logger_connector, stand_in.current_views()
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

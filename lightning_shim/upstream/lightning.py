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

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.distributed import DistributedSampler

from lightning_shim.upstream.namespaces import Namespace, namespace_of


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
    clean_namespace: Callable[[MutableMapping[str, Any]], None]
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
        clean_namespace=namespace.module("utilities.parsing").clean_namespace,
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
        Whether it is another than the default, and not None; one that Lightning does not have counts as overridden.
    """
    # As they stand in the classes: a patched method gives another wrapper each time that it is asked for.
    is_class = isinstance(instance, type)
    own = inspect.getattr_static(instance if is_class else type(instance), name, None)
    default = inspect.getattr_static(base, name, None)
    if not is_class and name in getattr(instance, "__dict__", {}):
        # torch.compile leaves compiled methods on the instance, the default ones too; and tracers wrap them.
        method = inspect.unwrap(vars(instance)[name])
        if isinstance(method, functools.partial):
            method = method.func
        own, default = getattr(method, "__func__", method), inspect.unwrap(default)
    return own is not None and own is not default


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


def is_omegaconf(hparams: Any) -> bool:
    """Returns whether hyperparameters are a configuration of OmegaConf's, which a checkpoint keeps as it is."""
    # Whoever has one has imported it.
    return isinstance(hparams, getattr(sys.modules.get("omegaconf"), "Container", ()))


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

"""Access to the parts of Lightning that a trial uses, in whichever namespace the module comes from."""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import torch
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.distributed import DistributedSampler

from lightning_shim.upstream.namespaces import Namespace, derives_from, namespace_of


@dataclass(frozen=True, slots=True)
class Lightning:
    """The parts of one Lightning namespace that a trial uses, each with its module there and its name if that differs.

    The ``accelerators`` are by the type of device.
    """

    version: str
    accelerators: dict[str, type]
    LightningModule: Annotated[type, "core.module"]
    LightningDataModule: Annotated[type, "core.datamodule"]
    Callback: Annotated[type, "callbacks"]
    Checkpoint: Annotated[type, "callbacks"]
    EarlyStopping: Annotated[type, "callbacks"]
    ProgressBar: Annotated[type, "callbacks"]
    TensorBoardLogger: Annotated[type, "loggers"]
    CSVLogger: Annotated[type, "loggers"]
    PassThroughProfiler: Annotated[type, "profilers"]
    plugins: Annotated[Any, ":plugins"]
    log_hyperparams: Annotated[Callable[[Any], None], "loggers.utilities:_log_hyperparams"]
    clean_namespace: Annotated[Callable[[MutableMapping[str, Any]], None], "utilities.parsing"]
    isolate_rng: Annotated[Callable[[], AbstractContextManager[None]], "utilities.seed"]
    migrate_checkpoint: Annotated[Callable[[dict[str, Any]], tuple[dict[str, Any], Any]], "utilities.migration"]
    LightningOptimizer: Annotated[type, "core.optimizer"]
    NoOptimizer: Annotated[type, "core.optimizer:_MockOptimizer"]
    LRSchedulerConfig: Annotated[type, "utilities.types"]
    TorchCheckpointIO: Annotated[type, "plugins.io"]
    CombinedLoader: Annotated[type, "utilities.combined_loader"]
    DataFetcherWrapper: Annotated[type, "loops.fetchers:_DataFetcherWrapper"]
    TrainerState: Annotated[type, "trainer.states"]
    TrainerFn: Annotated[Any, "trainer.states"]
    TrainerStatus: Annotated[Any, "trainer.states"]
    RunningStage: Annotated[Any, "trainer.states"]
    GradClipAlgorithmType: Annotated[Any, "utilities"]
    extract_batch_size: Annotated[Callable[[Any], int], "utilities.data"]
    SIGTERMException: Annotated[type[SystemExit], "utilities.exceptions"]
    move_data_to_device: Annotated[Callable[[Any, torch.device], Any], "utilities"]
    prepare_for_backward: Annotated[
        Callable[[torch.nn.parallel.DistributedDataParallel, Any], None], "overrides.distributed"
    ]
    MisconfigurationException: Annotated[type[Exception], "utilities.exceptions"]
    replace_dunder_methods: Annotated[
        Callable[..., AbstractContextManager[None]], "trainer.connectors.data_connector:_replace_dunder_methods"
    ]
    get_distributed_sampler: Annotated[
        Callable[..., DistributedSampler[Any]], "trainer.connectors.data_connector:_get_distributed_sampler"
    ]
    update_dataloader: Annotated[Callable[[DataLoader[Any], Any], DataLoader[Any]], "utilities.data:_update_dataloader"]
    is_dataloader_shuffled: Annotated[Callable[[DataLoader[Any]], bool], "utilities.data:_is_dataloader_shuffled"]
    worker_check: Annotated[
        Callable[[Any, DataLoader[Any], str], None], "trainer.connectors.data_connector:_worker_check"
    ]
    auto_add_worker_init_fn: Annotated[
        Callable[[DataLoader[Any], int], None], "trainer.connectors.data_connector:_auto_add_worker_init_fn"
    ]
    reset_seed: Annotated[Callable[[], None], "strategies.ddp"]
    PossibleUserWarning: Annotated[type[Warning], "utilities.warnings"]
    rank_zero_debug: Annotated[Callable[[str], None], "utilities.rank_zero"]
    rank_zero_info: Annotated[Callable[[str], None], "utilities.rank_zero"]
    rank_zero_warn: Annotated[Callable[..., None], "utilities.rank_zero"]


@functools.cache
def _parts(namespace: Namespace) -> Lightning:
    classes = namespace.module("accelerators")
    accelerators = {name: getattr(classes, f"{name.upper()}Accelerator") for name in ("cpu", "cuda", "mps")}
    parts: dict[str, Any] = {}
    for name, hint in get_type_hints(Lightning, include_extras=True).items():
        for place in getattr(hint, "__metadata__", ()):
            path, _, name_there = place.partition(":")
            parts[name] = getattr(namespace.module(path), name_there or name)
    return Lightning(namespace.version, accelerators, **parts)


def lightning_of(instance: Any) -> Lightning:
    """Returns the parts of the namespace that an object comes from."""
    return _parts(namespace_of(instance))


def original(module: Any) -> Any:
    """Returns the module under ``torch.compile``, or the same object if it is not compiled."""
    return getattr(module, "_orig_mod", module)


@contextmanager
def given_hyperparameters(owner: Any, override: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """Overrides the hyperparameters that LightningCLI has ``save_hyperparameters`` save.

    Without LightningCLI it saves the constructor's arguments, which have been overridden already.
    """
    variable = getattr(namespace_of(owner).module("core.mixins.hparams_mixin"), "_given_hyperparameters", None)
    if variable is None:  # An older LightningCLI has the constructor's arguments saved.
        yield
        return
    given = variable.get()
    token = variable.set(None if given is None else override(given))
    try:
        yield
    finally:
        variable.reset(token)


def unwrapped(module: Any) -> Any:
    """Returns the LightningModule under ``torch.compile``; its steps stay compiled, as under Lightning."""
    inner = original(module)
    if inner is module:
        return module
    return namespace_of(inner).module("utilities.compile").from_compiled(module)


def is_overridden(name: str, instance: Any, base: type) -> bool:
    """Whether the user has replaced a member of the base, in a class or on the instance itself, and not by None.

    One that Lightning does not have counts as overridden.
    """
    # The entries of the classes are compared: binding a patched method makes a new wrapper each time.
    is_class = isinstance(instance, type)
    own, default = _entry(instance if is_class else type(instance), name), _entry(base, name)
    if not is_class and name in getattr(instance, "__dict__", {}):
        # torch.compile leaves compiled methods on the instance, the default ones too; and tracers wrap them.
        method = inspect.unwrap(vars(instance)[name])
        if isinstance(method, functools.partial):
            method = method.func
        own, default = getattr(method, "__func__", method), inspect.unwrap(default)
    return own is not None and own is not default


def _entry(cls: type, name: str) -> Any:
    """Returns what a class has under a name, without binding it; None if there is nothing."""
    # A fit looks up some 600 names, for which inspect.getattr_static takes a fifth of the time of a short one.
    return next((vars(each)[name] for each in cls.__mro__ if name in vars(each)), None)


def announce_device(module: torch.nn.Module, device: torch.device) -> None:
    """Sets ``self.device`` before the module is moved there, as Lightning does before it calls ``setup``."""
    for submodule in module.modules():
        if hasattr(submodule, "_device"):
            submodule._device = device  # type: ignore[assignment]


def transferred_example(module: Any, example: Any) -> Any:
    """Applies the transfer hooks to an example, as Lightning does before it exports a module or logs its graph."""
    return module._apply_batch_transfer_handler(module._on_before_batch_transfer(example))


def lightning_optimizer(lightning: Lightning, optimizer: torch.optim.Optimizer, strategy: Any) -> Any:
    """Wraps an optimizer for ``self.optimizers()``.

    Its ``step`` calls ``strategy.optimizer_step``, and its ``toggle_model(sync_grad=False)`` calls
    ``strategy.block_backward_sync``.
    """
    wrapped: Any = lightning.LightningOptimizer._to_lightning_optimizer(optimizer, strategy)  # type: ignore[attr-defined]
    # Lightning's own toggle_model suspends synchronization through classes that are its own strategies' only.
    toggle_model = wrapped.toggle_model

    @contextmanager
    def toggle_synchronised_model(sync_grad: bool = True) -> Iterator[None]:
        with nullcontext() if sync_grad else strategy.block_backward_sync(), toggle_model(sync_grad):
            yield

    wrapped.toggle_model = toggle_synchronised_model
    return wrapped


def hyperparameters_name(owner: Any) -> str | None:
    """Returns the name of the constructor's parameter that took all hyperparameters, if there is one."""
    name: str | None = getattr(owner, "_hparams_name", None)
    return name


def is_omegaconf(hparams: Any) -> bool:
    """Returns whether hyperparameters are a configuration of OmegaConf's, which a checkpoint keeps as it is."""
    # Whoever has one has imported it.
    return isinstance(hparams, getattr(sys.modules.get("omegaconf"), "Container", ()))


def read_write(hparams: Any) -> AbstractContextManager[Any]:
    """Allows changes to a configuration of OmegaConf's; anything else allows them already."""
    return sys.modules["omegaconf"].read_write(hparams) if is_omegaconf(hparams) else nullcontext()


def visits_loaders_in_turn(combined_loader: Any) -> bool:
    """Whether a CombinedLoader yields the batches of one loader after those of another."""
    return bool(combined_loader._mode == "sequential")


def batches_of(combined_loader: Any) -> Iterator[tuple[Any, int, int]]:
    """Starts to iterate a CombinedLoader.

    The batches of a single loader come straight from its own iterator, which saves rebuilding each of them.
    """
    iterator: Iterator[tuple[Any, int, int]] = iter(combined_loader)
    if len(combined_loader.flattened) != 1 or combined_loader.iterables is not combined_loader.flattened[0]:
        return iterator
    (own,) = combined_loader._iterator.iterators
    return zip(own, itertools.count(), itertools.repeat(0), strict=False)


def request_loaders(lightning: Lightning, hook: Callable[[], Any]) -> Any:
    """Calls a loader hook so that each loader records its constructor's arguments, as Lightning does.

    A loader can then be built again with another sampler, even one of a user's own class.
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
    """Builds the loader of one process's share, as Lightning's ``use_distributed_sampler`` does."""
    sampler = lightning.get_distributed_sampler(
        loader,
        shuffle=is_training or lightning.is_dataloader_shuffled(loader),
        overfit_batches=int(overfits),
        num_replicas=num_replicas,
        rank=rank,
    )
    return lightning.update_dataloader(loader, sampler)


def shared_sampler(sampler: Any) -> Any:
    """Returns the sampler under Lightning's DistributedSamplerWrapper, or None for any other sampler."""
    return getattr(sampler.dataset, "_sampler", None) if isinstance(sampler, DistributedSampler) else None


def call_after_step(optimizers: list[Any], function: Callable[[], None]) -> None:
    """Sets the function that Lightning's wrapped optimizers call after each ``step()``."""
    for optimizer in optimizers:
        optimizer._on_after_step = function


def first_layers_of(callbacks: Iterable[Any]) -> list[Any]:
    """Returns the copies of layers as they were at first, which ModelPruning resets weights to."""
    pruning = [callback for callback in callbacks if derives_from(callback, "ModelPruning")]
    return [entry["data"] for callback in pruning for entry in (callback._original_layers or {}).values()]

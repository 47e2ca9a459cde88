"""Lightning's ``strategy`` argument: the settings of DistributedDataParallel and of the process group in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from lightning_shim.upstream.namespaces import NAMESPACES, namespace_of

_NAMES: Final = ("auto", "ddp", "single_device")
"""The beginnings of the names of strategies that train as one process per slot, like a trial."""

_CLASSES: Final = frozenset(
    f"{namespace}.strategies.{name}"
    for namespace in NAMESPACES
    for name in ("ddp.DDPStrategy", "single_device.SingleDeviceStrategy")
)

CLASS_NAMES: Final = frozenset(name.rpartition(".")[2] for name in _CLASSES)
"""The names of Lightning's strategies by which a trial trains."""

_ONLY_NAMES: Final = frozenset({"strategy_name", "register_strategies"})
"""What a strategy may override, beside its constructor, without another way of training."""


NO_DDP: Final = "a trial trains as one process per slot, as DDPStrategy does."
"""The sentence for another of Lightning's strategies."""


@dataclass(frozen=True, slots=True)
class StrategySettings:
    """The settings of several processes that train together."""

    ddp_arguments: dict[str, Any] = field(default_factory=dict)
    # The arguments of Lightning's `_register_ddp_comm_hook`, which GPUs alone heed.
    comm_hook: dict[str, Any] = field(default_factory=dict)
    # The arguments `backend` and `timeout` of `init_process_group` that are given.
    process_group: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, strategy: Any) -> StrategySettings:
        """Reads a strategy that :func:`problem_of_strategy` accepts, which may be one of Lightning's names."""
        if isinstance(strategy, str):
            return cls({"find_unused_parameters": True} if strategy.endswith("find_unused_parameters_true") else {})
        if not is_distributed(strategy):
            return cls()
        hook = {
            name[1:]: getattr(strategy, name) for name in ("_ddp_comm_state", "_ddp_comm_hook", "_ddp_comm_wrapper")
        }
        group = {"backend": strategy._process_group_backend, "timeout": strategy._timeout}
        return cls(
            dict(strategy._ddp_kwargs),
            hook if hook["ddp_comm_hook"] is not None else {},
            {name: value for name, value in group.items() if value is not None},
        )

    def register_comm_hook(self, model: Any, module: Any) -> None:
        """Puts the communication hook in place, if there is one and the model is on a GPU, as Lightning does."""
        if self.comm_hook and next(module.parameters()).device.type == "cuda":
            namespace_of(module).module("overrides.distributed")._register_ddp_comm_hook(model, **self.comm_hook)


def problem_of_strategy(strategy: Any) -> str | None:
    """Says in a sentence without a capital why a trial cannot train by a strategy; None if it can."""
    if isinstance(strategy, str):
        return None if strategy.startswith(_NAMES) else 'a trial trains as one process per slot, as "ddp" does.'
    bases = type(strategy).__mro__
    base = next((each for each in bases if f"{each.__module__}.{each.__name__}" in _CLASSES), None)
    if base is None:
        return NO_DDP
    own = {name for each in bases[: bases.index(base)] for name in vars(each) if not name.startswith(("__", "_abc_"))}
    own -= _ONLY_NAMES
    if own:
        return f"a trial would not call its own {', '.join(sorted(own))}: it takes the settings of a DDPStrategy alone."
    if getattr(strategy, "_model_averaging_period", None) is not None:
        return "a trial does not average models (model_averaging_period); leave it out."
    return None


def is_distributed(strategy: Any) -> bool:
    """Whether a strategy that :func:`problem_of_strategy` accepts is DDP, which may have one process only."""
    return strategy.startswith("ddp") if isinstance(strategy, str) else hasattr(strategy, "_ddp_kwargs")


def forget_parts(strategy: Any) -> None:
    """Takes from a strategy of the script's what its Trainer is given by other arguments, such as the device."""
    if not isinstance(strategy, str):
        for name in ("_accelerator", "_parallel_devices", "_checkpoint_io", "_precision_plugin"):
            setattr(strategy, name, None)
        strategy.cluster_environment = None


def keep_in_this_process(trainer: Any) -> None:
    """Has the DDP of a Trainer start no process and wait for none: this process is all that trains."""
    strategy = trainer.strategy
    if strategy.world_size > 1:
        # SLURM's tasks, for example, train each by itself.
        strategy.cluster_environment = namespace_of(trainer).module("plugins.environments").LightningEnvironment()
        strategy.set_world_ranks()
    start_method, strategy._start_method = strategy._start_method, "popen"
    strategy._configure_launcher()
    strategy._start_method = start_method


def join_alone(strategy: Any) -> None:
    """Makes the process group of a DDP that has one process, as a Trainer's ``fit`` does at first."""
    strategy.launcher.launch(strategy.setup_environment)


def synchronise_static_graph(model: Any) -> None:
    """Synchronises the gradients of the first step of a static graph, which PyTorch leaves for the end of it."""
    model.reducer._delay_all_reduce()

"""``trainer.strategy`` on Determined: devices and processes, backward, and the optimizer's step.

Lightning's own methods of the module (``optimizers``, ``manual_backward``, ``clip_gradients``, ``all_gather``, ...) and
its ``LightningOptimizer`` call ``trainer.strategy``, so they work unchanged with this one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

import torch
import torch.distributed
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_shim.diagnostics.errors import ConfigurationError, RefusedMemberError
from lightning_shim.diagnostics.locations import caller_location, definition_location
from lightning_shim.lightning1.hook_arguments import FormerValue
from lightning_shim.loop.configured_optimizers import ConfiguredOptimizers, SchedulerConfig
from lightning_shim.loop.hooks import Hooks
from lightning_shim.loop.precision import Precision
from lightning_shim.patching.attachment import CURRENT_FX_ATTRIBUTE
from lightning_shim.session.session import Session
from lightning_shim.upstream.lightning import call_after_step, lightning_optimizer
from lightning_shim.upstream.lightning_behaviour import AUTOCASTS_WEIGHTS_EACH_TIME
from lightning_shim.upstream.lightning_strategy import synchronise_static_graph
from lightning_shim.upstream.torch import closure_comes_first

Value = TypeVar("Value")

_UNFINISHED_REDUCTION: Final = "Expected to have finished reduction in the prior iteration"
"""The start of DistributedDataParallel's error when it is still waiting for gradients."""

# A mean is a sum that is divided afterwards with gloo, the backend of CPUs, which has no ReduceOp.AVG.
_REDUCE_OPERATIONS: Final = {
    None: torch.distributed.ReduceOp.SUM,
    "mean": torch.distributed.ReduceOp.SUM,
    "avg": torch.distributed.ReduceOp.SUM,
    "sum": torch.distributed.ReduceOp.SUM,
    "max": torch.distributed.ReduceOp.MAX,
    "min": torch.distributed.ReduceOp.MIN,
}


class StrategyFacade:
    """Lightning's ``Strategy``, backed by Determined and torch.distributed.

    Attributes:
        root_device: The device of this process.
        precision_plugin: The precision of steps and optimizers.
        lightning_module: The user's module.
        model: The module, or DistributedDataParallel around it.
        calls_directly: Whether the module's steps can be called as they are: without autocast, wrapper or scaler.
        checkpoint_io: Lightning's plugin that writes and removes checkpoints.
        revert_layers: Undoes at the end what has been done to layers to synchronise them.
        launcher: None, as in Lightning when something else has started the processes.
        lr_scheduler_configs: The schedulers that ``configure_optimizers`` returned.
        optimizer_frequencies: The length of each optimizer's turn in batches; empty if they do not take turns.
        optimizer_idx: The index of the current optimizer.
        optimizer: The current optimizer of automatic optimization.
        lightning_optimizer: The same, as hooks receive it.
    """

    launcher: Final = None

    def __init__(self, session: Session, hooks: Hooks) -> None:
        self._session: Final = session
        self._lightning: Final = session.lightning
        self._distributed: Final = session.context.distributed
        self._hooks: Final = hooks
        self.root_device: Final[torch.device] = session.context.device
        # A script's own Trainer has been given the plugins.
        self._users: Final[Any] = None if session.script_trainer is None else session.script_trainer.strategy
        users_strategy = self._users
        self.precision_plugin: Final = Precision(
            session.options.precision,
            self.root_device,
            getattr(getattr(users_strategy, "precision_plugin", None), "scaler", None),
            keeps_casts=not AUTOCASTS_WEIGHTS_EACH_TIME.is_of(session.lightning.version),
            plugins=session.lightning.plugins,
        )
        self.lightning_module: Final[Any] = session.module
        self.model: Any = None
        self.calls_directly = False
        self.set_model(session.module)
        self.checkpoint_io: Any = (
            session.lightning.TorchCheckpointIO() if users_strategy is None else users_strategy.checkpoint_io
        )
        self.revert_layers: Callable[[nn.Module], Any] = lambda module: module
        self._optimizers: list[torch.optim.Optimizer] = []
        self.lr_scheduler_configs: list[SchedulerConfig] = []
        self.optimizer_frequencies: list[int] = []
        self.optimizer_idx = 0
        self.optimizer: Any = None
        self.lightning_optimizer: Any = None
        # The name that LightningModule.optimizers() reads.
        self._lightning_optimizers: list[Any] = []
        self._clips = False
        for name, method in (
            ("training_step", "training_step"),
            ("validation_step", "validation_step"),
            ("backward", "run_backward"),
        ):
            if session.profiling.is_on:
                setattr(self, method, session.profiling.measured(self.action(name), getattr(self, method)))
        hooks.lightning1_values.update(self._lightning1_values())
        self._adopt_backward(users_strategy)

    def _adopt_backward(self, users_strategy: Any) -> None:
        """Goes backward as the strategy of a script's Trainer, if something has been put around its own method."""
        backward = getattr(users_strategy, "backward", None)
        if backward is not None and ("backward" in vars(users_strategy) or not inspect.ismethod(backward)):
            # Lightning's own method, which it is put around, calls the hooks of this module.
            users_strategy.connect(self.lightning_module)
            vars(self).update(
                backward=backward,
                run_backward=lambda loss, *args, **kwargs: backward(loss, self.optimizer, *args, **kwargs),
            )

    def on_exception(self, error: BaseException) -> None:
        """Tells the strategy of a script's Trainer of an error that ends the training."""
        if self._users is not None:
            self._users.on_exception(error)

    def action(self, name: str) -> str:
        """Returns Lightning's name of an action of its strategy, given the method's name, for a profiler."""
        return f"[Strategy]{'DDPStrategy' if self._session.is_distributed else 'SingleDeviceStrategy'}.{name}"

    def set_model(self, model: nn.Module) -> None:
        """Sets the model whose ``forward`` synchronises gradients; without DDP it is the module itself."""
        self.model = model
        # Decided here, not in each step.
        is_static = getattr(model, "static_graph", False)
        self._flushes_static_graph = is_static and not self.lightning_module.automatic_optimization
        self.calls_directly = model is self.lightning_module and not (
            self.precision_plugin.needs_context or self._session.profiling.is_on
        )

    def set_optimizers(self, configured: ConfiguredOptimizers) -> None:
        """Sets the optimizers and schedulers."""
        self._clips = self._session.options.gradient_clip_val is not None or any(
            map(self._hooks.calls, ("configure_gradient_clipping", "clip_gradients"))
        )
        self._optimizers = configured.optimizers
        self.optimizer_frequencies = configured.frequencies
        self.lr_scheduler_configs = configured.lr_scheduler_configs
        self._lightning_optimizers = [
            lightning_optimizer(self._lightning, optimizer, self) for optimizer in configured.optimizers
        ]
        if configured.optimizers:
            self.take_turn(0)

    def take_turn(self, optimizer_idx: int) -> None:
        """Makes an optimizer the current one of automatic optimization."""
        self.optimizer_idx = optimizer_idx
        self.optimizer = self._optimizers[optimizer_idx]
        self.lightning_optimizer = self._lightning_optimizers[optimizer_idx]

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers that ``configure_optimizers`` returned."""
        return self._optimizers

    @optimizers.setter
    def optimizers(self, optimizers: Any) -> None:
        raise RefusedMemberError(
            f"{caller_location()}: trainer.strategy.optimizers cannot be set: Determined has the optimizers that "
            "configure_optimizers returned."
        )

    def index_of(self, owner: Any) -> int:
        """Returns the index of an optimizer, or that of the current one if it is none of the module's.

        The owner is the optimizer, or has it as ``optimizer``, such as a wrapper or a scheduler.
        """
        optimizer = getattr(owner, "optimizer", owner)
        return next((index for index, own in enumerate(self._optimizers) if own is optimizer), self.optimizer_idx)

    def count_steps(self, function: Callable[[], None]) -> None:
        """Sets a function to be called after each step of manual optimization."""
        call_after_step(self._lightning_optimizers, function)

    def training_step(self, *args: Any) -> Any:
        """Runs the user's ``training_step`` inside the wrapper that synchronises gradients, if there is one."""
        with self.precision_plugin.forward_context():
            if self.model is self.lightning_module:
                return self.lightning_module.training_step(*args)
            try:
                if self.lightning_module.automatic_optimization:
                    return self.model(self.lightning_module.training_step, *args)
                return self._manual_training_step(*args)
            except RuntimeError as error:
                if _UNFINISHED_REDUCTION in str(error) and not self.model.find_unused_parameters:
                    raise ConfigurationError(
                        f"{definition_location(self.lightning_module.training_step)}: some parameters had no part "
                        "in the loss of the batch before, and the other processes wait for their gradients. Pass "
                        "find_unused_parameters=True, or use every parameter in each loss.",
                        also=RuntimeError,
                    ) from error
                raise

    def _manual_training_step(self, *args: Any) -> Any:
        """Runs a step whose calls of ``manual_backward`` synchronise gradients themselves (see :meth:`backward`)."""

        def step(*args: Any) -> Any:
            output = self.lightning_module.training_step(*args)
            # When this returns, DistributedDataParallel would prepare for a backward pass, but that has been run.
            self.model.require_backward_grad_sync = False
            return output

        try:
            return self.model(step, *args)
        finally:
            self.model.require_backward_grad_sync = True

    def block_backward_sync(self) -> AbstractContextManager[None]:
        """Lets each process add up its own gradients, as Lightning's ``ParallelStrategy.block_backward_sync``.

        The next ``backward`` outside of the context synchronises the gradients that were computed inside.
        """
        if self.model is self.lightning_module:
            return nullcontext()
        context: AbstractContextManager[None] = self.model.no_sync()
        return context

    def validation_step(self, *args: Any) -> Any:
        """Runs the user's ``validation_step`` inside the wrapper that synchronises buffers, if there is one."""
        with self.precision_plugin.forward_context():
            if self.model is self.lightning_module:
                return self.lightning_module.validation_step(*args)
            return self.model(self.lightning_module.validation_step, *args)

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Runs ``backward`` and the hooks around it, as Lightning's ``Strategy.backward``.

        Args:
            closure_loss: The loss.
            optimizer: Unused, as in Lightning.
            *args: Further arguments of ``LightningModule.backward``.
            **kwargs: Further keyword arguments of it.

        Returns:
            The loss, detached; scaled if there is a scaler.
        """
        return self.run_backward(closure_loss, *args, **kwargs).detach()

    def run_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Does the same as :meth:`backward`, without the ``detach`` that automatic optimization has no use for."""
        hooks = self._hooks
        names = hooks.names
        if not self.calls_directly:
            if self.model is not self.lightning_module and not self.lightning_module.automatic_optimization:
                # With automatic optimization the end of DistributedDataParallel's forward has done it.
                self._lightning.prepare_for_backward(self.model, loss)
            loss = self.precision_plugin.scale(loss)
        if "on_before_backward" in names:
            hooks.call("on_before_backward", loss)
        if "backward" in names:
            hooks.module("backward", loss, *args, **kwargs)
        else:
            state = hooks.state
            previous = state[CURRENT_FX_ATTRIBUTE]
            state[CURRENT_FX_ATTRIBUTE] = "backward"
            loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]
            state[CURRENT_FX_ATTRIBUTE] = previous
        if self._flushes_static_graph:
            self._flushes_static_graph = False
            synchronise_static_graph(self.model)
        if "on_after_backward" in names:
            hooks.call("on_after_backward")
        return loss

    def optimizer_step(
        self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any
    ) -> Any:
        """Steps an optimizer, with hooks and clipping between its closure and its step."""
        hooks = self._hooks
        if self.precision_plugin.scaler is None and not self._clips and "on_before_optimizer_step" not in hooks.names:
            if not closure_comes_first(optimizer):
                return optimizer.step(closure=closure, **kwargs)
            # Calling the closure first has the same result, and saves the contexts that PyTorch puts around it.
            result = closure()
            optimizer.step(**kwargs)
            return result
        automatic: bool = self.lightning_module.automatic_optimization

        def after_closure() -> None:
            hooks.call("on_before_optimizer_step", optimizer)
            if automatic and self._clips:
                hooks.module_or_default(
                    "configure_gradient_clipping",
                    optimizer,
                    gradient_clip_val=self._session.options.gradient_clip_val,
                    gradient_clip_algorithm=self._session.options.gradient_clip_algorithm,
                )

        return self.precision_plugin.step(optimizer, closure, after_closure, automatic, **kwargs)

    def _lightning1_values(self) -> dict[str, FormerValue]:
        """Returns functions that compute the optimizer arguments of hooks of Lightning 1.x."""
        return {
            "optimizer_idx": self._lightning1_optimizer_idx,
            "optimizer": lambda args: self.optimizer if self.lightning_module.automatic_optimization else None,
            "on_tpu": lambda args: False,
            "using_native_amp": lambda args: self.precision_plugin.is_mixed,
            "using_lbfgs": lambda args: isinstance(self._optimizers[self.optimizer_idx], torch.optim.LBFGS),
        }

    def _lightning1_optimizer_idx(self, args: tuple[Any, ...]) -> int | None:
        for argument in args:
            optimizer = getattr(argument, "optimizer", argument)
            if isinstance(optimizer, torch.optim.Optimizer):
                return self.index_of(optimizer)
        return self.optimizer_idx if self.lightning_module.automatic_optimization else None

    @property
    def world_size(self) -> int:
        """The number of processes that train together."""
        return self._session.world_size

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int] | None:
        """The arguments of a DistributedSampler, if there is DDP."""
        return {"num_replicas": self.world_size, "rank": self.global_rank} if self._session.is_distributed else None

    @property
    def global_rank(self) -> int:
        """The index of this process among all."""
        return self._session.global_rank

    @property
    def local_rank(self) -> int:
        """The index of this process on its node."""
        return int(self._distributed.local_rank)

    @property
    def node_rank(self) -> int:
        """The index of this node, which is Determined's ``cross_rank``."""
        return int(self._distributed.cross_rank)

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return int(self._distributed.cross_size)

    @property
    def is_global_zero(self) -> bool:
        """Whether this is rank 0, which reports and saves."""
        return self.global_rank == 0

    def barrier(self, name: str | None = None) -> None:
        """Waits for all processes."""
        if self.world_size > 1:
            self._distributed.allgather(None)

    def broadcast(self, obj: Value, src: int = 0) -> Value:
        """Sends an object from one process to all.

        Args:
            obj: A picklable object.
            src: The rank that sends its object.
        """
        # The others' objects are not sent: a tensor in them would be rebuilt on their GPU by every process.
        gathered: list[Value] = self._distributed.allgather(obj if self.global_rank == src else None)
        return gathered[src]

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint on rank 0.

        Args:
            checkpoint: The checkpoint.
            filepath: A path, or a URL that fsspec supports.
            storage_options: Refused by the plugin, as in Lightning.
        """
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def remove_checkpoint(self, filepath: Any) -> None:
        """Removes a checkpoint on rank 0, if it exists."""
        if self.is_global_zero:
            self.checkpoint_io.remove_checkpoint(filepath)

    def teardown(self) -> None:
        """Reverts layers, and moves module and optimizers to the CPU, where Lightning leaves them after ``fit``."""
        self.revert_layers(self.lightning_module)
        if self.root_device.type == "cpu":
            return
        self.lightning_module.cpu()
        for optimizer in self._optimizers:
            for state in optimizer.state.values():
                # The count of steps stays where the optimizer has it.
                for name in state.keys() - {"step"}:
                    state[name] = apply_to_collection(state[name], Tensor, Tensor.cpu)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        """Reduces a tensor over all processes.

        Args:
            tensor: A tensor of the same shape on all processes; anything else is returned unchanged.
            group: A process group; by default all processes.
            reduce_op: ``"mean"``, ``"sum"``, ``"min"`` or ``"max"``.

        Returns:
            The reduced tensor, the same on all processes.
        """
        if self.world_size == 1 or not isinstance(tensor, Tensor):
            return tensor
        name = reduce_op.lower() if isinstance(reduce_op, str) else reduce_op
        if name not in _REDUCE_OPERATIONS:
            raise ConfigurationError(
                f"{caller_location()}: strategy.reduce has no reduce_op={reduce_op!r}; it is mean, sum, min or max."
            )
        reduced = tensor.clone()
        is_mean, operation = name in ("mean", "avg"), _REDUCE_OPERATIONS[name]
        # Only gloo has no means of its own; as in Lightning, the others' are taken, which may round otherwise.
        divides = is_mean and torch.distributed.get_backend(group) == "gloo"
        if is_mean and not divides:
            operation = torch.distributed.ReduceOp.AVG
        torch.distributed.all_reduce(reduced, op=operation, group=group)
        return reduced / torch.distributed.get_world_size(group) if divides else reduced

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Combines the decisions of all processes into one.

        Args:
            decision: This process's decision.
            all: Whether all processes have to agree; otherwise one is enough.

        Returns:
            The decision, the same on all processes.
        """
        decisions = self._distributed.allgather(bool(decision))
        return sum(decisions) == len(decisions) if all else any(decisions)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Gathers a tensor from all processes.

        Args:
            tensor: A tensor of the same shape on all processes.
            group: A process group; by default all processes.
            sync_grads: Whether gradients flow back to the processes.

        Returns:
            The tensors, stacked along a new first dimension; without DDP the tensor itself, as in Lightning.
        """
        if not self._session.is_distributed:
            return tensor
        if sync_grads:
            from torch.distributed.nn.functional import all_gather

            return torch.stack(all_gather(tensor, group))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            gathered = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size(group))]
            torch.distributed.all_gather(gathered, tensor.contiguous(), group=group)
        return torch.stack(gathered)

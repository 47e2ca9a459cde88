"""What ``trainer.strategy`` is on Determined: devices and processes, backward, and the optimizer's step.

Lightning's own methods of the module (``optimizers``, ``manual_backward``, ``clip_gradients``, ``all_gather``, ...) and
its ``LightningOptimizer`` ask ``trainer.strategy``, so that they work unchanged on this one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

import torch
import torch.distributed
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
from lightning_shim.upstream.torch import closure_comes_first

Value = TypeVar("Value")

_UNFINISHED_REDUCTION: Final = "Expected to have finished reduction in the prior iteration"
"""What DistributedDataParallel says when it still waits for gradients."""

_REDUCE_OPERATIONS: Final = {
    None: torch.distributed.ReduceOp.SUM,
    "mean": torch.distributed.ReduceOp.SUM,
    "avg": torch.distributed.ReduceOp.SUM,
    "sum": torch.distributed.ReduceOp.SUM,
    "max": torch.distributed.ReduceOp.MAX,
    "min": torch.distributed.ReduceOp.MIN,
}


class StrategyFacade:
    """Lightning's strategy, answered by Determined and torch.distributed.

    Args:
        session: The training.
        hooks: The module's hooks.

    Attributes:
        root_device: The device of this process.
        lightning_module: The user's module.
        model: The same, or DistributedDataParallel around it.
        calls_directly: Whether nothing is to be done around the module's steps, nor with the loss.
        checkpoint_io: Lightning's plugin that writes checkpoints and removes them.
        lr_scheduler_configs: The schedulers that ``configure_optimizers`` returned.
        optimizer_frequencies: For how many batches it is each optimizer's turn, if it is not always all of theirs.
        optimizer_idx: The index of the optimizer whose turn it is.
        optimizer: That optimizer, of automatic optimization.
        lightning_optimizer: The same, as the hooks get it.
    """

    def __init__(self, session: Session, hooks: Hooks) -> None:
        self._session: Final = session
        self._lightning: Final = session.lightning
        self._distributed: Final = session.context.distributed
        self._hooks: Final = hooks
        self.root_device: Final[torch.device] = session.context.device
        self.precision_plugin: Final = Precision(session.options.precision, self.root_device)
        self.lightning_module: Final[Any] = session.module
        self.model: Any = None
        self.calls_directly = False
        self.set_model(session.module)
        self.checkpoint_io: Any = session.lightning.TorchCheckpointIO()
        self._optimizers: list[torch.optim.Optimizer] = []
        self.lr_scheduler_configs: list[SchedulerConfig] = []
        self.optimizer_frequencies: list[int] = []
        self.optimizer_idx = 0
        self.optimizer: Any = None
        self.lightning_optimizer: Any = None
        # The name that LightningModule.optimizers() reads.
        self._lightning_optimizers: list[Any] = []
        self._clips = False
        hooks.former_values.update(self._former_values())

    def set_model(self, model: nn.Module) -> None:
        """Takes the model whose ``forward`` synchronises gradients; the module itself if there is nothing to."""
        self.model = model
        self.calls_directly = model is self.lightning_module and not self.precision_plugin.needs_context

    def set_optimizers(self, configured: ConfiguredOptimizers) -> None:
        """Takes the optimizers and schedulers."""
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
        """Says which optimizer of automatic optimization is the present one.

        Args:
            optimizer_idx: Its index.
        """
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
        """Returns the index of an optimizer.

        Args:
            owner: The optimizer, or a wrapper of it or a scheduler, which have it as their ``optimizer``.
        """
        optimizer = getattr(owner, "optimizer", owner)
        return next((index for index, own in enumerate(self._optimizers) if own is optimizer), self.optimizer_idx)

    def count_steps(self, function: Callable[[], None]) -> None:
        """Has a function called after each step of manual optimization."""
        call_after_step(self._lightning_optimizers, function)

    def training_step(self, *args: Any) -> Any:
        """Runs the user's ``training_step`` where gradients are synchronised."""
        with self.precision_plugin.forward_context():
            if self.model is self.lightning_module:
                return self.lightning_module.training_step(*args)
            try:
                if self.lightning_module.automatic_optimization:
                    return self.model(self.lightning_module.training_step, *args)
                return self._synchronised_by_hand(*args)
            except RuntimeError as error:
                if _UNFINISHED_REDUCTION in str(error) and not self.model.find_unused_parameters:
                    raise ConfigurationError(
                        f"{definition_location(self.lightning_module.training_step)}: not every parameter had a part "
                        "in the loss of the batch before, and the processes wait for the gradients of all of them. "
                        "Pass find_unused_parameters=True, or make every parameter count in each loss."
                    ) from error
                raise

    def _synchronised_by_hand(self, *args: Any) -> Any:
        """Runs a step that calls ``manual_backward``, each of which synchronises (see :meth:`backward`)."""

        def step(*args: Any) -> Any:
            output = self.lightning_module.training_step(*args)
            # When it returns, DistributedDataParallel would prepare for a backward that has been run already.
            self.model.require_backward_grad_sync = False
            return output

        try:
            return self.model(step, *args)
        finally:
            self.model.require_backward_grad_sync = True

    def block_backward_sync(self) -> AbstractContextManager[None]:
        """Leaves gradients as they are on each process, as Lightning's ``ParallelStrategy.block_backward_sync``.

        Returns:
            A context; what goes backward in it is synchronised by the next ``backward`` outside.
        """
        if self.model is self.lightning_module:
            return nullcontext()
        context: AbstractContextManager[None] = self.model.no_sync()
        return context

    def validation_step(self, *args: Any) -> Any:
        """Runs the user's ``validation_step`` where buffers are synchronised."""
        with self.precision_plugin.forward_context():
            if self.model is self.lightning_module:
                return self.lightning_module.validation_step(*args)
            return self.model(self.lightning_module.validation_step, *args)

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Runs ``backward`` with the hooks around it, as Lightning's ``Strategy.backward``.

        Args:
            closure_loss: The loss.
            optimizer: Unused, as in Lightning.
            *args: Further arguments of ``LightningModule.backward``.
            **kwargs: Further keyword arguments of it.

        Returns:
            The loss, scaled if the precision scales, without its graph.
        """
        return self.run_backward(closure_loss, *args, **kwargs).detach()

    def run_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Does the same as :meth:`backward`.

        Args:
            loss: The loss.
            *args: Further arguments of ``LightningModule.backward``.
            **kwargs: Further keyword arguments of it.

        Returns:
            The loss, scaled if the precision scales, with its graph.
        """
        hooks = self._hooks
        names = hooks.names
        if not self.calls_directly:
            if self.model is not self.lightning_module and not self.lightning_module.automatic_optimization:
                # Otherwise the end of DistributedDataParallel's forward has done it.
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
        if "on_after_backward" in names:
            hooks.call("on_after_backward")
        return loss

    def optimizer_step(
        self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any
    ) -> Any:
        """Steps an optimizer, with the hooks and the clipping between its closure and its step.

        Args:
            optimizer: The optimizer.
            closure: Computes the gradients.
            model: Unused.
            **kwargs: Further arguments of ``optimizer.step``.

        Returns:
            What ``optimizer.step`` returned.
        """
        hooks = self._hooks
        if self.precision_plugin.scaler is None and not self._clips and "on_before_optimizer_step" not in hooks.names:
            if not closure_comes_first(optimizer):
                return optimizer.step(closure=closure, **kwargs)
            # The same, without what PyTorch does around a closure.
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

    def _former_values(self) -> dict[str, FormerValue]:
        """Gives the arguments of hooks of Lightning 1.x that are about optimizers."""
        return {
            "optimizer_idx": self._former_optimizer_idx,
            "optimizer": lambda args: self.optimizer if self.lightning_module.automatic_optimization else None,
            "on_tpu": lambda args: False,
            "using_native_amp": lambda args: self.precision_plugin.is_mixed,
            "using_lbfgs": lambda args: isinstance(self._optimizers[self.optimizer_idx], torch.optim.LBFGS),
        }

    def _former_optimizer_idx(self, args: tuple[Any, ...]) -> int | None:
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
    def global_rank(self) -> int:
        """The index of this process among all."""
        return self._session.global_rank

    @property
    def local_rank(self) -> int:
        """The index of this process on its node."""
        return int(self._distributed.local_rank)

    @property
    def node_rank(self) -> int:
        """The index of this node."""
        return int(self._distributed.cross_rank)

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return int(self._distributed.cross_size)

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process that reports."""
        return self.global_rank == 0

    def barrier(self, name: str | None = None) -> None:
        """Waits for all processes.

        Args:
            name: Unused, as in Lightning.
        """
        if self.world_size > 1:
            self._distributed.allgather(None)

    def broadcast(self, obj: Value, src: int = 0) -> Value:
        """Gives every process the object of one.

        Args:
            obj: A picklable object.
            src: The rank whose object it is.

        Returns:
            That rank's object.
        """
        gathered: list[Value] = self._distributed.allgather(obj)
        return gathered[src]

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint on rank 0.

        Args:
            checkpoint: The checkpoint.
            filepath: Where to: a path, or a URL that fsspec knows.
            storage_options: Refused by the plugin, as in Lightning.
        """
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def remove_checkpoint(self, filepath: Any) -> None:
        """Removes a checkpoint on rank 0, if it is there.

        Args:
            filepath: Its path or URL.
        """
        if self.is_global_zero:
            self.checkpoint_io.remove_checkpoint(filepath)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        """Reduces a tensor over all processes.

        Args:
            tensor: The tensor, of one shape on all processes; anything else is returned as it is.
            group: A process group, by default all processes.
            reduce_op: ``"mean"``, ``"sum"``, ``"min"`` or ``"max"``.

        Returns:
            The reduced tensor, the same on all processes.
        """
        if self.world_size == 1 or not isinstance(tensor, Tensor):
            return tensor
        name = reduce_op.lower() if isinstance(reduce_op, str) else reduce_op
        if name not in _REDUCE_OPERATIONS:
            raise ConfigurationError(f"strategy.reduce: reduce_op={reduce_op!r} is none of mean, sum, min, max.")
        reduced = tensor.clone()
        torch.distributed.all_reduce(reduced, op=_REDUCE_OPERATIONS[name], group=group)
        if name in ("mean", "avg"):
            reduced = reduced / torch.distributed.get_world_size(group)
        return reduced

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Makes one decision of those of all processes.

        Args:
            decision: This process's.
            all: Whether all have to agree, or one is enough.

        Returns:
            The decision, the same on all processes.
        """
        decisions = self._distributed.allgather(bool(decision))
        return sum(decisions) == len(decisions) if all else any(decisions)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Gathers a tensor from all processes.

        Args:
            tensor: The tensor, of one shape on all processes.
            group: A process group, by default all processes.
            sync_grads: Whether gradients flow back to the processes.

        Returns:
            The tensors stacked in a new first dimension; with one process the tensor itself, as in Lightning.
        """
        if self.world_size == 1:
            return tensor
        if sync_grads:
            from torch.distributed.nn.functional import all_gather

            return torch.stack(all_gather(tensor, group))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            gathered = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size(group))]
            torch.distributed.all_gather(gathered, tensor.contiguous(), group=group)
        return torch.stack(gathered)

"""Optimization of one training batch, automatic or manual, and the schedulers, in Lightning's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from lightning_shim.diagnostics.errors import ConfigurationError, OptimizersWarning
from lightning_shim.diagnostics.locations import definition_location
from lightning_shim.diagnostics.warn import warn_at_definition
from lightning_shim.loop.configured_optimizers import SchedulerConfig
from lightning_shim.loop.epoch_outputs import StepOutputs
from lightning_shim.loop.runtime import Runtime
from lightning_shim.patching.attachment import CURRENT_FX_ATTRIBUTE
from lightning_shim.upstream.torch import release_gradients

_SEE_THE_LOSS: Final = frozenset(
    {
        "backward",
        "on_after_backward",
        "on_before_backward",
        "on_train_batch_end",
        "on_train_epoch_end",
        "optimizer_step",
        "training_epoch_end",
    }
)
"""Hooks that may change the loss in place, or that see it after something else may have changed it."""


def _count_nothing() -> None:
    """Replaces the step counter while no manual optimization runs."""


class Optimization:
    """Trains on batches as Lightning's ``_AutomaticOptimization`` and ``_ManualOptimization`` do.

    Attributes:
        strategy: Holds the optimizers.
        accumulate_grad_batches: The option's current value; callbacks may change it.
        skips_backward: Whether automatic optimization leaves the gradients alone; callbacks may set it.
        batch_idx: The index that hooks get: that of the batch or, if the step takes its batches from an iterator, as in
            Lightning that of the batch that the step before took last.
    """

    def __init__(self, runtime: Runtime) -> None:
        session = runtime.session
        self._module: Final = session.module
        self.strategy: Final = runtime.strategy
        self._hooks: Final = runtime.hooks
        self._metrics: Final = runtime.metrics
        self._progress: Final = session.progress
        self._given_accumulation: Final = session.options.accumulate_grad_batches
        self.accumulate_grad_batches = self._given_accumulation
        self.skips_backward = False
        self.batch_idx = 0
        self._has_warned_of_none = False

    @property
    def changed_accumulation(self) -> int | None:
        """The value that callbacks gave to ``accumulate_grad_batches``, or None if they left it alone."""
        now = self.accumulate_grad_batches
        return None if now == self._given_accumulation else now

    def should_accumulate(self) -> bool:
        """Whether the current batch only adds to the gradients. The last batch of an epoch always steps."""
        # The common case; every batch asks.
        if self.accumulate_grad_batches == 1:
            return False
        progress = self._progress
        return (progress.batch_idx + 1) % self.accumulate_grad_batches != 0 and not progress.is_last_batch

    def run(self, args: tuple[Any, ...]) -> StepOutputs:
        """Trains on a batch, and returns the outputs: of a single split, trained with a single optimizer."""
        return [[self._automatic(args) if self._module.automatic_optimization else self._manual(args)]]

    def batch_end_outputs(self, outputs: StepOutputs) -> Any:
        """Returns the ``outputs`` argument of ``on_train_batch_end``."""
        return outputs[0][0]

    def _automatic(self, args: tuple[Any, ...]) -> dict[str, Any]:
        closure = Closure(self, args)
        strategy = self.strategy
        if self.accumulate_grad_batches != 1 and self.should_accumulate():
            # Without a step there is no optimizer to call the closure, and no use for gradients of other processes.
            with strategy.block_backward_sync(), torch.enable_grad():
                closure()
        else:
            hooks, progress = self._hooks, self._progress
            progress.step_is_running = True
            if "optimizer_step" in hooks.names:
                arguments = (progress.current_epoch, self.batch_idx, strategy.lightning_optimizer, closure)
                hooks.module("optimizer_step", *arguments)
            else:
                # Lightning's default optimizer_step, and LightningOptimizer.step within it, amount to this. It saves
                # their calls, and that of hooks.run, in each step.
                state = hooks.state
                previous = state[CURRENT_FX_ATTRIBUTE]
                state[CURRENT_FX_ATTRIBUTE] = "optimizer_step"
                strategy.optimizer_step(strategy.optimizer, closure)
                state[CURRENT_FX_ATTRIBUTE] = previous
            progress.step_is_running = False
            progress.automatic_steps += 1
        return closure.outputs()

    def _manual(self, args: tuple[Any, ...]) -> dict[str, Any]:
        self.strategy.count_steps(self._count_step)
        try:
            output = self._training_step(args)
        finally:
            self.strategy.count_steps(_count_nothing)
        if isinstance(output, Mapping):
            outputs = dict(output)
        elif isinstance(output, Tensor):
            outputs = {"loss": output}
        elif output is None:
            outputs = {}
        else:
            raise ConfigurationError(
                f"{definition_location(self._module.training_step)}: training_step returned {output!r}. In manual "
                "optimization, `training_step` must either return a Tensor or have no return; a dictionary may be "
                "returned as well."
            )
        if "loss" in outputs:
            outputs["loss"] = outputs["loss"].detach()
        return outputs

    def _training_step(self, args: tuple[Any, ...]) -> Any:
        strategy, hooks = self.strategy, self._hooks
        # Written out because hooks.run, with its call and its `finally`, costs each step something.
        state = hooks.state
        previous = state[CURRENT_FX_ATTRIBUTE]
        state[CURRENT_FX_ATTRIBUTE] = "training_step"
        output = (self._module if strategy.calls_directly else strategy).training_step(*args)
        state[CURRENT_FX_ATTRIBUTE] = previous
        return hooks.end_of_step("training_step_end", output) if "training_step_end" in hooks.names else output

    def _compute_gradients(self, args: tuple[Any, ...]) -> tuple[Tensor | None, dict[str, Any]]:
        """Runs ``training_step``, ``zero_grad`` and ``backward``; returns the detached loss and the other outputs."""
        progress, hooks, strategy = self._progress, self._hooks, self.strategy
        names = hooks.names
        output = self._training_step(args)
        loss, extra = (output, {}) if isinstance(output, Tensor) else self._split_output(output)
        detached = None
        if loss is not None:
            if self.accumulate_grad_batches > 1:
                loss = loss / self.accumulate_grad_batches
            detached = loss.detach()
            # Lightning always clones the loss, in case somebody changes it in place. A clone takes an operation on the
            # device, and only in these cases could the change be seen.
            if loss.is_leaf or loss._is_view() or not _SEE_THE_LOSS.isdisjoint(names):
                detached = detached.clone()
        if self.skips_backward:
            return detached, extra
        # As in Lightning, gradients are released between training_step and backward, where an accumulation begins.
        if self.batch_idx % self.accumulate_grad_batches == 0:
            optimizer = strategy.optimizer
            if "on_before_zero_grad" in names:
                hooks.call("on_before_zero_grad", optimizer)
            if "optimizer_zero_grad" in names:
                hooks.module("optimizer_zero_grad", progress.current_epoch, self.batch_idx, optimizer)
            else:
                # As hooks.run, without its call.
                state = hooks.state
                previous = state[CURRENT_FX_ATTRIBUTE]
                state[CURRENT_FX_ATTRIBUTE] = "optimizer_zero_grad"
                release_gradients(optimizer)
                state[CURRENT_FX_ATTRIBUTE] = previous
            progress.zero_grads += 1
        if loss is not None:
            strategy.run_backward(loss)
        return detached, extra

    def _split_output(self, output: Any) -> tuple[Tensor | None, dict[str, Any]]:
        if isinstance(output, Mapping) and output.get("loss") is not None:
            return output["loss"], {key: value for key, value in output.items() if key != "loss"}
        where = definition_location(self._module.training_step)
        if output is not None:
            rule = (
                "In automatic_optimization, when `training_step` returns a dict, the 'loss' key needs to be present"
                if isinstance(output, Mapping)
                else "In automatic optimization, `training_step` must return a Tensor, a dict, or None (where the step "
                "will be skipped)"
            )
            raise ConfigurationError(f"{where}: training_step returned {output!r}. {rule}.")
        if self.strategy.world_size > 1:
            raise ConfigurationError(
                f"{where}: Skipping the `training_step` by returning None in distributed training is not supported: "
                "the other processes would wait for this one's gradients. Return a loss of zero instead.",
                also=RuntimeError,
            )
        if not self._has_warned_of_none:
            # As Lightning does, once, and in its words, for which there may be a filter.
            self._has_warned_of_none = True
            warn_at_definition(
                self._module.training_step,
                "`training_step` returned `None`: nothing is trained on such a batch. Return the loss, unless the "
                "batch is to be skipped.",
            )
        return None, {}

    def _count_step(self) -> None:
        self._progress.manual_steps += 1

    def step_schedulers(self, interval: str, *, on_plateau: bool = False) -> None:
        """Steps schedulers of ``"step"`` or ``"epoch"`` that are due: those that monitor a metric, or the others."""
        if not self._module.automatic_optimization:
            return
        if interval == "step" and self.should_accumulate():
            return
        progress = self._progress
        count = (progress.batch_idx if interval == "step" else progress.current_epoch) + 1
        for config in self.strategy.lr_scheduler_configs:
            if config.reduce_on_plateau is not on_plateau or config.interval != interval:
                continue
            if count % config.frequency == 0 and self._is_scheduled(config.scheduler):
                self._step_scheduler(config, on_plateau)

    def _is_scheduled(self, scheduler: Any) -> bool:
        """Whether it is the turn of the scheduler's optimizer."""
        return True

    def _step_scheduler(self, config: SchedulerConfig, on_plateau: bool) -> None:
        metric = None
        if on_plateau:
            metrics = self._metrics.current_views().callback
            metric = metrics.get(config.monitor or "")
            if metric is None:
                message = f"ReduceLROnPlateau conditioned on metric {config.monitor} which is not available"
                names = ", ".join(sorted(metrics)) or "none"
                definition = self._module.configure_optimizers
                if config.strict:
                    raise ConfigurationError(
                        f"{definition_location(definition)}: {message}. Available metrics are: {names}. Log it before "
                        "the scheduler is stepped."
                    )
                message += f" but strict is set to `False`: the learning rate stays as it is. Available are: {names}."
                warn_at_definition(definition, message, OptimizersWarning)
                return
        self._hooks.module_or_default("lr_scheduler_step", config.scheduler, metric)
        self._progress.scheduler_steps += 1


class Closure:
    """The closure that computes the gradients for an optimizer. Its class is named as Lightning's."""

    # Saves a dictionary per step.

    __slots__ = ("_args", "_called", "_extra", "_loss", "_optimization")

    def __init__(self, optimization: Optimization, args: tuple[Any, ...]) -> None:
        self._optimization = optimization
        self._args = args
        self._called = False
        self._loss: Tensor | None = None
        self._extra: dict[str, Any] = {}

    def __call__(self) -> Tensor | None:
        """Computes the gradients and returns the detached loss."""
        self._called = True
        # PyTorch's optimizers enable gradients for the closure; others may not. Asking saves a context per step.
        if torch.is_grad_enabled():
            self._loss, self._extra = self._optimization._compute_gradients(self._args)
        else:
            with torch.enable_grad():
                self._loss, self._extra = self._optimization._compute_gradients(self._args)
        return self._loss

    def outputs(self) -> dict[str, Any]:
        """Returns the output of the step, with the loss detached."""
        if not self._called:
            raise ConfigurationError(
                f"{definition_location(self._optimization._module.optimizer_step)}: The closure hasn't been executed. "
                "Did optimizer_step forget to call it, or the optimizer's own step? Pass it on: "
                "optimizer.step(closure=optimizer_closure)."
            )
        return {} if self._loss is None else {"loss": self._loss, **self._extra}

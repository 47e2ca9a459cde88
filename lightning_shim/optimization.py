"""One training batch: automatic or manual optimization, and the schedulers, in Lightning's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from lightning_shim._warnings import (
    ConfigurationError,
    DifferenceWarning,
    definition_location,
    warn_at_definition,
)
from lightning_shim.epoch_outputs import StepOutputs
from lightning_shim.hooks import Hooks
from lightning_shim.metrics import MetricViews
from lightning_shim.optimizers import SchedulerConfig
from lightning_shim.progress import Progress
from lightning_shim.strategy import StrategyFacade


def _nothing() -> None:
    """Takes the place of the counter while no manual optimization runs."""


class Optimization:
    """Trains on batches; follows Lightning's ``_AutomaticOptimization`` and ``_ManualOptimization``.

    Args:
        module: The LightningModule.
        strategy: Runs the step, backward and the optimizers.
        hooks: Its hooks.
        progress: Where training stands; the counts of steps are kept here.
        accumulate_grad_batches: Batches whose gradients are added up before a step.
    """

    def __init__(
        self,
        module: Any,
        strategy: StrategyFacade,
        hooks: Hooks,
        progress: Progress,
        accumulate_grad_batches: int,
    ) -> None:
        self._module: Final = module
        self._strategy: Final = strategy
        self._hooks: Final = hooks
        self._progress: Final = progress
        self._accumulate: Final = accumulate_grad_batches

    def should_accumulate(self) -> bool:
        """Tells whether the present batch only adds to the gradients; the last batch of an epoch always steps."""
        progress = self._progress
        return (progress.batch_idx + 1) % self._accumulate != 0 and not progress.is_last_batch

    def run(self, args: tuple[Any, ...]) -> StepOutputs:
        """Trains on a batch.

        Args:
            args: The arguments of ``training_step``.

        Returns:
            What was returned for the one split of the batch and the one optimizer.
        """
        return [[self._automatic(args) if self._module.automatic_optimization else self._manual(args)]]

    def batch_end_outputs(self, outputs: StepOutputs) -> Any:
        """Returns what ``on_train_batch_end`` gets as ``outputs``.

        Args:
            outputs: What :meth:`run` returned.
        """
        return outputs[0][0]

    def _automatic(self, args: tuple[Any, ...]) -> dict[str, Any]:
        closure = Closure(self, args)
        if self.should_accumulate():
            with self._strategy.block_backward_sync():
                closure()
        else:
            progress = self._progress
            self._hooks.module_or_default(
                "optimizer_step",
                progress.current_epoch,
                progress.batch_idx,
                self._strategy.lightning_optimizer,
                closure,
            )
            progress.automatic_steps += 1
        return closure.outputs()

    def _manual(self, args: tuple[Any, ...]) -> dict[str, Any]:
        self._strategy.count_steps(self._count_step)
        try:
            output = self._training_step(args)
        finally:
            self._strategy.count_steps(_nothing)
        if isinstance(output, Mapping):
            outputs = dict(output)
        elif isinstance(output, Tensor):
            outputs = {"loss": output}
        elif output is None:
            outputs = {}
        else:
            raise ConfigurationError(
                f"{definition_location(self._module.training_step)}: training_step returned {output!r}; with manual "
                "optimization it returns a tensor, a dictionary or nothing."
            )
        if "loss" in outputs:
            outputs["loss"] = outputs["loss"].detach()
        return outputs

    def _training_step(self, args: tuple[Any, ...]) -> Any:
        output = self._hooks.run("training_step", self._strategy.training_step, *args)
        return self._hooks.end_of_step("training_step_end", output)

    def _count_step(self) -> None:
        self._progress.manual_steps += 1

    def step_schedulers(self, interval: str, views: Callable[[], MetricViews] | None = None) -> None:
        """Steps the schedulers that are due.

        Args:
            interval: ``"step"`` or ``"epoch"``.
            views: Gives the metrics that a ReduceLROnPlateau may follow; None steps the other schedulers.

        Raises:
            ConfigurationError: If a strict scheduler follows a metric that has not been logged.
        """
        configs = self._strategy.lr_scheduler_configs
        if not configs or not self._module.automatic_optimization:
            return
        if interval == "step" and self.should_accumulate():
            return
        progress = self._progress
        count = (progress.batch_idx if interval == "step" else progress.current_epoch) + 1
        for config in configs:
            if config.reduce_on_plateau is (views is None) or config.interval != interval:
                continue
            if count % config.frequency == 0 and self._is_scheduled(config.scheduler):
                self._step_scheduler(config, views)

    def _is_scheduled(self, scheduler: Any) -> bool:
        """Tells whether it is the turn of a scheduler's optimizer."""
        return True

    def _step_scheduler(self, config: SchedulerConfig, views: Callable[[], MetricViews] | None) -> None:
        metric = None
        if views is not None:
            metrics = views().callback
            metric = metrics.get(config.monitor or "")
            if metric is None:
                message = (
                    f"the scheduler follows {config.monitor!r}, which has not been logged by now. Logged are: "
                    f"{', '.join(sorted(metrics)) or 'no metrics'}."
                )
                definition = self._module.configure_optimizers
                if config.strict:
                    raise ConfigurationError(f"{definition_location(definition)}: {message}")
                warn_at_definition(definition, f"{message} The learning rate stays as it is.", DifferenceWarning)
                return
        self._hooks.module_or_default("lr_scheduler_step", config.scheduler, metric)


class Closure:
    """What the optimizer calls to get its gradients: ``training_step``, ``zero_grad`` and ``backward``."""

    __slots__ = (
        "_accumulate",
        "_args",
        "_called",
        "_extra",
        "_hooks",
        "_loss",
        "_module",
        "_optimization",
        "_progress",
        "_strategy",
    )

    def __init__(self, optimization: Optimization, args: tuple[Any, ...]) -> None:
        self._optimization = optimization
        self._module = optimization._module
        self._strategy = optimization._strategy
        self._hooks = optimization._hooks
        self._progress = optimization._progress
        self._accumulate = optimization._accumulate
        self._args = args
        self._called = False
        self._loss: Tensor | None = None
        self._extra: dict[str, Any] = {}

    @torch.enable_grad()
    def __call__(self) -> Tensor | None:
        """Computes the gradients and returns the loss, without its graph."""
        self._called = True
        loss = self._training_step()
        progress, hooks, strategy = self._progress, self._hooks, self._strategy
        if progress.batch_idx % self._accumulate == 0:
            optimizer = strategy.optimizer
            hooks.call("on_before_zero_grad", optimizer)
            hooks.module_or_default("optimizer_zero_grad", progress.current_epoch, progress.batch_idx, optimizer)
        if loss is not None:
            strategy.backward(loss, strategy.optimizer)
        return self._loss

    def _training_step(self) -> Tensor | None:
        output = self._optimization._training_step(self._args)
        if isinstance(output, Tensor):
            loss: Tensor | None = output
            self._extra = {}
        elif isinstance(output, Mapping) and output.get("loss") is not None:
            loss = output["loss"]
            self._extra = {key: value for key, value in output.items() if key != "loss"}
        elif output is None:
            self._refuse_skipping()
            loss = None
            self._extra = {}
        else:
            raise ConfigurationError(
                f"{definition_location(self._module.training_step)}: training_step returned {output!r}; with automatic "
                'optimization it returns the loss, a dictionary with the key "loss", or None to skip the batch.'
            )
        if loss is not None and self._accumulate > 1:
            loss = loss / self._accumulate
        # A copy, since a scaler or the user's backward may change the loss in place.
        self._loss = None if loss is None else loss.detach().clone()
        return loss

    def _refuse_skipping(self) -> None:
        if self._strategy.world_size > 1:
            raise ConfigurationError(
                f"{definition_location(self._module.training_step)}: training_step returned None, which would leave "
                "the other processes waiting for this one's gradients. Return a loss of zero instead."
            )

    def outputs(self) -> dict[str, Any]:
        """Returns what the step returned, the loss without its graph."""
        if not self._called:
            raise ConfigurationError(
                f"{definition_location(self._module.optimizer_step)}: optimizer_step never called the closure. Pass it "
                "on: optimizer.step(closure=optimizer_closure)."
            )
        return {} if self._loss is None else {"loss": self._loss, **self._extra}

"""Optimization as in Lightning 1.x: several optimizers in turn, and batches split along time."""

from __future__ import annotations

import bisect
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import definition_location
from lightning_shim.lightning1.hook_arguments import positional_parameters, takes_argument, with_former_arguments
from lightning_shim.loop.epoch_outputs import StepOutputs, squeezed
from lightning_shim.loop.optimization import Optimization


def needs_lightning1_optimization(module: Any) -> bool:
    """Whether a module trains in a way that only Lightning 1.x supported."""
    takes_hiddens = bool(getattr(module, "truncated_bptt_steps", 0)) and _takes_hiddens(module.training_step)
    return takes_argument(module.training_step, "optimizer_idx") or takes_hiddens


def _takes_hiddens(training_step: Callable[..., Any]) -> bool:
    """Whether a step has a parameter for hidden states, under any name. Without one it splits batches by itself."""
    others = 3 if takes_argument(training_step, "optimizer_idx") else 2
    return len(positional_parameters(training_step)) > others


class Lightning1Optimization(Optimization):
    """Trains on batches as ``TrainingBatchLoop`` and ``OptimizerLoop`` of Lightning 1.9 do.

    It takes the arguments of :class:`Optimization`.
    """

    _hiddens: Any = None

    def run(self, args: tuple[Any, ...]) -> StepOutputs:
        """Trains on each split of a batch with each optimizer, and returns the outputs by both."""
        outputs: StepOutputs = []
        try:
            for split in self._splits(args[0]):
                split_args = (split, *args[1:])
                if self._module.automatic_optimization:
                    returned = self._with_each_optimizer(split_args)
                else:
                    returned = [self._manual((*split_args, *self._hidden_args())) or None]
                if any(entry is not None for entry in returned):
                    outputs.append(returned)
        finally:
            # Hidden states pass from split to split, but not to the next batch.
            self._hiddens = None
        return outputs

    def batch_end_outputs(self, outputs: StepOutputs) -> Any:
        """Returns the ``outputs`` argument of ``on_train_batch_end``."""
        return squeezed(outputs, depth=2) if outputs else []

    @property
    def _truncated_bptt_steps(self) -> int:
        steps = int(getattr(self._module, "truncated_bptt_steps", 0) or 0)
        return steps if self._gets_hiddens else 0

    # Cached: inspecting a signature for every batch is slow.

    @functools.cached_property
    def _gets_hiddens(self) -> bool:
        return _takes_hiddens(self._module.training_step)

    @functools.cached_property
    def _index_parameter(self) -> inspect.Parameter | None:
        return inspect.signature(self._module.training_step).parameters.get("optimizer_idx")

    @functools.cached_property
    def _toggle(self) -> Callable[..., Any]:
        return with_former_arguments("toggle_optimizer", self._module.toggle_optimizer, self._hooks.lightning1_values)

    def _splits(self, batch: Any) -> Sequence[Any]:
        if self._truncated_bptt_steps == 0:
            return [batch]
        if self._hooks.overridden("tbptt_split_batch"):
            splits: Sequence[Any] = self._hooks.module("tbptt_split_batch", batch, self._truncated_bptt_steps)
            return splits
        return self._split(batch, self._truncated_bptt_steps)

    def _split(self, batch: Any, size: int) -> Sequence[Any]:
        """Splits a batch along time: the second dimension of a tensor, the entries themselves of a list."""
        parts = [part for part in batch if isinstance(part, (Tensor, Sequence))]
        lengths = {len(part[0]) for part in parts}
        if len(lengths) != 1:
            raise ConfigurationError(
                f"{definition_location(self._module.training_step)}: truncated_bptt_steps={size} splits a batch along "
                f"time, but its parts are {sorted(lengths)} steps long. Define tbptt_split_batch."
            )
        return [
            [
                part[:, start : start + size]
                if isinstance(part, Tensor)
                else [entry[start : start + size] for entry in part]
                for part in parts
            ]
            for start in range(0, lengths.pop(), size)
        ]

    def _hidden_args(self) -> tuple[Any, ...]:
        return (self._hiddens,) if self._truncated_bptt_steps > 0 else ()

    def _with_each_optimizer(self, args: tuple[Any, ...]) -> list[Any]:
        strategy, module = self.strategy, self._module
        has_several = len(strategy.optimizers) > 1
        # With a single optimizer Lightning 1.x left the index out if the parameter had a default.
        parameter = self._index_parameter
        gets_index = parameter is not None and (has_several or parameter.default is parameter.empty)
        outputs: list[Any] = [None] * len(strategy.optimizers)
        for index in self._active_optimizers(self._progress.batch_idx):
            strategy.take_turn(index)
            if has_several:
                # Switches off the gradients of parameters that belong to other optimizers only.
                self._toggle(strategy.optimizers[index])
            step_args = (*args, index) if gets_index else args
            # An empty output means that the step was skipped.
            outputs[index] = self._automatic((*step_args, *self._hidden_args())) or None
            if has_several:
                module.untoggle_optimizer(index)
        # Between two batches the first optimizer is the current one.
        strategy.take_turn(0)
        return outputs

    def _active_optimizers(self, batch_idx: int) -> Sequence[int]:
        """Returns the indices of the optimizers whose turn it is: all of them unless there are frequencies."""
        frequencies = self.strategy.optimizer_frequencies
        if not frequencies:
            return range(len(self.strategy.optimizers))
        ends = list(itertools.accumulate(frequencies))
        return [bisect.bisect(ends, batch_idx % ends[-1])]

    def _is_scheduled(self, scheduler: Any) -> bool:
        # Lightning 1.9 counts the turns of optimizers in the epoch, but those of schedulers over all epochs.
        return self.strategy.index_of(scheduler) in self._active_optimizers(self._progress.total_batch_idx)

    def _training_step(self, args: tuple[Any, ...]) -> Any:
        output = super()._training_step(args)
        if self._truncated_bptt_steps == 0:
            return output
        if not isinstance(output, Mapping) or "hiddens" not in output:
            raise ConfigurationError(
                f'{definition_location(self._module.training_step)}: training_step returned no "hiddens", although '
                'truncated_bptt_steps splits the batches. Return {"loss": ..., "hiddens": ...}.'
            )
        self._hiddens = apply_to_collection(output["hiddens"], Tensor, torch.Tensor.detach)
        return {key: value for key, value in output.items() if key != "hiddens"}

"""Continues Lightning's StochasticWeightAveraging where a checkpoint was written, in the middle of an epoch too.

What the callback saves by itself is enough to continue at the start of an epoch, where it makes its scheduler anew and
changes the learning rates by that. Its private names that are relied on are ``_scheduler_state`` and
``_init_n_averaged``, what it has loaded; ``_swa_scheduler``, ``_initialized``, ``_average_model`` and ``_device``, what
the start of an epoch makes of it; and ``_accumulate_grad_batches``, what it restores when training ends.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.optim.swa_utils import SWALR

from lightning_shim.loop.runtime import Runtime

_KEY: Final = "lightning_shim.averaging"
"""Where it stands in a checkpoint, if an average has been begun."""


class WeightAveragingState:
    """What the checkpoints of a trial need to hold of StochasticWeightAveraging, beside the callback's own state.

    Args:
        runtime: The parts, of which the strategy has the optimizers and schedulers.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._session: Final = runtime.session
        self._module: Final = runtime.session.module
        self._strategy: Final = runtime.strategy
        self._loaded: dict[str, Any] = {}

    @property
    def _callbacks(self) -> list[Any]:
        averaging = self._session.lightning.StochasticWeightAveraging
        return [callback for callback in self._session.callbacks if isinstance(callback, averaging)]

    def needs_gradients(self, epoch: int) -> bool:
        """Tells whether a step to come may use gradients that are there, although none is to be accumulated.

        The epoch that the callback adds for batch normalisation goes backward nowhere, and ends with a step.

        Args:
            epoch: The index of the running epoch.
        """
        return any(
            callback.pl_module_contains_batch_norm(self._module) and epoch >= callback.swa_end
            for callback in self._callbacks
        )

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Adds the state to a checkpoint.

        Args:
            checkpoint: What Determined is about to save; changed in place.
        """
        names = {submodule: name for name, submodule in self._module.named_modules()}
        state = {
            callback.state_key: {
                "momenta": {names[submodule]: momentum for submodule, momentum in callback.momenta.items()},
                "accumulate_grad_batches": getattr(callback, "_accumulate_grad_batches", None),
            }
            for callback in self._callbacks
            if callback._swa_scheduler is not None
        }
        if state:
            checkpoint[_KEY] = state

    @staticmethod
    def has_swapped_schedulers(checkpoint: dict[str, Any]) -> bool:
        """Tells whether the callback's scheduler had taken the place of the module's in a trial's checkpoint.

        Args:
            checkpoint: The checkpoint.
        """
        return _KEY in checkpoint

    @property
    def brings_scheduler(self) -> bool:
        """Whether a scheduler will be restored that is none of the module's."""
        return any(callback._scheduler_state is not None for callback in self._callbacks)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the state until it is known whether the trial goes on from there.

        Args:
            checkpoint: What has been read.
        """
        self._loaded = checkpoint.get(_KEY, {})

    def apply(self) -> None:
        """Brings the callbacks to where they were; they, and the optimizers, have loaded their own states."""
        submodules = dict(self._module.named_modules())
        for callback in self._callbacks:
            state = self._loaded.get(callback.state_key)
            if state is None:
                continue
            scheduler = _scheduler(self._strategy.optimizers[0], callback._scheduler_state)
            self._strategy.lr_scheduler_configs[:] = [self._session.lightning.LRSchedulerConfig(scheduler)]
            device = self._module.device
            callback._swa_scheduler, callback._initialized = scheduler, True
            callback._average_model = callback._average_model.to(callback._device or device)
            callback.n_averaged = torch.tensor(callback._init_n_averaged, dtype=torch.long, device=device)
            callback.momenta = {submodules[name]: momentum for name, momentum in state["momenta"].items()}
            callback._accumulate_grad_batches = state["accumulate_grad_batches"]


def _scheduler(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> SWALR:
    """Makes a scheduler as it was; with the defaults, its constructor leaves the learning rates as they are."""
    scheduler = SWALR(optimizer, [group["swa_lr"] for group in optimizer.param_groups])  # type: ignore[arg-type]
    scheduler.load_state_dict(state)
    return scheduler

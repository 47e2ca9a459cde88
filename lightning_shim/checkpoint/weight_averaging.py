"""The state that Lightning's StochasticWeightAveraging needs to continue in the middle of an epoch.

The state that the callback saves itself is enough to continue at the start of an epoch, where it creates its scheduler
again, which changes the learning rates. These of its private names are relied on: ``_scheduler_state`` and
``_init_n_averaged``, which it has loaded; ``_swa_scheduler``, ``_initialized``, ``_average_model`` and ``_device``,
which it sets at the start of an epoch; and ``_accumulate_grad_batches``, which it restores when training ends.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.optim.swa_utils import SWALR

from lightning_shim.loop.runtime import Runtime
from lightning_shim.upstream.namespaces import derives_from

_KEY: Final = "lightning_shim.averaging"
"""Its key in a checkpoint that was written after averaging had begun."""


class WeightAveragingState:
    """The state of StochasticWeightAveraging in a checkpoint, in addition to the callback's own."""

    def __init__(self, runtime: Runtime) -> None:
        self._session: Final = runtime.session
        self._module: Final = runtime.session.module
        self._strategy: Final = runtime.strategy
        self._loaded: dict[str, Any] = {}

    @property
    def _callbacks(self) -> list[Any]:
        return [each for each in self._session.callbacks if derives_from(each, "StochasticWeightAveraging")]

    def needs_gradients(self, epoch: int) -> bool:
        """Whether a later step may use the current gradients although none are being accumulated.

        In the epoch that the callback adds for batch normalisation no batch runs ``backward``, yet it ends with a step.
        """
        return any(
            callback.pl_module_contains_batch_norm(self._module) and epoch >= callback.swa_end
            for callback in self._callbacks
        )

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Adds the state to a checkpoint."""
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
        """Whether the callback's scheduler had replaced the module's when a trial's checkpoint was written."""
        return _KEY in checkpoint

    @property
    def brings_scheduler(self) -> bool:
        """Whether the callback will restore a scheduler of its own in place of the module's."""
        return any(callback._scheduler_state is not None for callback in self._callbacks)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the state until :meth:`apply`, if the trial continues from this checkpoint."""
        self._loaded = checkpoint.get(_KEY, {})

    def apply(self) -> None:
        """Restores the callbacks. They and the optimizers have loaded their own states before."""
        submodules = dict(self._module.named_modules())
        for callback in self._callbacks:
            state = self._loaded.get(callback.state_key)
            if state is None:
                continue
            # From here on this does what the callback would do at the start of its first epoch, except that learning
            # rates and averages stay as they were saved.
            scheduler = _scheduler(self._strategy.optimizers[0], callback._scheduler_state)
            self._strategy.lr_scheduler_configs[:] = [self._session.lightning.LRSchedulerConfig(scheduler)]
            device = self._module.device
            callback._swa_scheduler, callback._initialized = scheduler, True
            callback._average_model = callback._average_model.to(callback._device or device)
            callback.n_averaged = torch.tensor(callback._init_n_averaged, dtype=torch.long, device=device)
            callback.momenta = {submodules[name]: momentum for name, momentum in state["momenta"].items()}
            callback._accumulate_grad_batches = state["accumulate_grad_batches"]


def _scheduler(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> SWALR:
    """Rebuilds the callback's scheduler from its state."""
    # With its default arguments the constructor leaves the optimizer's learning rates alone.
    scheduler = SWALR(optimizer, [group["swa_lr"] for group in optimizer.param_groups])  # type: ignore[arg-type]
    scheduler.load_state_dict(state)
    return scheduler

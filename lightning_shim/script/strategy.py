"""The strategy of a script's own Trainer.

The trial trains in place of this Trainer. In a script's only process it has the script's own DDP, or Lightning's choice
for one device.

Of several processes each validates and tests alone. Lightning's strategies would start a process group of their own, so
there it is one for a single device. Its ranks are those of the trial, so that a script's ``if trainer.is_global_zero``
and the files that Lightning writes are right.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Final

import torch.distributed

from lightning_shim.upstream.determined.context import own_device
from lightning_shim.upstream.lightning_strategy import forget_parts, is_distributed
from lightning_shim.upstream.namespaces import namespace_of

_RANKS: Final = {
    "global_rank": ("RANK", 0),
    "local_rank": ("LOCAL_RANK", 0),
    "node_rank": ("GROUP_RANK", 0),
    "world_size": ("WORLD_SIZE", 1),
    "num_nodes": ("GROUP_WORLD_SIZE", 1),
}
"""torchrun's variable and the value without torchrun, by the attribute of a strategy."""


def strategy_of(trainer: Any, given: dict[str, Any]) -> Any:
    """Returns the argument ``strategy`` for a Trainer that is being built."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        own = given.get("strategy", "auto")
        if not is_distributed(own):
            return "auto"
        forget_parts(own)
        return own
    strategy = _one_of_several(namespace_of(trainer).module("strategies").SingleDeviceStrategy)(own_device())
    if not _is_alone(given):
        strategy.join()
    return strategy


def join_processes(trainer: Any) -> None:
    """Gives a Trainer the ranks of the trial's processes after ``fit``, even if it was built for one device."""
    if hasattr(trainer.strategy, "join"):
        trainer.strategy.join()


def _is_alone(given: dict[str, Any]) -> bool:
    """Whether a Trainer would have a single process under Lightning too, such as one that only tests."""
    devices = given.get("devices")
    count = len(devices) if isinstance(devices, (list, tuple)) else devices
    return str(count) == "1" and given.get("num_nodes") in (None, 1)


@functools.cache
def _one_of_several(single_device_class: Any) -> Any:
    """Returns the class of the strategy for one namespace of Lightning."""

    class OneOfSeveral(single_device_class):  # type: ignore[misc]  # it is not known before
        """Lightning's strategy for one device, with the ranks of its strategy for several processes."""

        def join(self) -> None:
            for attribute, (variable, alone) in _RANKS.items():
                setattr(self, attribute, int(os.environ.get(variable, alone)))

        @property
        def is_global_zero(self) -> bool:
            return bool(self.global_rank == 0)

        def barrier(self, *args: Any, **kwargs: Any) -> None:
            # Before fit there is no process group, as in Lightning.
            if self.world_size > 1 and torch.distributed.is_initialized():
                is_on_gpus = torch.distributed.get_backend() == "nccl"
                torch.distributed.barrier(device_ids=[self.root_device.index] if is_on_gpus else None)

    return OneOfSeveral

"""The strategy of a script's own Trainer where several processes train: it evaluates alone, and knows the others."""

from __future__ import annotations

import functools
import os
from typing import Any, Final

import torch
import torch.distributed

from lightning_shim.upstream.determined.context import devices
from lightning_shim.upstream.namespaces import namespace_of

_RANKS: Final = {
    "global_rank": ("RANK", 0),
    "local_rank": ("LOCAL_RANK", 0),
    "node_rank": ("GROUP_RANK", 0),
    "world_size": ("WORLD_SIZE", 1),
    "num_nodes": ("GROUP_WORLD_SIZE", 1),
}
"""By the attribute of a strategy, the variable in which torchrun says it, and what it is without torchrun."""


def strategy_of(trainer: Any, given: dict[str, Any]) -> Any:
    """Returns the argument ``strategy`` for a Trainer that is about to be made.

    Args:
        trainer: The Trainer.
        given: The arguments that the user has given.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return "auto"
    strategy = _one_of_several(namespace_of(trainer).module("strategies").SingleDeviceStrategy)(_device())
    if not _is_alone(given):
        strategy.join()
    return strategy


def join_processes(trainer: Any) -> None:
    """Says that a Trainer has fitted together with those of the other processes, if there are any.

    Args:
        trainer: The user's Trainer.
    """
    if hasattr(trainer.strategy, "join"):
        trainer.strategy.join()


def _is_alone(given: dict[str, Any]) -> bool:
    """Tells whether a Trainer under Lightning would have no other processes, as one that only tests."""
    devices = given.get("devices")
    count = len(devices) if isinstance(devices, (list, tuple)) else devices
    return str(count) == "1" and given.get("num_nodes") in (None, 1)


def _device() -> torch.device:
    own = devices()
    return torch.device("cuda", own[0]) if isinstance(own, list) else torch.device("cpu")


@functools.cache
def _one_of_several(single_device_class: Any) -> Any:
    """Makes the class of the strategy for a namespace of Lightning's."""

    class OneOfSeveral(single_device_class):  # type: ignore[misc]  # it is not known before
        """Lightning's strategy for one device, with the ranks that its strategy for several processes has."""

        def join(self) -> None:
            for attribute, (variable, alone) in _RANKS.items():
                setattr(self, attribute, int(os.environ.get(variable, alone)))

        @property
        def is_global_zero(self) -> bool:
            return bool(self.global_rank == 0)

        def barrier(self, *args: Any, **kwargs: Any) -> None:
            # Before fit the processes have not come together, as in Lightning.
            if self.world_size > 1 and torch.distributed.is_initialized():
                is_on_gpus = torch.distributed.get_backend() == "nccl"
                torch.distributed.barrier(device_ids=[self.root_device.index] if is_on_gpus else None)

    return OneOfSeveral

"""The state of all global random number generators."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class RandomState:
    """A moment of the generators of Python, NumPy and PyTorch, on the CPU and on the current CUDA device.

    Attributes:
        own: The states of generators that somebody has made, such as a loader's.
    """

    python: Any
    numpy: Any
    torch_cpu: torch.Tensor
    torch_cuda: torch.Tensor | None
    own: list[torch.Tensor]

    @classmethod
    def capture(cls, generators: list[torch.Generator]) -> RandomState:
        """Returns the present state.

        Args:
            generators: Generators beside the global ones.
        """
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        own = [generator.get_state() for generator in generators]
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda, own)

    def restore(self, generators: list[torch.Generator]) -> None:
        """Makes this the present state.

        Args:
            generators: The same generators beside the global ones, in the same order.
        """
        for generator, state in zip(generators, self.own, strict=False):
            generator.set_state(state)
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.torch_cuda)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as plain values, arrays and tensors."""
        return {name: getattr(self, name) for name in self.__slots__}

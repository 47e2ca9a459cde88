"""The state of all global random number generators."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class RandomState:
    """A snapshot of the generators of Python, NumPy and PyTorch, on the CPU and on the current CUDA device."""

    python: Any
    numpy: Any
    torch_cpu: torch.Tensor
    torch_cuda: torch.Tensor | None

    @classmethod
    def capture(cls) -> RandomState:
        """Returns the current state."""
        # The current device alone, since each process trains on one.
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def restore(self) -> None:
        """Sets the generators to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        # A trial may resume on a machine without a GPU.
        if self.torch_cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.torch_cuda)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as plain values and tensors."""
        # The generators of Python and NumPy have over 600 numbers each. As a list, pickle would ask torch.save about
        # each of them.
        version, python_key, python_gauss = self.python
        name, numpy_key, *rest = self.numpy
        return {
            "python": (version, torch.tensor(python_key), python_gauss),
            "numpy": (name, torch.tensor(numpy_key.astype(np.int64)), *rest),
            "torch_cpu": self.torch_cpu,
            "torch_cuda": self.torch_cuda,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> RandomState:
        """Rebuilds a snapshot from its :meth:`state_dict`."""
        version, python_key, python_gauss = state["python"]
        name, numpy_key, *rest = state["numpy"]
        python = (version, tuple(python_key.tolist()), python_gauss)
        return cls(python, (name, numpy_key.numpy(), *rest), state["torch_cpu"], state["torch_cuda"])

    def same(self, other: RandomState) -> dict[str, bool]:
        """Compares each generator with that of another snapshot, by the name of the library."""
        # NumPy's state is a tuple of the algorithm's name, the key, the position in it, and two values for normal().
        return {
            "random": self.python == other.python,
            "numpy": bool(self.numpy[2] == other.numpy[2] and np.array_equal(self.numpy[1], other.numpy[1])),
            "torch": torch.equal(self.torch_cpu, other.torch_cpu),
        }


def seed_generators(seed: int) -> None:
    """Seeds the generators of Python, NumPy and PyTorch by an integer from 0 to 2**32 - 1."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

"""The outputs of an epoch's steps, for hooks of Lightning 1.x that receive them all when the epoch ends."""

from __future__ import annotations

from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

StepOutputs = list[list[Any]]
"""The outputs of a training batch, by split of the batch and then by optimizer; None for a step that was skipped."""


class TrainingOutputs:
    """The outputs of ``training_step`` in an epoch, without their graphs; none are kept if no hook takes them."""

    def __init__(self) -> None:
        # A kept output stays in the device's memory until the epoch ends, so nobody pays for this unless asked.
        self.is_needed = False
        self._batches: list[StepOutputs] = []

    def append(self, outputs: StepOutputs) -> None:
        """Keeps the outputs of a batch. Call it only if they are needed."""
        self._batches.append(apply_to_collection(outputs, Tensor, Tensor.detach))

    def clear(self) -> None:
        """Forgets the outputs, after an epoch."""
        self._batches = []

    def of_epoch(self) -> list[Any]:
        """Returns the outputs as ``training_epoch_end`` takes them, one entry for each trained batch.

        It is a dictionary; a list of dictionaries for several optimizers or several splits of a batch; a list of lists
        for both.
        """
        outputs = squeezed(self._batches, depth=3)
        if not isinstance(outputs, list):
            outputs = [outputs]
        return [entry for entry in outputs if entry is not None and entry != []]

    def state_dict(self) -> dict[str, Any]:
        """Returns the outputs so far, for a pause in the middle of an epoch."""
        on_host: list[bool] = []
        # In the order in which they are visited again: checkpoints are read with all tensors on the CPU.
        apply_to_collection(self._batches, Tensor, lambda tensor: on_host.append(tensor.device.type == "cpu"))
        return {"batches": self._batches, "on_host": on_host}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restores the outputs of an interrupted epoch."""
        on_host = iter(state["on_host"])
        self._batches = apply_to_collection(
            state["batches"], Tensor, lambda tensor: tensor if next(on_host) else tensor.to(device)
        )


def squeezed(outputs: list[Any], depth: int) -> Any:
    """Drops skipped entries of nested lists and every level with one entry throughout, as Lightning 1.9 does."""
    widths = []
    level = [outputs]
    for _ in range(depth):
        widths.append(max((len(entry) for entry in level), default=0))
        level = [inner for entry in level for inner in entry if isinstance(inner, list)]
    return _squeeze(outputs, widths)


def _squeeze(outputs: Any, widths: list[int]) -> Any:
    if not widths or outputs is None:
        return outputs
    if widths[0] == 1:
        return _squeeze(outputs[0] if outputs else None, widths[1:])
    entries = [_squeeze(entry, widths[1:]) for entry in outputs]
    return [entry for entry in entries if entry is not None]

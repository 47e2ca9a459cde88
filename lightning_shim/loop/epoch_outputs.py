"""What the steps of an epoch have returned, for hooks of Lightning 1.x that get it at the epoch's end."""

from __future__ import annotations

from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

StepOutputs = list[list[Any]]
"""What a training batch has returned: for each split of the batch, for each optimizer; None where it was skipped."""


class TrainingOutputs:
    """What ``training_step`` has returned for the batches of an epoch, without the graphs.

    Attributes:
        is_needed: Whether any hook wants to have it; otherwise nothing is kept.
    """

    def __init__(self) -> None:
        self.is_needed = False
        self._batches: list[StepOutputs] = []

    def append(self, outputs: StepOutputs) -> None:
        """Keeps the outputs of a batch; called only if they are needed.

        Args:
            outputs: What the batch has returned.
        """
        self._batches.append(apply_to_collection(outputs, Tensor, Tensor.detach))

    def clear(self) -> None:
        """Forgets all, after an epoch."""
        self._batches = []

    def of_epoch(self) -> list[Any]:
        """Returns the outputs as ``training_epoch_end`` gets them.

        Returns:
            One entry for each batch that was trained: a dictionary; a list of them if there are several optimizers, or
            splits of a batch; a list of lists if there are both.
        """
        outputs = squeezed(self._batches, depth=3)
        if not isinstance(outputs, list):
            outputs = [outputs]
        return [entry for entry in outputs if entry is not None and entry != []]

    def state_dict(self) -> list[StepOutputs]:
        """Returns what is needed to continue in the middle of an epoch."""
        return self._batches

    def load_state_dict(self, batches: list[StepOutputs]) -> None:
        """Takes over what :meth:`state_dict` returned.

        Args:
            batches: What was saved.
        """
        self._batches = batches


def squeezed(outputs: list[Any], depth: int) -> Any:
    """Leaves out the levels of a nested list that have one entry everywhere, and what was skipped, as Lightning 1.9.

    Args:
        outputs: A list of lists, of that depth.
        depth: The number of levels.

    Returns:
        The nested list of the other levels, or the entry if there is no other level.
    """
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

"""Where training stands, in Lightning's terms; all of it goes into the checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Progress:
    """Counters that follow ``pytorch_lightning.loops.progress``.

    Attributes:
        current_epoch: Epochs whose ``on_train_epoch_end`` has run: ``trainer.current_epoch``.
        batch_idx: Index in the epoch of the last batch that was started; -1 before the first.
        total_batch_idx: The same over all epochs.
        is_last_batch: Whether that batch is the epoch's last one.
        automatic_steps: Optimizer steps taken by automatic optimization.
        manual_steps: Optimizer steps taken by manual optimization; a module that switches has both.
        batches_that_stepped: Batches that completed a step; the ``step`` under which Lightning logs.
        batch_end_is_due: The batch was trained, but what follows validation has not been done for it yet.
        last_batch_stepped: That completed a step, and batches_that_stepped counts it.
        epoch_is_running: ``on_train_epoch_start`` has run, ``on_train_epoch_end`` has not.
        has_validated: A validation has run.
    """

    current_epoch: int = 0
    batch_idx: int = -1
    total_batch_idx: int = -1
    is_last_batch: bool = False
    automatic_steps: int = 0
    manual_steps: int = 0
    batches_that_stepped: int = 0
    batch_end_is_due: bool = False
    last_batch_stepped: bool = False
    epoch_is_running: bool = False
    has_validated: bool = False

    @property
    def counts_last_batch(self) -> bool:
        """Whether the batch that was trained last is among batches_that_stepped: only after validation."""
        return self.last_batch_stepped and not self.batch_end_is_due

    def state_dict(self) -> dict[str, Any]:
        """Returns the counters as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the counters of a checkpoint.

        Args:
            state: What :meth:`state_dict` returned.
        """
        for name, value in state.items():
            setattr(self, name, value)

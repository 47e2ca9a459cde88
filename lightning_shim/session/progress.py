"""The counters of a training in Lightning's terms. All of them go into the checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Progress:
    """Counters that follow ``pytorch_lightning.loops.progress``.

    Attributes:
        current_epoch: Epochs whose ``on_train_epoch_end`` has run: ``trainer.current_epoch``.
        batch_idx: Index within the epoch of the last batch that was started; -1 before the first.
        total_batch_idx: The same over all epochs.
        is_last_batch: Whether that batch is the last of its epoch.
        ends_early: Whether it is the last because ``on_train_batch_start`` returned -1.
        ends_within_step: Whether it is the last because ``training_step`` raised StopIteration, as
            ``next(dataloader_iter)`` does after the last batch.
        automatic_steps: Optimizer steps of automatic optimization.
        manual_steps: Optimizer steps of manual optimization. A module that switches has both.
        batches_that_stepped: Batches that completed a step; the ``step`` of Lightning's loggers.
        batch_end_is_due: Whether the last batch has been trained, but not yet ended as Lightning does after validating.
        last_batch_stepped: Whether the last batch completed a step that ``batches_that_stepped`` counts.
        epoch_is_running: Whether ``on_train_epoch_start`` has run and ``on_train_epoch_end`` has not.
        has_validated: Whether the newest validation has evaluated a batch; Lightning's ``val_loop._has_run``.
        validation_batches: The batches that have been evaluated of each validation loader, over all validations; the
            ``step`` of Lightning's loggers for what a batch of them logs.
    """

    current_epoch: int = 0
    batch_idx: int = -1
    total_batch_idx: int = -1
    is_last_batch: bool = False
    ends_early: bool = False
    ends_within_step: bool = False
    automatic_steps: int = 0
    manual_steps: int = 0
    batches_that_stepped: int = 0
    batch_end_is_due: bool = False
    last_batch_stepped: bool = False
    epoch_is_running: bool = False
    has_validated: bool = False
    validation_batches: dict[int, int] = field(default_factory=dict)

    @property
    def counts_last_batch(self) -> bool:
        """Whether the batch that was trained last is among batches_that_stepped: only after validation."""
        return self.last_batch_stepped and not self.batch_end_is_due

    @property
    def epochs_trained(self) -> int:
        """The number of epochs whose last batch has been trained."""
        return self.current_epoch + (self.epoch_is_running and self.is_last_batch)

    def state_dict(self) -> dict[str, Any]:
        """Returns the counters as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the counters of a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)

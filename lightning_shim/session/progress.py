"""The counters of a training in Lightning's terms. All of them go into the checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Progress:
    """Counters that follow ``pytorch_lightning.loops.progress``."""

    current_epoch: int = 0  # epochs whose `on_train_epoch_end` has run: `trainer.current_epoch`
    batch_idx: int = -1  # index within the epoch of the last batch that was started; -1 before the first
    total_batch_idx: int = -1  # the same over all epochs
    is_last_batch: bool = False  # whether that batch is the last of its epoch
    ends_early: bool = False  # whether it is the last because `on_train_batch_start` returned -1
    # Whether it is the last because `training_step` raised StopIteration, as `next(dataloader_iter)` does after the
    # last batch.
    ends_within_step: bool = False
    automatic_steps: int = 0  # optimizer steps of automatic optimization
    manual_steps: int = 0  # optimizer steps of manual optimization. A module that switches has both.
    batches_that_stepped: int = 0  # batches that completed a step; the `step` of Lightning's loggers
    # Whether the last batch has been trained, but not yet ended as Lightning does after validating.
    batch_end_is_due: bool = False
    last_batch_stepped: bool = False  # whether the last batch completed a step that `batches_that_stepped` counts
    epoch_is_running: bool = False  # whether `on_train_epoch_start` has run and `on_train_epoch_end` has not
    has_validated: bool = False  # whether the newest validation has evaluated a batch; Lightning's `val_loop._has_run`
    # The batches that have been evaluated of each validation loader, over all validations; the `step` of Lightning's
    # loggers for what a batch of them logs.
    validation_batches: dict[int, int] = field(default_factory=dict)
    validation_batches_of_epoch: int = 0  # those of all loaders since the training epoch began

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

"""The counters of a training in Lightning's terms. All of them go into the checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

COUNTS: Final = ("ready", "started", "processed", "completed")
"""Lightning's counts of a batch or an epoch, in the order in which they come to include it."""

NOT_YET_COUNTED: Final = {
    hook: missing
    for missing, hooks in (
        (3, "on_train_epoch_start on_batch_start on_train_batch_start on_validation_batch_start"),
        (2, "training_step training_step_end on_before_backward backward on_after_backward on_before_zero_grad"),
        (2, "optimizer_zero_grad on_before_optimizer_step configure_gradient_clipping optimizer_step"),
        (2, "validation_step validation_step_end"),
        (1, "on_train_epoch_end lr_scheduler_step on_train_batch_end on_batch_end on_validation_batch_end"),
    )
    for hook in hooks.split()
}
"""How many of the four do not include the batch or epoch in one of whose hooks they are read."""


def counts(number: int, missing: int, refused: int = 0) -> dict[str, int]:
    """Returns Lightning's counts of batches or epochs, the running one included but in those that are ``missing``.

    Batches that ``on_train_batch_start`` has ``refused`` are neither started nor completed.
    """
    return {
        name: number - (place >= len(COUNTS) - missing) - refused * (name in ("started", "completed"))
        for place, name in enumerate(COUNTS)
    }


def missing_of_batch(hook: str | None) -> int:
    """Returns how many of the four counts do not include the training batch, in a hook of whatever kind."""
    return 0 if hook is None or "epoch" in hook or "validation" in hook else NOT_YET_COUNTED.get(hook, 0)


def missing_of_validation_batch(hook: str | None) -> int:
    """Returns how many of the four counts do not include the validation batch, in a hook of whatever kind."""
    return NOT_YET_COUNTED.get(hook, 0) if hook is not None and "validation" in hook else 0


@dataclass(slots=True)
class Progress:
    """Counters that follow ``pytorch_lightning.loops.progress``."""

    current_epoch: int = 0  # epochs whose `on_train_epoch_end` has run: `trainer.current_epoch`
    batch_idx: int = -1  # index within the epoch of the last batch that was started; -1 before the first
    total_batch_idx: int = -1  # the same over all epochs
    is_last_batch: bool = False  # whether that batch is the last of its epoch
    ends_early: bool = False  # whether it is the last because `on_train_batch_start` returned -1
    last_batch_is_refused: bool = False  # whether it was, even if it would have been the last
    refused_batches: int = 0  # batches of all epochs for which `on_train_batch_start` returned -1
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
    validated: int = 0  # batches started in the newest validation, over all loaders
    validated_in_epoch: int = 0  # the same over all validations of the epoch
    is_last_validated: bool = False  # whether the newest of them is the last one of its validation
    uncounted: int = 0  # how many of the four COUNTS an error has kept from including the last batch
    has_broken_validation: bool = False  # whether an error has ended a validation within its newest batch
    step_is_running: bool = False  # whether a step of automatic optimization is not over, which an error may have ended
    epoch_is_processed: bool = False  # whether the epoch that is ending is among Lightning's `processed` ones
    zero_grads: int = 0  # times that automatic optimization has released gradients
    scheduler_steps: int = 0  # steps of schedulers
    # automatic_steps, zero_grads and scheduler_steps when the epoch began.
    before_epoch: tuple[int, int, int] = (0, 0, 0)
    # What Lightning's counts have more than these, after a restart from a checkpoint: see session/loops_state.
    corrections: dict[str, dict[str, int]] = field(default_factory=dict)

    def start_epoch(self) -> None:
        """Counts the batches of another epoch."""
        self.batch_idx = -1
        self.is_last_batch = self.last_batch_is_refused = False
        self.validated_in_epoch = 0
        self.before_epoch = (self.automatic_steps, self.zero_grads, self.scheduler_steps)
        for name in ("batches_of_epoch", "validated_in_epoch"):
            self.corrections.pop(name, None)

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


def counts_of_epochs(progress: Progress, hook: str | None) -> dict[str, int]:
    """Returns Lightning's counts of epochs, as they are in a hook."""
    if hook == "on_train_epoch_start":
        return counts(progress.current_epoch + 1, NOT_YET_COUNTED[hook])
    is_running = progress.epoch_is_running
    return counts(progress.current_epoch + is_running, 2 - progress.epoch_is_processed if is_running else 0)

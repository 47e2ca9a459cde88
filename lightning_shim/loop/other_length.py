"""Goes on from a checkpoint whose epochs had another number of batches, in each process."""

from __future__ import annotations

from typing import Any

from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.loop.training import TrainingLoop
from lightning_shim.session.session import Session


def continue_elsewhere(
    session: Session, loop: TrainingLoop, state: dict[str, Any], size_before: int, size: int
) -> None:
    """Continues from a checkpoint of other loaders or another number of processes, after the same part of an epoch.

    Samples are re-sharded in another order, so old loader positions are meaningless. Determined counts the batches of
    one process; the count is set to the number that these loaders would have reached by now.
    """
    progress, length, length_before = session.progress, loop.length, state["length"]
    loop.restore_settings(state)
    if length is not None:
        if progress.epoch_is_running and progress.is_last_batch:
            progress.batch_idx = length - 1
        elif progress.epoch_is_running:
            trained = progress.batch_idx + 1
            part = trained if length_before is None else trained * length // length_before
            # At least the last batch is left, or the epoch's end, which is still due, would never come.
            progress.batch_idx = min(part, length - 1) - 1
        batches = loop.epoch_length.batches_of_epochs(length)
        progress.total_batch_idx = batches - 1
        session.controller.continue_at(batches, progress.current_epoch)
    trained = progress.batch_idx + 1 if progress.epoch_is_running else 0
    before, now = (
        (f"by {size_before} processes or slots", size)
        if size != size_before
        else (f"with {_batches(length_before)} in an epoch", _batches(length))
    )
    warn_at_caller(
        f"The checkpoint was written {before}, and is continued with {now}: epoch {progress.current_epoch} goes on "
        f"after {trained} of {_batches(length)} of each process, in another order of the samples. Weights, "
        "optimizers, schedulers and steps are those of the checkpoint; random numbers go on from rank 0's on all "
        "processes; what the running epoch has logged, and gradients that were being accumulated, are lost."
    )


def _batches(length: int | None) -> str:
    return "an unknown number of batches" if length is None else f"{length} batches"

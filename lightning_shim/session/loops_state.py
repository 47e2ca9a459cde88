"""The state of Lightning's loops and the counters of a trial, made of each other."""

from __future__ import annotations

from typing import Any

from lightning_shim.session.progress import (
    COUNTS,
    Progress,
    counts,
    counts_of_epochs,
    missing_of_batch,
    missing_of_validation_batch,
)


def _pair(total: dict[str, int], current: dict[str, int]) -> dict[str, dict[str, int]]:
    return {"total": total, "current": current}


def _steps(names: tuple[str, ...], number: int, before: int = 0) -> dict[str, dict[str, int]]:
    """Returns the counts of steps, of which some were before the epoch."""
    return _pair(dict.fromkeys(names, number), dict.fromkeys(names, number - before))


def loops_state(progress: Progress, hook: str | None = None, is_between: bool = False) -> dict[str, Any]:
    """Returns the state of Lightning's loops that corresponds to a trial's progress.

    Args:
        progress: The progress of the training.
        hook: The running hook, if the checkpoint is written in one: the batch or epoch around it is not completed yet.
        is_between: Whether it is written between two batches of an epoch, by Determined. Lightning writes none there:
            it would count the last one when it goes on, or not, if a validation is due. It always does so if the last
            hook was on_train_batch_end.
    """
    missing = 1 if is_between else max(missing_of_batch(hook), progress.uncounted)
    stepped = progress.batches_that_stepped - (is_between and progress.counts_last_batch)
    epochs = counts_of_epochs(progress, hook)
    before = progress.before_epoch
    step = _steps(("ready", "completed"), progress.automatic_steps, before[0])
    for steps in step.values():
        steps["ready"] += progress.step_is_running
    missing_of_validation = max(2 * progress.has_broken_validation, missing_of_validation_batch(hook))
    validated = (
        counts(batches, missing_of_validation) for batches in (progress.validated_in_epoch, progress.validated)
    )
    fit_loop = {
        "state_dict": {},
        "epoch_progress": _pair(epochs, dict(epochs)),
        "epoch_loop.state_dict": {"_batches_that_stepped": stepped},
        "epoch_loop.batch_progress": {
            **_pair(
                counts(progress.total_batch_idx + 1, missing, progress.refused_batches),
                counts(progress.batch_idx + 1, missing, progress.last_batch_is_refused),
            ),
            "is_last_batch": progress.is_last_batch,
        },
        "epoch_loop.scheduler_progress": _steps(("ready", "completed"), progress.scheduler_steps, before[2]),
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": step,
                "zero_grad": _steps(("ready", "started", "completed"), progress.zero_grads, before[1]),
            }
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": _steps(("ready", "completed"), progress.manual_steps),
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": {
            **_pair(*validated),
            "is_last_batch": progress.is_last_validated,
        },
    }
    for name, correction in progress.corrections.items():
        tracked = trackers(fit_loop)[name]
        for count, difference in correction.items():
            tracked[count] += difference
    no_batches = _pair(counts(0, 0), counts(0, 0))
    evaluation = {"state_dict": {}, "batch_progress": {**no_batches, "is_last_batch": False}}
    prediction = {"state_dict": {}, "batch_progress": no_batches}
    return {"fit_loop": fit_loop, "validate_loop": evaluation, "test_loop": evaluation, "predict_loop": prediction}


def trackers(fit_loop: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Returns those counts of Lightning's ``fit_loop`` that may differ from a trial's, by name."""
    optimizer = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]
    return {
        "epochs": fit_loop["epoch_progress"]["current"],
        "epochs_in_all": fit_loop["epoch_progress"]["total"],
        "batches": fit_loop["epoch_loop.batch_progress"]["total"],
        "batches_of_epoch": fit_loop["epoch_loop.batch_progress"]["current"],
        "schedulers": fit_loop["epoch_loop.scheduler_progress"]["total"],
        "steps": optimizer["step"]["total"],
        "zero_grads": optimizer["zero_grad"]["total"],
        "manual_steps": fit_loop["epoch_loop.manual_optimization.optim_step_progress"]["total"],
        "validated": validation["current"],
        "validated_in_epoch": validation["total"],
    }


def progress_of_loops(fit_loop: dict[str, Any]) -> dict[str, Any]:
    """Returns the counters of :class:`Progress`, by name, that correspond to the state of Lightning's ``fit_loop``."""
    batches = fit_loop["epoch_loop.batch_progress"]
    optimizer = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    schedulers = fit_loop["epoch_loop.scheduler_progress"]
    validations = fit_loop["epoch_loop.val_loop.batch_progress"]
    steps = (optimizer["step"], optimizer["zero_grad"], schedulers)
    return {
        "current_epoch": fit_loop["epoch_progress"]["current"]["completed"],
        "batch_idx": batches["current"]["ready"] - 1,
        "total_batch_idx": batches["total"]["ready"] - 1,
        "refused_batches": max(0, batches["total"]["processed"] - batches["total"]["started"]),
        "is_last_batch": batches["is_last_batch"],
        "uncounted": sum(batches["current"]["ready"] > batches["current"][name] for name in COUNTS),
        "automatic_steps": optimizer["step"]["total"]["completed"],
        "manual_steps": fit_loop["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"],
        "batches_that_stepped": fit_loop["epoch_loop.state_dict"].get("_batches_that_stepped", 0),
        "zero_grads": optimizer["zero_grad"]["total"]["completed"],
        "scheduler_steps": schedulers["total"]["completed"],
        "before_epoch": tuple(each["total"]["completed"] - each["current"]["completed"] for each in steps),
        "validated": validations["current"]["completed"],
        "validated_in_epoch": validations["total"]["completed"],
        "is_last_validated": validations["is_last_batch"],
        "corrections": {},
    }


def restart(progress: Progress, fit_loop: dict[str, Any], within_epoch: bool = True) -> None:
    """Takes over the counters of Lightning's ``fit_loop`` when it goes on, within an epoch or with another one.

    Lightning goes on counting batches and steps that an error has ended, or that a hook has saved before their end:
    these are the corrections.
    """
    progress.load_state_dict(progress_of_loops(fit_loop))
    progress.epoch_is_running = within_epoch
    progress.uncounted *= within_epoch
    ours = trackers(loops_state(progress)["fit_loop"])
    progress.corrections = {
        name: {count: number - ours[name][count] for count, number in tracked.items()}
        for name, tracked in trackers(fit_loop).items()
    }

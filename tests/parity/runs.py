"""Further ways to run a case: for other lengths, and with the modules kept."""

from __future__ import annotations

import dataclasses
from typing import Any

from determined import pytorch
from pytest_mock import MockerFixture

from tests.parity.oracle import Case, run_determined, run_lightning
from tests.support.recording import Recording


def run_lightning_by_steps(case: Case, steps: int) -> Recording:
    """Runs a case under Lightning's own Trainer for a number of optimizer steps."""
    return run_lightning(dataclasses.replace(case, max_epochs=-1, options={**case.options, "max_steps": steps}))


def run_determined_by(
    case: Case,
    mocker: MockerFixture,
    max_length: pytorch.TrainUnit,
    validation_period: pytorch.TrainUnit | None = None,
) -> Recording:
    """Runs a case under Determined for a length, and with a period of validation, in Determined's own units."""
    return run_determined(case, mocker, max_length=max_length, validation_period=validation_period)


def forget_last_validation(lightning: Recording, determined: Recording) -> None:
    """Leaves out the validation that Determined adds at the end of a training, and what it has logged or drawn.

    The module has to be recorded with every hook overridden, and to name what it logs in validation ``val_...``.
    """
    hooks = [hook for _, hook, _, _ in determined.events]
    start = len(hooks) - 1 - hooks[::-1].index("on_validation_model_zero_grad")
    end = len(hooks) - 1 - hooks[::-1].index("on_validation_end")
    validation = determined.events[start : end + 1]
    assert all("validation" in hook or "transfer" in hook for _, hook, _, _ in validation)
    del determined.events[start : end + 1]
    last = max(determined.logged)
    determined.logged[last] = [entry for entry in determined.logged[last] if not entry[0].startswith("val_")]
    for recording in (lightning, determined):
        for name in ("callback_metrics", "logged_metrics", "progress_bar_metrics"):
            views: dict[str, Any] = getattr(recording, name)
            setattr(recording, name, {key: value for key, value in views.items() if not key.startswith("val_")})
        # A loader draws a seed for its workers each time that it is iterated.
        recording.random_state = None


def keeping(module: type, made: list[Any]) -> type:
    """Makes a subclass of a module's class whose instances are kept."""

    def __init__(self: Any) -> None:
        module.__init__(self)  # type: ignore[misc]
        made.append(self)

    return type(module.__name__, (module,), {"__init__": __init__})

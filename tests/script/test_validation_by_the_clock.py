"""A ``val_check_interval`` in time validates after the batches that Lightning validates after."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from tests.script.test_trainer_object import ARGUMENTS, Module, attributes, loader

pytestmark = pytest.mark.lightning(">=2.6")


@pytest.mark.parametrize("period", ["00:00:00:03", timedelta(seconds=5), {"minutes": 1}])
@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("every", [1, 2, None])
def test_is_lightnings(
    compared: Any, monkeypatch: pytest.MonkeyPatch, period: Any, has_length: bool, every: int | None
) -> None:
    seconds = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: seconds)

    def script() -> Any:
        seen = []

        def act(hook: str, module: Any) -> None:
            nonlocal seconds
            # Each batch takes a second.
            seconds += hook == "training_step"
            seen.append((hook, module.current_epoch, module.global_step, module.trainer.val_check_batch))

        arguments = {**ARGUMENTS, "max_epochs": 3, "enable_checkpointing": True, "check_val_every_n_epoch": every}
        checkpoints = ModelCheckpoint("own", save_top_k=-1)
        trainer = pl.Trainer(**arguments, callbacks=[checkpoints], val_check_interval=period)
        module = Module(act)
        batches = loader()
        trainer.fit(module, batches if has_length else _Stream(batches), loader(2))
        return seen, module.state_dict(), attributes(trainer), trainer.val_check_batch, len(checkpoints.best_k_models)

    seen = compared(script)[0]
    assert any(hook == "validation_step" for hook, *_ in seen[2:]) is (period != {"minutes": 1})


@pytest.mark.parametrize("every", [1, 2, None])
def test_clock_is_read_as_often(compared: Any, monkeypatch: pytest.MonkeyPatch, every: int | None) -> None:
    """By a clock on which each look takes two seconds and a batch one."""
    seconds = 0.0

    def look() -> float:
        nonlocal seconds
        seconds += 2
        return seconds

    monkeypatch.setattr(time, "monotonic", look)

    def script() -> Any:
        validated = []

        def act(hook: str, module: Any) -> None:
            nonlocal seconds
            seconds += hook == "training_step"
            if hook == "validation_step" and not module.trainer.sanity_checking:
                validated.append(module.trainer.fit_loop.total_batch_idx)

        arguments = {**ARGUMENTS, "max_epochs": 4, "check_val_every_n_epoch": every}
        pl.Trainer(**arguments, val_check_interval="00:00:00:10").fit(Module(act), loader(), loader(2))
        return validated

    assert compared(script)


class _Stream:
    """A loader without a length."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)

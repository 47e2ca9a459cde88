"""Timer stops a training where Lightning would, before its first batch too, and its time goes on after a pause."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import Timer, timer

import lightning_shim
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.resume.conftest import checkpoints


class Clock(pl.Callback):
    """Lets a second pass with each batch."""

    def __init__(self) -> None:
        self.now = 0.0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.now += 1

    def state_dict(self) -> dict[str, Any]:
        """Says that there is nothing to be kept: a pause does not turn the clock back."""
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("seconds", [0, 1, 8, 12])
def test_stops(mocker: MockerFixture, clock: Clock, seconds: int, interval: str) -> None:
    case = Case(Regression, loaders, callbacks=lambda: [clock, Timer(timedelta(seconds=seconds), interval)])
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    assert lightning.global_step == (seconds if interval == "step" else -(-seconds // 6) * 6)
    assert_equal(lightning, determined)


def test_time_goes_on_after_a_pause(monkeypatch: pytest.MonkeyPatch, clock: Clock, tmp_path: Path) -> None:
    """A pause takes no time; what has no time left when it goes on does not train, as in Lightning."""

    def train(folder: Path, **options: Any) -> Any:
        monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(folder))
        limit = Timer(timedelta(seconds=9))
        with lightning_shim.patched():
            pl.seed_everything(7)
            trial = lightning_shim.fit(
                Regression(), **loaders(), max_length=pytorch.Epoch(3), callbacks=[clock, limit], **options
            )
        return trial.trainer.global_step, limit.time_elapsed()

    assert train(tmp_path / "whole", checkpoint_period=pytorch.Batch(1)) == (9, 9.0)
    written = checkpoints(tmp_path / "whole")
    for batches in (1, 6, 8, 9):
        clock.now += 100
        assert train(tmp_path / str(batches), latest_checkpoint=written[batches]) == (9, 9.0)


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start"])
def test_stops_before_the_first_batch(mocker: MockerFixture, hook: str) -> None:
    class StopsAtOnce(pl.Callback):
        pass

    setattr(StopsAtOnce, hook, lambda self, trainer, module, **_: setattr(trainer, "should_stop", True))
    case = Case(Regression, loaders, callbacks=lambda: [StopsAtOnce()])
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    assert lightning.global_step == 0
    assert_equal(lightning, determined)

"""A training that starts from a checkpoint of Lightning's after which there is nothing left to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import ModelCheckpoint, StochasticWeightAveraging

import lightning_shim
from lightning_shim import CheckpointError
from tests.parity.modules import Regression, StepsByHand, loaders
from tests.parity.oracle import WAYS_TO_RECORD, Case, assert_equal, run_determined, run_lightning
from tests.support.lightning_trainer import fit_by_lightning

# What saved a checkpoint is not there to continue from it.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks .*ModelCheckpoint")


class ByHand(StepsByHand, Regression):
    pass


LENGTHS: dict[str, tuple[dict[str, Any], pytorch.TrainUnit]] = {
    "epochs": ({"max_epochs": 2}, pytorch.Epoch(2)),
    "batches": ({"max_epochs": -1, "max_steps": 12}, pytorch.Batch(12)),
    "batches within an epoch": ({"max_epochs": -1, "max_steps": 8}, pytorch.Batch(8)),
}
"""By Lightning's Trainer and by Determined."""


def written(module: type, callbacks: list[Any], **length: Any) -> Path:
    """Trains a module to the end, and returns the checkpoint."""
    trainer = fit_by_lightning(pl, module(), **loaders(), callbacks=callbacks, **length)
    trainer.save_checkpoint("complete.ckpt")
    return Path("complete.ckpt")


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("module", [Regression, ByHand])
@pytest.mark.parametrize("way", WAYS_TO_RECORD)
def test_nothing_is_trained(mocker: MockerFixture, module: type, length: str, way: str) -> None:
    theirs, ours = LENGTHS[length]
    path = written(module, [], **theirs)
    case = Case(module, loaders, theirs["max_epochs"], **WAYS_TO_RECORD[way])
    steps = {"max_steps": theirs.get("max_steps", -1)}
    lightning = run_lightning(case, ckpt_path=path, **steps)
    determined = run_determined(case, mocker, ckpt_path=path, max_length=ours)
    assert_equal(lightning, determined)
    assert lightning.global_step > 0
    assert not {"on_train_start", "on_train_end", "validation_step"} & {hook for _, hook, *_ in determined.events}


def test_written_at_the_end_of_the_last_epoch(mocker: MockerFixture) -> None:
    saving = ModelCheckpoint("kept", "last", save_on_train_epoch_end=True)
    fit_by_lightning(pl, Regression(), **loaders(), max_epochs=2, callbacks=saving, enable_checkpointing=True)
    case = Case(Regression, loaders, 2)
    lightning = run_lightning(case, ckpt_path="kept/last.ckpt")
    assert_equal(lightning, run_determined(case, mocker, ckpt_path="kept/last.ckpt"))


@pytest.mark.lightning(">=2.6.1")
def test_averages_are_not_taken_over(mocker: MockerFixture) -> None:
    """StochasticWeightAveraging does it in ``on_train_end``."""
    averaging = lambda: StochasticWeightAveraging(0.04, 1)  # noqa: E731
    path = written(Regression, [averaging()], max_epochs=-1, max_steps=12)
    case = Case(Regression, loaders, -1, callbacks=lambda: [averaging()])
    lightning = run_lightning(case, ckpt_path=path, max_steps=12)
    determined = run_determined(case, mocker, ckpt_path=path, max_length=pytorch.Batch(12))
    assert_equal(lightning, determined)


@pytest.mark.usefixtures("patched")
def test_more_epochs_than_there_are_to_train() -> None:
    path = written(Regression, [], max_epochs=2)
    with pytest.raises(Exception, match=r"restored a checkpoint with current_epoch=2, but .*max_epochs=1"):
        fit_by_lightning(pl, Regression(), **loaders(), max_epochs=1, ckpt_path=path)
    with pytest.raises(CheckpointError, match=r"with current_epoch=2, but you have set .*max_epochs=1.*complete\.ckpt"):
        lightning_shim.fit(Regression(), **loaders(), max_length=pytorch.Epoch(1), ckpt_path=path)

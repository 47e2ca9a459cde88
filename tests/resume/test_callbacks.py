"""Lightning's callbacks, in trials that are continued from any of their checkpoints."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as other
import pytest
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    SpikeDetection,
)

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case
from tests.parity.test_finetuning import FINETUNING, Transfer
from tests.parity.test_weight_averaging import AVERAGING
from tests.resume.conftest import Resumes


def fresh(**options: Any) -> Any:
    """Makes a ModelCheckpoint that finds no files of others."""
    shutil.rmtree("own", ignore_errors=True)
    return ModelCheckpoint("own", save_last=True, **options)


class GoesOnAfterSpikes(SpikeDetection):
    """Keeps the batches that it finds, of which the running mean decides."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):
            super().on_train_batch_end(*arguments)


CALLBACKS: dict[str, Any] = {
    "EarlyStopping": lambda: EarlyStopping("val_loss", patience=1, min_delta=100.0),
    "GradientAccumulationScheduler": lambda: GradientAccumulationScheduler({0: 4, 1: 1, 2: 3}),
    "ModelCheckpoint": lambda: fresh(monitor="loss_epoch", save_top_k=-1),
    "ModelCheckpoint for steps": lambda: fresh(every_n_train_steps=4),
    "LearningRateMonitor": lambda: LearningRateMonitor(log_momentum=True),
    "SpikeDetection": lambda: GoesOnAfterSpikes(exclude_batches_path="own", rtol=0.1),
    **FINETUNING,
    **AVERAGING,
}


@pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist")
@pytest.mark.parametrize("name", CALLBACKS)
def test_every_checkpoint(resumes: Resumes, name: str) -> None:
    module = Transfer if name in FINETUNING else Regression
    case = Case(module, loaders, max_epochs=3, callbacks=lambda: [CALLBACKS[name]()], every_hook=False)
    # As in Lightning, a trial that has stopped early goes on if it is told to continue from its end, and the score that
    # ModelCheckpoint has seen last is not loaded.
    last = {"EarlyStopping": 11, "ModelCheckpoint": 17}.get(name)
    assert resumes.everywhere(case, last=last) == list(range(1, 13 if name == "EarlyStopping" else 19))


class Remembers(other.Callback):
    """A user's own callback, with an attribute that its checkpoint would lack."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1
        self.log("batches", float(self.batches))


def test_other_namespace(resumes: Resumes) -> None:
    def callbacks() -> list[Any]:
        shutil.rmtree("own", ignore_errors=True)
        averaging = other.callbacks.StochasticWeightAveraging(0.04, 2)
        return [Remembers(), averaging, other.callbacks.ModelCheckpoint("own", monitor="loss_epoch", save_top_k=-1)]

    case = Case(Regression, loaders, max_epochs=3, callbacks=callbacks, every_hook=False)
    resumes.everywhere(case, last=15, every_other_of=6)
    # Those of the first epochs come from Determined's checkpoint.
    assert len(list(Path("own").iterdir())) == 4

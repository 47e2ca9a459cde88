"""What the check says of the callbacks that ``configure_callbacks`` makes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import lightning.pytorch as other
import pytest
import pytorch_lightning as pl
from determined import pytorch
from pytorch_lightning import callbacks
from pytorch_lightning.callbacks import BasePredictionWriter as Writer
from pytorch_lightning.callbacks import EarlyStopping, ModelPruning

import lightning_shim
from lightning_shim.compatibility.inspection import inspect_members
from lightning_shim.compatibility.report import Role
from lightning_shim.members.member import Support
from lightning_shim.members.query import member
from tests.parity.modules import Regression, loaders
from tests.support.places import place_in

place = functools.partial(place_in, Path(__file__))


class Prunes(ModelPruning):
    pass


class LooksAtTests(other.Callback):
    """Of the other namespace than the module."""

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:  # here: hook of a callback
        print(trainer.test_loop)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch:
            print(trainer.predict_loop)  # here: use of a callback


class Configures(Regression):
    def configure_callbacks(self) -> Any:
        from pytorch_lightning.callbacks import BatchSizeFinder as Finder

        made = [EarlyStopping("val_loss"), other.callbacks.Timer(), *self.more()]  # here: stops and times
        if self.current_epoch:
            made.append(ModelPruning("l1_unstructured"))  # here: prunes
            made += [pl.callbacks.SpikeDetection(), Finder()]  # here: detects and finds
        return [*made, LooksAtTests(), *map(dict, ())]

    def more(self) -> Any:
        return [Prunes("l1_unstructured"), Writer()]  # here: more

    def elsewhere(self) -> Any:
        return callbacks.LearningRateFinder()


FOUND = {
    ("stops and times", "callbacks.EarlyStopping"),
    ("stops and times", "callbacks.Timer"),
    ("prunes", "callbacks.ModelPruning"),
    ("detects and finds", "callbacks.SpikeDetection"),
    ("detects and finds", "callbacks.BatchSizeFinder"),
    ("more", "callbacks.ModelPruning"),
    ("more", "callbacks.BasePredictionWriter"),
    ("hook of a callback", "Callback.on_test_start"),
    ("use of a callback", "Trainer.predict_loop"),
}


def test_callbacks_are_named() -> None:
    report = inspect_members(Configures)
    made = {
        (f"{finding.file}:{finding.line}", finding.member): finding
        for finding in report.findings
        if finding.role is Role.MADE
    }
    unreached = [finding for (_, name), finding in made.items() if name == "Trainer.test_loop"]
    assert [finding.support for finding in unreached] == [Support.IGNORED]
    named = {key: finding for key, finding in made.items() if finding not in unreached}
    assert named.keys() == {(place(marker), name) for marker, name in FOUND}
    for (_, name), finding in named.items():
        row = member(*name.split("."))
        assert (finding.support, finding.sentence) == (row.support, row.sentence)
    assert not report.is_supported


class Differs(Regression):
    def configure_callbacks(self) -> Any:
        return [Writer(), LooksAtTests()]


@pytest.mark.filterwarnings("always")
@pytest.mark.usefixtures("patched")
def test_a_trial_says_each_thing_once(recwarn: pytest.WarningsRecorder) -> None:
    supports = {finding.support for finding in inspect_members(Differs).findings if finding.role is Role.MADE}
    assert supports == {Support.IGNORED, Support.REFUSED}
    lightning_shim.fit(Differs(), **loaders(), max_length=pytorch.Batch(1))
    said = [
        str(warning.message) for warning in recwarn if isinstance(warning.message, lightning_shim.LightningShimWarning)
    ]
    for name in ("BasePredictionWriter", "LooksAtTests.on_test_start", "trainer.predict_loop"):
        assert len([message for message in said if message.startswith(f"{name} is ")]) == 1

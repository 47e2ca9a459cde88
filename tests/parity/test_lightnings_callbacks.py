"""Every callback of Lightning's: those that run train as without the shim, the others say why they do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning import callbacks
from pytorch_lightning.utilities.model_summary import summarize

import lightning_shim
from lightning_shim.members.member import Support
from lightning_shim.members.query import member
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, assert_same, run_determined, run_lightning


class Finetunes(callbacks.BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.layers[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.layers[0], optimizer)


class PrintsNothing(callbacks.RichModelSummary):
    """Does without rich, which the tests do not install."""

    def __init__(self) -> None:
        callbacks.ModelSummary.__init__(self)

    @staticmethod
    def summarize(*args: Any, **kwargs: Any) -> None:
        pass


class HasBackbone(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = self.layers[0]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([parameter for parameter in self.parameters() if parameter.requires_grad], lr=0.01)


MADE: dict[str, Callable[[], Any]] = {
    "BackboneFinetuning": lambda: callbacks.BackboneFinetuning(1),
    "BaseFinetuning": Finetunes,
    "BasePredictionWriter": callbacks.BasePredictionWriter,
    "EarlyStopping": lambda: callbacks.EarlyStopping("val_loss"),
    "GradientAccumulationScheduler": lambda: callbacks.GradientAccumulationScheduler({1: 2}),
    "LambdaCallback": lambda: callbacks.LambdaCallback(on_train_end=lambda trainer, module: None),
    "ModelCheckpoint": lambda: callbacks.ModelCheckpoint("own", enable_version_counter=False),
    "ModelPruning": lambda: callbacks.ModelPruning("l1_unstructured"),
    "OnExceptionCheckpoint": lambda: callbacks.OnExceptionCheckpoint("own"),
    "RichModelSummary": PrintsNothing,
    "SpikeDetection": lambda: callbacks.SpikeDetection(exclude_batches_path="own", warmup=100),
    "StochasticWeightAveraging": lambda: callbacks.StochasticWeightAveraging(0.05),
    "ThroughputMonitor": lambda: callbacks.ThroughputMonitor(len),
    "Timer": lambda: callbacks.Timer(timedelta(days=1)),
}
"""The callbacks that cannot be made without arguments, or do nothing then."""


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("name", sorted(callbacks.__all__))
def test_what_the_table_says(mocker: MockerFixture, recwarn: pytest.WarningsRecorder, name: str) -> None:
    row = member("callbacks", name)
    make = MADE.get(name, getattr(callbacks, name))
    case = Case(HasBackbone, loaders, callbacks=lambda: [make()], every_hook=False)
    if row.support is Support.REFUSED:
        with pytest.raises(lightning_shim.RefusedMemberError, match=f"{name} is refused: {row.sentence}"):
            run_determined(case, mocker)
        return
    determined = run_determined(case, mocker)
    warned = [str(warning.message) for warning in recwarn if "is ignored" in str(warning.message)]
    assert warned == ([f"{name} is ignored: {row.sentence}"] if row.support is Support.IGNORED else [])
    if row.support is Support.IGNORED:
        case.callbacks = list
    shows = issubclass(getattr(callbacks, name), callbacks.ProgressBar) and row.support is not Support.IGNORED
    saves = issubclass(getattr(callbacks, name), callbacks.Checkpoint)
    lightning = run_lightning(case, enable_checkpointing=saves, enable_progress_bar=shows)
    # There are tests of their own for the callbacks that log.
    lightning.logged = determined.logged = {}
    assert_equal(lightning, determined)


def test_summary_is_printed(caplog: pytest.LogCaptureFixture) -> None:
    module = Regression()
    with lightning_shim.patched(), caplog.at_level("INFO"):
        lightning_shim.fit(
            module, **loaders(), max_length=pytorch.Batch(1), callbacks=callbacks.ModelSummary(max_depth=2)
        )
    for layer, _ in summarize(module, max_depth=2).named_modules:
        assert layer in caplog.text
    assert "Total params" in caplog.text


def test_pruning_is_permanent_in_files(mocker: MockerFixture) -> None:
    def prune_and_save() -> list[Any]:
        shutil.rmtree("own", ignore_errors=True)
        return [callbacks.ModelPruning("l1_unstructured", amount=0.3), callbacks.ModelCheckpoint("own", save_last=True)]

    case = Case(Regression, loaders, callbacks=prune_and_save, every_hook=False)
    states = []
    for run in (lambda: run_determined(case, mocker), lambda: run_lightning(case, enable_checkpointing=True)):
        run()
        states.append(torch.load("own/last.ckpt", weights_only=False)["state_dict"])
    ours, theirs = states
    assert (ours["layers.0.weight"] == 0).sum() > 12
    assert_same(ours, theirs)

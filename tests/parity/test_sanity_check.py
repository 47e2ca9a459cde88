"""The validation that is tried before the first batch: Lightning's two batches, which leave no trace."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from torch import Tensor

import lightning_shim
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.support.refusals import train
from tests.support.tiny import loader, tiny

DEFAULT = inspect.signature(pl.Trainer).parameters["num_sanity_val_steps"].default
"""None, which stands for two batches."""


class DrawsInValidation(Regression):
    """Draws random numbers in validation, and sees that it is tried."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.stages.append(self.trainer.state.stage.value)
        self.log("val_loss", torch.rand(()) + self.trainer.sanity_checking)


@pytest.mark.parametrize("steps", [2, 1, -1])
@pytest.mark.parametrize("module", [Regression, DrawsInValidation])
def test_hooks_and_numbers_are_lightnings(mocker: MockerFixture, module: type, steps: int) -> None:
    case = Case(module, loaders, options={"num_sanity_val_steps": steps})
    lightning = run_lightning(case)
    assert_equal(lightning, run_determined(case, mocker))
    hooks = [hook for _, hook, _, _ in lightning.events]
    assert hooks.index("validation_step") < hooks.index("training_step")


@pytest.mark.usefixtures("patched")
class TestDefault:
    def test_is_lightnings(self) -> None:
        class Tries(tiny(pl)):
            def __init__(self) -> None:
                super().__init__()
                self.events: list[tuple[str, int]] = []

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.events.append(("train", batch_idx))
                return super().training_step(batch, batch_idx)

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.events.append((str(self.trainer.state.stage.value), batch_idx))

        lightnings, ours = Tries(), Tries()
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)
        trainer.fit(lightnings, loader(), loader())
        trial = train(ours, loader(), loader(), max_length=pytorch.Epoch(1))
        assert DEFAULT is None
        assert trial.trainer.num_sanity_val_steps == trainer.num_sanity_val_steps
        assert ours.events == lightnings.events
        assert ours.events[:3] == [("sanity_check", 0), ("sanity_check", 1), ("train", 0)]

    def test_error_of_validation_comes_before_training(self) -> None:
        class Fails(tiny(pl)):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                raise KeyError("labels")

        module = Fails()
        with pytest.raises(KeyError, match="labels"):
            train(module, loader(), loader())
        assert module.steps == 0

    def test_there_is_none_after_a_pause(self, tmp_path: Any) -> None:
        class Tries(tiny(pl)):
            tried = 0

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.tried += self.trainer.sanity_checking

        data = loader(), loader()
        trial = lightning_shim.fit(Tries(), *data, max_length=pytorch.Epoch(1))
        module = Tries()
        lightning_shim.fit(module, *data, max_length=pytorch.Epoch(2), latest_checkpoint=trial.checkpoint_path)
        assert (trial.module.tried, module.tried) == (2, 0)

"""What self.trainer answers: what is ignored, refused, unknown, or set."""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from determined import pytorch

import lightning_shim
from lightning_shim import ConfigurationError, IgnoredMemberWarning, LightningShimError, RefusedMemberError
from lightning_shim.members.member import Support
from lightning_shim.members.query import members
from lightning_shim.patching.attachment import FIXED, FIXED_SENTENCE
from tests.support.places import place_in
from tests.support.refusals import refuse, train, warns
from tests.support.tiny import loader, sgd, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


class TestTrainerAttribute:
    @pytest.mark.parametrize("name", [row.name for row in members("Trainer", Support.IGNORED)])
    def test_ignored(self, pl: ModuleType, name: str) -> None:
        class Module(tiny(pl)):
            def on_train_start(self) -> None:
                with warns(IgnoredMemberWarning, place("ignored attribute"), f"^trainer.{name} is ignored: "):
                    assert getattr(self.trainer, name) is None  # here: ignored attribute
                self.seen = True

        module = Module()
        train(module, loader())
        assert module.seen

    @pytest.mark.parametrize("name", ["no_such_thing", "max_epoch", "_private", "__wrapped__"])
    def test_unknown(self, pl: ModuleType, name: str) -> None:
        class Module(tiny(pl)):
            def on_train_start(self) -> None:
                assert not hasattr(self.trainer, name)
                assert getattr(self.trainer, name, "default") == "default"
                with pytest.raises(AttributeError, match=name) as caught:
                    getattr(self.trainer, name)
                assert not isinstance(caught.value, LightningShimError)
                self.seen = True

        module = Module()
        train(module, loader())
        assert module.seen

    @pytest.mark.parametrize("name", [row.name for row in members("Trainer", Support.REFUSED)])
    def test_refused(self, pl: ModuleType, name: str) -> None:
        class Module(tiny(pl)):
            def on_train_start(self) -> None:
                assert not hasattr(self.trainer, name)
                getattr(self.trainer, name)  # here: refused attribute

        (row,) = [row for row in members("Trainer") if row.name == name]
        message = refuse(RefusedMemberError, Module(), loader())
        assert message == f"{place('refused attribute')}: trainer.{name} is refused: {row.sentence}"

    def test_set(self, pl: ModuleType) -> None:
        trainer = train(tiny(pl)(), loader()).trainer
        for row in members("Trainer", Support.BACKED):
            value = getattr(trainer, row.name)
            if row.name in FIXED:
                with pytest.raises(RefusedMemberError) as caught:
                    setattr(trainer, row.name, value)
                assert str(caught.value).endswith(f": trainer.{row.name} is refused: {FIXED_SENTENCE}")
            else:
                setattr(trainer, row.name, value)
                assert getattr(trainer, row.name) is value
        for name in ("of_the_user", "test_dataloaders"):
            setattr(trainer, name, [1])
            assert getattr(trainer, name) == [1]

    def test_profiler_is_lightnings_that_does_nothing(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                with self.trainer.profiler.profile("loss"):
                    return super().training_step(batch, batch_idx)

            def on_train_end(self) -> None:
                self.trainer.profiler.describe()
                assert self.trainer.profiler.summary() == ""
                self.seen = type(self.trainer.profiler)

        module = Module()
        train(module, loader())
        assert module.seen is lightning.profilers.PassThroughProfiler

    def test_length_that_is_not_known_yet(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def configure_optimizers(self) -> Any:
                self.trainer.estimated_stepping_batches  # noqa: B018  # here: unknown length
                return sgd(self)

        with pytorch.init() as context, pytest.raises(ConfigurationError) as caught:
            lightning_shim.LightningTrial(context, Module(), train_dataloaders=loader())
        assert str(caught.value).startswith(f"{place('unknown length')}: how long Determined will train")
        assert "max_length=determined.pytorch.Epoch(n)" in str(caught.value)

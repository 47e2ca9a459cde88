"""A trial warns of what it ignores, at the user's line, and of nothing else."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from torchmetrics import MeanMetric

import lightning_shim
from lightning_shim import DifferenceWarning, IgnoredMemberWarning, StrictModeError
from lightning_shim.members.member import Kind, Support
from lightning_shim.members.query import members
from tests.support.places import place_in
from tests.support.refusals import FIT_CALL, no_warnings_of_ours, refuse, train, warns
from tests.support.tiny import loader, scheduler_of, sgd, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


IGNORED_HOOKS = [
    (row.owner, row.name)
    for owner in ("LightningModule", "LightningDataModule")
    for row in members(owner, Support.IGNORED)
    if row.kind is Kind.HOOK
]


class TestWarnings:
    def test_a_clean_module_gives_none(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def __init__(self) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.metric = MeanMetric()

            def setup(self, stage: str) -> None:
                self.print(f"stage {stage} of {self.trainer.max_epochs} epochs")

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = super().training_step(batch, batch_idx)
                self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
                self.log("learning_rate", self.optimizers().param_groups[0]["lr"])
                return {"loss": loss}

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.metric(self.layer(batch[0]).mean())
                self.log("val_mean", self.metric)
                self.log_dict({"val_count": 1.0})

            def on_validation_epoch_end(self) -> None:
                self.log("val_end", 1.0)
                assert self.trainer.world_size == 1
                assert self.trainer.sanity_checking is (self.trainer.global_step == 0)

            def configure_optimizers(self) -> Any:
                optimizer = sgd(self)
                schedulers = [scheduler_of(optimizer, interval="step", frequency=2, name="lr")]
                return [optimizer], schedulers

        class DataModule(lightning.LightningDataModule):
            def train_dataloader(self) -> Any:
                return loader(shuffle=True)

            def val_dataloader(self) -> Any:
                return loader()

        with no_warnings_of_ours():
            train(
                Module,
                datamodule=DataModule,
                max_length=pytorch.Epoch(2),
                gradient_clip_val=1.0,
                callbacks=[lightning.Callback()],
            )

    @pytest.mark.parametrize(("owner", "name"), IGNORED_HOOKS)
    def test_ignored_hook(self, pl: ModuleType, owner: str, name: str) -> None:
        def hook(self: Any, *args: Any) -> None:  # here: ignored hook
            raise AssertionError(f"{name} was called")

        methods: dict[str, Any] = {name: hook}
        if owner == "LightningDataModule":
            methods["train_dataloader"] = lambda self: loader()
        module, datamodule, train_dataloaders = tiny(pl)(), None, None
        if owner == "LightningModule":
            module, train_dataloaders = type("Overriding", (tiny(pl),), methods)(), loader()
        else:
            datamodule = type("Overriding", (pl.LightningDataModule,), methods)()
        (row,) = [row for row in members(owner) if row.name == name]
        expected = f"^Overriding.{name} is ignored: {re.escape(row.sentence)}$"
        with warns(IgnoredMemberWarning, place("ignored hook"), expected):
            train(module, train_dataloaders, datamodule=datamodule)

    def test_ignored_hook_of_a_callback(self, pl: ModuleType) -> None:
        class Overriding(pl.Callback):
            def on_test_start(self, *args: Any) -> None:  # here: ignored hook of a callback
                raise AssertionError

        with warns(IgnoredMemberWarning, place("ignored hook of a callback"), "Overriding.on_test_start is ignored: "):
            train(tiny(pl)(), loader(), callbacks=[Overriding()])

    def test_lightnings_own_callbacks_give_none(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = super().training_step(batch, batch_idx)
                self.log("loss", loss, on_epoch=True)
                return loss

        with no_warnings_of_ours():
            train(Module(), loader(), callbacks=[lightning.callbacks.EarlyStopping("loss_epoch")])

    def test_ignored_hook_in_the_other_namespace(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            @torch.no_grad()
            def test_step(self, batch: Any, batch_idx: int) -> None:  # here: decorated test_step
                raise AssertionError

        with warns(IgnoredMemberWarning, place("decorated test_step"), "Module.test_step is ignored"):
            train(Module(), loader())

    def test_strict_raises_instead(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def test_step(self, batch: Any, batch_idx: int) -> None:  # here: strict test_step
                raise AssertionError

        lightning_shim.patch(strict=True)
        message = refuse(StrictModeError, Module(), loader())
        assert message.startswith(f"{place('strict test_step')}: ")

    def test_validation_step_without_loader(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                raise AssertionError

        with warns(DifferenceWarning, FIT_CALL, "You defined a `validation_step` but have no `val_dataloader`"):
            train(Module(), loader())

    def test_validation_loader_without_step(self, lightning: ModuleType) -> None:
        with warns(DifferenceWarning, FIT_CALL, "but have no `validation_step`. Skipping val loop"):
            train(tiny(lightning)(), loader(), loader())

    def test_validation_that_is_switched_off_gives_none(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                raise AssertionError

        with no_warnings_of_ours():
            train(Module(), loader(), loader(), limit_val_batches=0)

    def test_integers_are_logged_with_a_warning(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("count", torch.tensor(3))  # here: integer tensor
                return super().training_step(batch, batch_idx)

        with warns(DifferenceWarning, place("integer tensor"), "a torch.int64 tensor is converted to torch.float32"):
            trial = train(Module(), loader(), max_length=pytorch.Batch(2), reporting_period=pytorch.Batch(1))
        assert trial.metrics["count"] == 3

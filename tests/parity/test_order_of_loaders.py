"""Loaders are requested in Lightning's order, and with its random numbers: with a sanity check validation's first."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from torch.utils.data import DataLoader, TensorDataset

import lightning_shim
from tests.support.lightning_trainer import fit_by_lightning

Events = list[tuple[Any, ...]]


def drawn(owner: Any, name: str, batches: int) -> DataLoader[Any]:
    """A loader of random samples, of which the owner notes when it was asked for."""
    owner.events.append((name, owner.trainer.sanity_checking, owner.trainer.current_epoch, float(torch.rand(()))))
    return DataLoader(TensorDataset(torch.rand(batches, 3)), shuffle=name == "train_dataloader")


class Recorder(pl.LightningModule):
    """Notes when its hooks are called, and what it computes."""

    def __init__(self, asks_early: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.events: Events = []
        self.asks_early = asks_early

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).square().mean()
        self.events.append(("training_step", float(loss.detach())))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.events.append(("validation_step", float(batch[0].sum()), float(torch.rand(()))))

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches if self.asks_early else 0
        self.events.append(("configure_optimizers", steps))
        return torch.optim.SGD(self.parameters(), 0.1)


class Loaders(Recorder):
    """Has loaders of its own."""

    def train_dataloader(self) -> Any:
        return drawn(self, "train_dataloader", 3)

    def val_dataloader(self) -> Any:
        return drawn(self, "val_dataloader", 4)


class Data(pl.LightningDataModule):
    """Has loaders that need what another method has made."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events
        self.needed = 0

    def prepare_data(self) -> None:
        self.events.append(("prepare_data", float(torch.rand(()))))

    def setup(self, stage: str) -> None:
        self.events.append(("setup", str(stage), float(torch.rand(()))))

    def train_dataloader(self) -> Any:
        self.events.append(("needs", self.needed))
        return drawn(self, "train_dataloader", 3)

    def val_dataloader(self) -> Any:
        self.needed += 1
        return drawn(self, "val_dataloader", 4)


class Watches(pl.Callback):
    """Notes the events around the sanity check."""

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.events.append("on_sanity_check_start")

    def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.events.append("on_sanity_check_end")

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.events.append("on_fit_start")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.events.append(("on_train_start", float(torch.rand(()))))


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize(
    "options", [{}, {"reload_dataloaders_every_n_epochs": 1}, {"num_sanity_val_steps": 0}], ids=str
)
@pytest.mark.parametrize("has_datamodule", [False, True])
@pytest.mark.parametrize("asks_early", [False, True])
def test_order_and_numbers(options: dict[str, Any], has_datamodule: bool, asks_early: bool) -> None:
    def made() -> tuple[Any, Any]:
        pl.seed_everything(0)
        module = (Recorder if has_datamodule else Loaders)(asks_early)
        return module, Data(module.events) if has_datamodule else None

    options = {"num_sanity_val_steps": 2, **options}
    lightnings, datamodule = made()
    fit_by_lightning(pl, lightnings, datamodule=datamodule, max_epochs=3, callbacks=[Watches()], **options)
    ours, datamodule = made()
    lightning_shim.fit(ours, datamodule=datamodule, max_length=pytorch.Epoch(3), callbacks=Watches(), **options)
    assert ours.events == lightnings.events
    names = [event[0] for event in ours.events]
    first = "train_dataloader" if asks_early or not options["num_sanity_val_steps"] else "val_dataloader"
    assert next(name for name in names if name.endswith("_dataloader")) == first

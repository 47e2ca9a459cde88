"""What the scripts of these tests train."""

from __future__ import annotations

import os
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 2
BATCHES = 4


class Lit(pl.LightningModule):
    """Returns a loss of 0.5 in each step, and takes some time for it."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(self.seconds)
        self.log("shown", float(batch_idx), prog_bar=True)
        self.log("hidden", 0.25)
        self.log("of_epoch", 0.75, on_step=False, on_epoch=True)
        self.print(f"printed in epoch {self.current_epoch}, batch {batch_idx}")
        return 0 * self.layer(batch[0]).mean() + 0.5

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(self.seconds)
        self.log("val_loss", 1.5, prog_bar=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", 2.5)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def number_of_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def loader() -> DataLoader[Any]:
    """Gives each process its BATCHES."""
    return DataLoader(TensorDataset(torch.randn(4 * BATCHES * number_of_processes(), 3)), batch_size=4)

"""The smallest module that trains, and its data and optimizers: tests derive from it what is wrong."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset


def loader(samples: int = 16, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(samples, 3)), batch_size=4, **options)


def tiny(lightning: ModuleType) -> type:
    """A class of modules that train, and count their steps; tests derive from it what is wrong."""

    class Tiny(lightning.LightningModule):
        def __init__(self, width: int = 3) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(width, 1)
            self.steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.steps += 1
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Tiny


def sgd(module: Any) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def plateau(optimizer: Any) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


def scheduler_of(optimizer: Any, **settings: Any) -> Any:
    return {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), **settings}

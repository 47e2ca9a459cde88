"""A small module and its data, for the tests to vary."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

SAMPLES = 22


def dataset(samples: int = SAMPLES, seed: int = 3) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 5, generator=generator)
    return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True) + 0.1 * torch.randn(samples, 1, generator=generator))


def loaders(**options: Any) -> dict[str, Any]:
    """Makes a shuffled training loader of six batches, the last one smaller, and a validation loader."""
    return {
        "train_dataloaders": DataLoader(dataset(), batch_size=4, shuffle=True, **options),
        "val_dataloaders": DataLoader(dataset(10, seed=4), batch_size=4, **options),
    }


class StepsByHand:
    """Trains a module that has a ``loss`` with manual optimization; comes before it among the base classes."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self: Any, batch: list[Tensor], batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class StepsWithClosure(StepsByHand):
    """Does it in a closure that the optimizer calls."""

    def training_step(self: Any, batch: list[Tensor], batch_idx: int) -> Any:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            loss = self.loss(batch)
            self.log("loss", loss)
            optimizer.zero_grad()
            self.manual_backward(loss)
            return loss

        return optimizer.step(closure=closure)


class Regression(pl.LightningModule):
    """A network with all that draws random numbers or has a mode of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)

    def loss(self, batch: list[Tensor]) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self(inputs), targets)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("plain", loss * 2)
        self.log("epoch_only", loss.detach() * 3, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log_dict({"val_loss": self.loss(batch), "val_batch": float(batch_idx)}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)

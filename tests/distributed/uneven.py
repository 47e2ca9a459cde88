"""Trains on two processes, of which the second has fewer batches: ``uneven.py FOLDER``; rank by rank, into FOLDER."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from determined import pytorch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lightning_shim
from lightning_shim import ConfigurationError
from tests.support.lightning_trainer import fit_by_lightning

RANK = int(os.environ["RANK"])
BATCHES = (5, 3)
EPOCHS = pytorch.Epoch(2)


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.ends: list[tuple[int, int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0]).square().mean()

    def on_train_epoch_end(self) -> None:
        self.ends.append((self.current_epoch, self.global_step))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def numbers(batches: int) -> torch.Tensor:
    return torch.randn(2 * batches, 3, generator=torch.Generator().manual_seed(RANK))


class Stream(IterableDataset[Any]):
    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return zip(numbers(max(BATCHES))[: 2 * self.batches], strict=True)


def mapped(batches: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(numbers(max(BATCHES))[: 2 * batches]), batch_size=2)


def streamed(batches: int) -> DataLoader[Any]:
    return DataLoader(Stream(batches), batch_size=2)


def train(loader: DataLoader[Any], length: pytorch.TrainUnit = EPOCHS, **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"max_length": length, "checkpoint_policy": "none", "use_distributed_sampler": False}
    trial = lightning_shim.fit(Module, loader, seed=0, **settings, **options)
    return {"weights": trial.module.state_dict(), "ends": trial.module.ends}


def train_with_lightning(loader: DataLoader[Any]) -> dict[str, Any]:
    pl.seed_everything(0)
    module = Module()
    options = {"strategy": "ddp", "devices": 2, "max_epochs": EPOCHS.value, "use_distributed_sampler": False}
    fit_by_lightning(pl, module, loader, **options)
    return {"weights": module.state_dict(), "ends": module.ends}


def refuse(loader: Any) -> str:
    try:
        train(loader)
    except ConfigurationError as error:
        return str(error)
    return "nothing was refused"


if __name__ == "__main__":
    torch.set_num_threads(1)
    lightning_shim.patch()
    own = BATCHES[RANK]
    found: dict[str, Any] = {
        "refused": refuse(mapped(own)),
        "without a length": refuse(mapped(own) if RANK == 0 else streamed(own)),
        "cut": train(mapped(own), cut_to_shortest_rank=True),
        "agreed": train(streamed(own), pytorch.Batch(6), cut_to_shortest_rank=True),
        "partly agreed": train(
            streamed(own) if RANK == 0 else mapped(own), pytorch.Batch(6), cut_to_shortest_rank=True
        ),
    }
    # Last, since Lightning leaves its processes connected.
    found["expected"] = train_with_lightning(mapped(min(BATCHES)))
    torch.save(found, f"{sys.argv[1]}.{RANK}")
